"""`touchline train`: a recipe and labelled matches in, a bundle with its measured scores out.

The same recipe, data and machine give the same bundle: every draw comes from the recipe's seed.
"""

import argparse
import hashlib
import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engines.bundle import open_bundle, write_manifest
from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.data.clips import ClipSampler
from training.data.soccernet import Half, halves_of, load_half, read_split
from training.export import write_bundle
from training.measure import FLOOR, report, truth_and_predictions, with_threshold
from training.memory import keep_freed_memory
from training.models.spotter import DemoNet
from training.recipes import RECIPES
from training.recipes.demo import Recipe
from training.scoring import measure, score
from training.tune import choose

log = logging.getLogger("touchline.training")

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Train a recipe on matches in SoccerNet's folder layout, choose its settings on the valid split, export it and "
        "measure it. DATA holds train.txt, valid.txt and test.txt (one match folder a line) and the matches."
    )
    parser.epilog = "example: touchline train demo --data DATA --out bundles/demo"
    parser.add_argument("recipe", choices=sorted(RECIPES), help="which recipe")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="root of the labelled matches")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the bundle goes")
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), metavar="DIR", help="decoded pictures (default cache)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="fewer steps than the recipe's, for a trial")


def run(args: argparse.Namespace) -> int:
    """Train, choose, export, measure."""
    recipe = RECIPES[args.recipe]()
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    if not args.data.is_dir():
        raise UsageError(f"{args.data}: there is no such folder of matches.")
    console = Console(stderr=True)
    prepare_torch(recipe)
    splits = {split: load_split(args.data, split, recipe, args.cache, console) for split in ("train", "valid", "test")}
    net, history = fit(recipe, splits["train"], splits["valid"], console)
    choice = choose([score(net, half) for half in splits["valid"]], SOCCERNET_LABELS)
    provenance = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "data": {split: data_digest(halves) for split, halves in splits.items()},
        "seed": recipe.seed,
        "code": code_version(),
        "torch": torch.__version__,
        "history": history,
    }
    manifest = write_bundle(net, args.out, choice, provenance)
    bundle = with_threshold(open_bundle(args.out), FLOOR)
    with _progress(console) as progress:
        measured = {
            split: report(*truth_and_predictions(bundle, args.data, read_split(args.data, split)), manifest.labels)
            for split in progress.track(("valid", "test"), description="measuring")
        }
    write_manifest(args.out, manifest.model_copy(update={"measured": measured}))
    console.print_json(json.dumps(measured["test"]))
    console.print(f"bundle {manifest.name} is in {args.out}")
    return 0


def prepare_torch(recipe: Recipe) -> None:
    """Make runs repeatable and quick on few cores."""
    keep_freed_memory()
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a third
    torch.manual_seed(recipe.seed)


def load_split(root: Path, split: str, recipe: Recipe, cache: Path, console: Console) -> list[Half]:
    """Return all halves of a split, decoding what is not cached yet."""
    wanted = halves_of(root, read_split(root, split))
    with _progress(console) as progress:
        return [
            load_half(root, match, half, recipe.pictures, cache)
            for match, half in progress.track(wanted, description=f"decoding {split}")
        ]


def fit(
    recipe: Recipe, train: Sequence[Half], valid: Sequence[Half], console: Console
) -> tuple[DemoNet, list[dict[str, float]]]:
    """Return the averaged network after the recipe's steps, and its progress on the valid split."""
    net = DemoNet(recipe)
    net.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from the stubs
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=_ema(recipe.ema_decay), use_buffers=True)
    averaged = cast(DemoNet, average.module)
    optimizer = _optimizer(net, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=recipe.steps, pct_start=recipe.warm_up
    )
    clips = ClipSampler(
        train,
        SOCCERNET_LABELS,
        clips=recipe.clips,
        clip_s=recipe.clip_s,
        reach_s=recipe.target_reach_s,
        audio_dropped=recipe.audio_dropped,
        video_dropped=recipe.video_dropped,
        seed=recipe.seed,
    )
    history: list[dict[str, float]] = []
    with _progress(console) as progress:
        task = progress.add_task("training", total=recipe.steps)
        smooth = 0.0
        for step in range(1, recipe.steps + 1):
            net.train()
            loss, parts = net.loss(clips.batch())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            smooth += (parts["spotting"] - smooth) * max(0.02, 1 / step)
            progress.update(task, advance=1, description=f"training, loss {smooth:.4f}")
            if step % recipe.validate_every == 0 or step == recipe.steps:
                result = measure([score(averaged, half) for half in valid], SOCCERNET_LABELS, _RADII)
                history.append({"step": step, "loss": round(smooth, 5), "valid_tight": round(result.overall.mean, 5)})
                log.info("step %d: loss %.4f, valid tight a-mAP %.3f", step, smooth, result.overall.mean)
    return averaged.eval(), history


_RADII = dict.fromkeys(SOCCERNET_LABELS, 2.0)


def _optimizer(net: DemoNet, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW: the transformer learns more slowly than the convolutions, and only matrices decay."""
    groups = []
    for in_head, rate in ((False, recipe.learning_rate), (True, recipe.head_learning_rate)):
        own = [p for name, p in net.named_parameters() if name.startswith("head.") == in_head]
        groups.append({"params": [p for p in own if p.ndim > 1], "lr": rate, "weight_decay": recipe.weight_decay})
        groups.append({"params": [p for p in own if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups)


def _ema(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Return a moving average that forgets the first steps quickly."""

    @torch.no_grad()
    def update(averages: Tensors, currents: Tensors, steps: torch.Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for mean, current in zip(averages, currents, strict=True):
            if mean.is_floating_point():
                mean.lerp_(current, share)
            else:
                mean.copy_(current)

    return update


def data_digest(halves: Sequence[Half]) -> str:
    """Return a digest of what a split held: matches, lengths and actions."""
    content = [[h.match, h.half, h.seconds, [asdict(a) for a in h.actions]] for h in halves]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def code_version() -> str:
    """Return the commit this runs from, or "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
