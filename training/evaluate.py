"""`touchline evaluate`: how good predictions are, by SoccerNet's own metric.

In: `results_spotting.json` and `Labels-v2.json`, two files or two SoccerNet trees. Out: on stdout a table, or one JSON
object with the SoccerNet package's keys; on stderr what was left out.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from engines.errors import DataError, UsageError
from training.data.results import HALVES, LABELS_NAME, RESULTS_NAME, find_matches, read_predictions, read_truth
from training.metric import TOLERANCES_S, MapResult, average_map

_NAMED = 5  # matches or labels named in a note before "and … more"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    tree = "<league>/<season>/<match>"
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS",
        help=f"a {RESULTS_NAME}, or a folder with {tree}/{RESULTS_NAME}",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="LABELS",
        help=f"a {LABELS_NAME}, or a folder with {tree}/{LABELS_NAME}",
    )
    parser.add_argument(
        "--metric",
        choices=list(TOLERANCES_S),
        default="tight",
        help="tolerances averaged over: tight is 1 to 5 s, loose 5 to 60 s, atN one of N s, all full widths "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with the SoccerNet package's keys")


def run(args: argparse.Namespace) -> int:
    """Print the Average-mAP of the predictions.

    Raises:
        UsageError: one of the two is a file and the other a folder.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    result = evaluate(args.predictions, args.labels, args.metric)
    if args.json:
        print(json.dumps({"metric": result.metric, "labels": result.labels} | result.as_soccernet()))
    else:
        Console().print(_table(result))
    return 0


def evaluate(predictions: Path, labels: Path, metric: str = "tight") -> MapResult:
    """Return the Average-mAP of all matches together, and say on stderr what was left out.

    Args:
        predictions: a results file, or a folder of them.
        labels: a labels file, or a folder of them; a match without results is left out (the SoccerNet package stops
            at one), so that a part of a data set can be judged.
        metric: a key of `training.metric.TOLERANCES_S`.

    Raises:
        UsageError: one of the two is a file and the other a folder, or there is no such metric.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    truths, found = [], []
    unknown_actions: Counter[str] = Counter()
    unknown_predictions: Counter[str] = Counter()
    try:
        pairs = _pairs(predictions, labels)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be looked at: {error.strerror}; give another path.") from error
    for results_path, labels_path in pairs:
        truth, unknown = read_truth(labels_path)
        unknown_actions += unknown
        prediction, unknown = read_predictions(results_path)
        unknown_predictions += unknown
        truths += [truth[half] for half in HALVES]
        found += [prediction[half] for half in HALVES]
    for what, unknown in (("actions", unknown_actions), ("predictions", unknown_predictions)):
        if unknown:
            _note(f"left out {unknown.total()} {what} of labels that SoccerNet-v2 does not have: {_some(unknown)}")
    return average_map(truths, found, metric)


def _pairs(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Return results file and labels file of each match."""
    for path in (predictions, labels):
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; give one that exists.")
    if predictions.is_dir() != labels.is_dir():
        file, folder = (labels, predictions) if predictions.is_dir() else (predictions, labels)
        raise UsageError(f"{file} is a file, but {folder} is a folder; give two files or two folders.")
    if not predictions.is_dir():
        return [(predictions, labels)]
    labelled, predicted = find_matches(labels, LABELS_NAME), find_matches(predictions, RESULTS_NAME)
    for root, name, matches in ((labels, LABELS_NAME, labelled), (predictions, RESULTS_NAME, predicted)):
        if not matches:
            raise DataError(f"{root}: holds no <league>/<season>/<match>/{name}; give the folder above the leagues.")
    both = sorted(set(labelled) & set(predicted))
    if not both:
        raise DataError(f"{predictions}: has results for none of the matches in {labels}; name the folders alike.")
    for lacking, found in (("results", labelled), ("labels", predicted)):
        alone = set(found) - set(both)
        if alone:
            _note(f"left out {len(alone)} of {len(found)} matches, which have no {lacking}: {_some(alone)}")
    return [(predictions / match / RESULTS_NAME, labels / match / LABELS_NAME) for match in both]


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _table(result: MapResult) -> Table:
    """Return the result by label; AP (average precision) stands only where there is an action to find."""
    tolerances = TOLERANCES_S[result.metric]
    span = f"{tolerances[0]} to {tolerances[-1]} s" if len(tolerances) > 1 else f"{tolerances[0]} s"
    table = Table(title=f"Average-mAP {result.metric} (tolerance {span}, full width), in percent", box=box.SIMPLE_HEAD)
    if len(tolerances) > 1:
        table.caption = "SoccerNet multiplies its unshown average by 17/13."
    table.add_column("label")
    for heading in ("AP", "AP visible", "AP unshown", "actions"):
        table.add_column(heading, justify="right")
    parts = (result.overall, result.visible, result.unshown)
    unshown_actions = [n - shown for n, shown in zip(result.actions, result.visible_actions, strict=True)]
    columns = [
        _percents(part.per_label, counts)
        for part, counts in zip(parts, (result.actions, result.visible_actions, unshown_actions), strict=True)
    ]
    for row in zip(result.labels, *columns, map(str, result.actions), strict=True):
        table.add_row(*row)
    table.add_section()
    total = str(sum(result.actions))
    table.add_row(f"average of all {len(result.labels)}", *(f"{100 * part.mean:.2f}" for part in parts), total)
    occurring = sum(count > 0 for count in result.actions)
    table.add_row(f"average of the {occurring} occurring", f"{100 * result.occurring_mean:.2f}", "", "", total)
    return table


def _percents(values: Sequence[float], counts: Sequence[int]) -> list[str]:
    return [f"{100 * value:.2f}" if count else "-" for value, count in zip(values, counts, strict=True)]
