"""`touchline export`: a training run's checkpoint in, a bundle with its measured scores out."""

import argparse
from pathlib import Path

from rich.console import Console

from engines.errors import DataError
from training.checkpoint import load_weights, read_checkpoint
from training.fit import prepare_torch
from training.recipes import RECIPES
from training.train import (
    add_data_arguments,
    check_data,
    check_look_ahead,
    check_out,
    origin,
    provenance,
    say,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Make a bundle of a checkpoint of touchline train: its settings are chosen on the valid split of DATA, and it "
        "is measured there, as at the end of a training."
    )
    parser.epilog = "example: touchline export bundles/demo.run/best.ckpt --data DATA --out bundles/best"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="last.ckpt or best.ckpt of a run")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, choose, export, measure."""
    name, options = origin(args.checkpoint)
    if name not in RECIPES:
        raise DataError(f"{args.checkpoint} is of the recipe {name}, which this version of touchline does not have.")
    check_data(args.data)
    check_out(args.out, args.front_ends)
    options = options.exported_with(args.front_ends, args.look_ahead)
    recipe = RECIPES[name]()
    check_look_ahead(recipe, options)
    training = options.applied(recipe.training)
    console = Console(stderr=True)
    prepare_torch(training)
    task = recipe.prepare(args.data, args.cache, console, options)
    state = read_checkpoint(args.checkpoint)
    load_weights(task.net, state, args.checkpoint)
    manifest = recipe.write(task, task.net.eval(), args.out, provenance(name, options, training, state["history"]))
    say(console, manifest, args.out)
    return 0
