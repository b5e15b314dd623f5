"""`touchline train`: a recipe and labelled matches in, a bundle with its measured scores out.

The same recipe, data and machine give the same bundle: every draw comes from the recipe's seed.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from engines.bundle import Manifest
from engines.errors import DataError, UsageError
from training.checkpoint import read_checkpoint
from training.fabric import FabricOptions
from training.fit import LAST, Training, fit, prepare_torch
from training.recipes import RECIPES, Options, Recipe
from training.recipes.live import RowRecipe

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Train a recipe on matches in SoccerNet's folder layout, choose its settings on the valid split, export it and "
        "measure it. DATA holds train.txt, valid.txt and test.txt (one match folder a line) and the matches, with "
        "videos or feature files as the recipe needs. A run that was stopped goes on with --resume."
    )
    parser.epilog = "example: touchline train demo --data DATA --out bundles/demo"
    parser.add_argument("recipe", choices=sorted(RECIPES), metavar="RECIPE", help="which recipe; --list names them")
    parser.add_argument("--list", action=_List, help="print the recipes, and end")
    add_data_arguments(parser)
    parser.add_argument(
        "--run",
        type=Path,
        dest="folder",  # `run` is the command's function
        metavar="DIR",
        help="where checkpoints and curves go (default: the bundle's folder + .run)",
    )
    parser.add_argument(
        "--decide-as",
        type=Path,
        metavar="BUNDLE",
        help="train on every labelled match, valid and test too (the thesis's protocol P2, for the challenge), for as "
        "long as the recipe or --epochs says, and decide as this bundle, which was chosen on matches held out",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_count, metavar="N", help="train so many epochs, not the recipe's")
    length.add_argument("--steps", type=_count, metavar="N", help="train so many steps, say for a trial")
    parser.add_argument("--seed", type=_seed, metavar="N", help="another seed than the recipe's")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="auto", help="what to run on (default auto)")
    parser.add_argument("--devices", type=_count, default=1, metavar="N", help="how many of them (default 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true", help="of the network (default 32-true)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that makes a bundle from matches needs."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="root of the labelled matches")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the bundle goes")
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), metavar="DIR", help="decoded pictures (default cache)"
    )
    parser.add_argument(
        "--front-ends",
        type=Path,
        metavar="DIR",
        help="the bundle that made the feature files (touchline embed): with its front ends the new one watches videos",
    )
    parser.add_argument(
        "--look-ahead",
        type=_spans,
        metavar="S[,S…]",
        help="which look-aheads the bundle has, of those that its recipe is trained for (the …-live recipes)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, choose, export, measure."""
    recipe = RECIPES[args.recipe]()
    check_data(args.data)
    check_out(args.out, args.front_ends)
    folder = args.folder or args.out.with_name(args.out.name + ".run")
    options = Options(args.epochs, args.steps, args.seed, args.front_ends, args.decide_as, args.look_ahead)
    check_look_ahead(recipe, options)
    if args.resume:
        options = resumed(folder / LAST, recipe.name, options)
    training = options.applied(recipe.training)
    console = Console(stderr=True)
    prepare_torch(training)
    task = recipe.prepare(args.data, args.cache, console, options)
    fitted = fit(
        task,
        training,
        folder,
        fabric_options=FabricOptions(args.accelerator, args.devices, args.precision),
        resume=args.resume,
        console=console,
        about={"recipe": recipe.name, "options": options.plain()},
    )
    if fitted.rank == 0:
        manifest = recipe.write(task, fitted.net, args.out, provenance(recipe.name, options, training, fitted.history))
        say(console, manifest, args.out)
    return 0


def resumed(path: Path, recipe: str, options: Options) -> Options:
    """Return the options of the run that a checkpoint is of.

    Raises:
        UsageError: there is no checkpoint, it is another recipe's, or the run began with other options.
        DataError: it is damaged.
    """
    name, begun = origin(path)
    if name != recipe:
        raise UsageError(f"{path} is a run of the recipe {name}, not of {recipe}.")
    for key in ("epochs", "steps", "seed"):
        wanted, had = getattr(options, key), getattr(begun, key)
        if wanted is not None and wanted != had:
            raise UsageError(
                f"{path} began with {f'--{key} {had}' if had is not None else f'no --{key}'}: resume it without "
                f"--{key}, or begin a run in another folder (--run)."
            )
    return begun.exported_with(options.front_ends, options.look_ahead)


def origin(path: Path) -> tuple[str, Options]:
    """Return which recipe a checkpoint is of, and the options it began with.

    Raises:
        UsageError: there is no checkpoint.
        DataError: it is damaged, or no recipe's.
    """
    about = read_checkpoint(path)["about"]
    try:
        return str(about["recipe"]), Options.of(about["options"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: the checkpoint does not say which recipe it is of.") from error


def check_out(out: Path, front_ends: Path | None) -> None:
    """Refuse, before hours of training, a place where the bundle cannot be written."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; give a folder for the bundle.")
    if front_ends is not None and out.resolve() == front_ends.resolve():
        raise UsageError(f"{out}: is the bundle that the front ends come from; give the new one a folder of its own.")


def check_data(data: Path) -> None:
    """Make sure that the folder is there.

    Raises:
        UsageError: it is not.
    """
    if not data.is_dir():
        raise UsageError(f"{data}: there is no such folder of matches.")


def check_look_ahead(recipe: Recipe, options: Options) -> None:
    """Refuse a choice of look-aheads that the recipe does not have.

    Raises:
        UsageError: naming those it has, or the recipes that have a choice.
    """
    if isinstance(recipe, RowRecipe):
        recipe.exporting(options.look_ahead)
    elif options.look_ahead is not None:
        others = ", ".join(sorted(name for name, make in RECIPES.items() if isinstance(make(), RowRecipe)))
        raise UsageError(
            f"The recipe {recipe.name} has one look-ahead: leave --look-ahead out; a choice have {others}."
        )


def provenance(
    recipe: str, options: Options, training: Training, history: Sequence[dict[str, float]]
) -> dict[str, object]:
    """Return what a bundle keeps of how it was made."""
    return {
        "recipe": recipe,
        "options": options.plain(),
        "training": asdict(training),
        "seed": training.seed,
        "code": code_version(),
        "torch": torch.__version__,
        "history": [{key: round(value, 5) for key, value in entry.items()} for entry in history],
    }


def say(console: Console, manifest: Manifest, out: Path) -> None:
    """Print what the bundle measured on the test split, and where it is."""
    console.print_json(json.dumps(manifest.measured.get("test", {})))
    console.print(f"bundle {manifest.name} is in {out}")


def code_version() -> str:
    """Return the commit this runs from, or "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


class _List(argparse.Action):
    """Print the recipes and end, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        table = Table("recipe", "what it is", box=None)
        for name, recipe in sorted(RECIPES.items()):
            table.add_row(name, recipe().summary)
        Console().print(table)
        parser.exit()


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: a seed lies between 0 and {2**32 - 1}")
    return value


def _spans(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: seconds are needed, separated by commas") from None
