"""`touchline evaluate`: how good predictions are, by SoccerNet's own metric, and how good under a deadline.

In: `results_spotting.json` and `Labels-v2.json`, two files or two SoccerNet trees, the results' one also as the zip
that SoccerNet's challenge takes; for deadlines the words of `touchline replay` or `watch --json` in place of results.
Out: on stdout a table, or one JSON object with the SoccerNet package's keys; on stderr what was left out; a picture,
if asked for.
"""

import argparse
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich import box
from rich.console import Console
from rich.table import Table

from engines.errors import DataError, UsageError
from training import deadline_report
from training.data.results import (
    HALVES,
    LABELS_NAME,
    RESULTS_NAME,
    Clock,
    Predictions,
    Truth,
    find_matches,
    read_predictions,
    read_truth,
)
from training.data.words import WORDS_NAME, History, SaidClock, read_words
from training.metric import TOLERANCES_S, MapResult, average_map, curves

_NAMED = 5  # matches or labels named in a note before "and … more"


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What happened in a match and what was predicted, by half.

    Attributes:
        name: `<league>/<season>/<match>`, or the folder of a single file.
        truth: by half, 1 and 2.
        predictions: by half, 1 and 2.
    """

    name: str
    truth: Mapping[int, Truth]
    predictions: Mapping[int, Predictions]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    tree = "<league>/<season>/<match>"
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS",
        help=f"a {RESULTS_NAME}, or a folder (or a zip of one) with {tree}/{RESULTS_NAME}; or words, which --deadlines "
        f"needs: a .jsonl of what touchline replay or watch --json prints; with --deadlines also a folder with {tree}/"
        f"{WORDS_NAME}",
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
        help="tolerances averaged over: tight is 1 to 5 s, loose 5 to 60 s, atN one of N s, all full widths "
        "(default: tight; --deadlines gives tight and loose)",
    )
    parser.add_argument(
        "--corrected",
        action="store_true",
        help="mend the metric's mistakes: the best prediction of a cell counts, labels without an action do not, no "
        "17/13; not for comparing with published figures",
    )
    parser.add_argument(
        "--clock",
        choices=get_args(Clock),
        default="position",
        help="where an action's time is read; gameTime has whole seconds, which CALF's and HMTAS's own evaluations "
        "read (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object, with the SoccerNet package's keys; with --deadlines all of its figures",
    )
    live = parser.add_argument_group("deadlines")
    live.add_argument(
        "--deadlines",
        action="store_true",
        help="how good the spots are that were confirmed within 1, 2, … 64 s of their action: A(D), and its share of "
        "what no deadline gives; when spots were said; what provisional words are worth",
    )
    live.add_argument(
        "--said",
        choices=get_args(SaidClock),
        help="when a word was said: by media time alone, which is exact and equal on every machine, or with the wall "
        "clock that compute and, as watch --json tells it, publish took, of a stream at its own pace (default: media)",
    )
    plot = parser.add_argument_group("picture")
    plot.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png|svg",
        help="draw each label's AP and a match's timeline; with --deadlines A(D)",
    )
    plot.add_argument("--match", metavar="NAME", help="the match to draw, or a part of its name (default: the first)")
    plot.add_argument("--half", type=int, choices=HALVES, help="the half to draw (default: both)")
    plot.add_argument(
        "--scores",
        type=Path,
        metavar="FILE.npz",
        help='draw scores too, from touchline spot --scores: arrays "1" and "2" (T, C), "rate" (rows a second, else 1) '
        'and "row_time_s" (when in a row they are for, else its middle)',
    )


def run(args: argparse.Namespace) -> int:
    """Print the Average-mAP of the predictions, or their accuracy under deadlines, and draw it if asked to.

    Raises:
        UsageError: one of the two is a file and the other a folder; there is no such match; the picture cannot be
            drawn; options do not go together.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    if args.deadlines:
        return _run_deadlines(args)
    if args.said is not None:
        raise UsageError("--said is the clock of words; add --deadlines.")
    if args.plot is None and (args.match or args.half or args.scores):
        raise UsageError("--match, --half and --scores say what to draw; add --plot FILE.")
    matches = read_matches(args.predictions, args.labels, args.clock)
    result = judge(matches, args.metric or "tight", args.corrected)
    if args.plot is not None:
        _plot(args, matches, result)
    if args.json:
        print(json.dumps(_as_json(result)))
    else:
        Console().print(_table(result))
    return 0


def _run_deadlines(args: argparse.Namespace) -> int:
    stray = [f"--{name}" for name in ("metric", "corrected", "match", "half", "scores") if getattr(args, name)]
    if stray:
        raise UsageError(f"--deadlines judges every half by SoccerNet's tight and loose; leave out {', '.join(stray)}.")
    truths, histories = read_histories(args.predictions, args.labels, args.clock, args.said or "media")
    report = deadline_report.judge(truths, histories, args.said or "media")
    if args.plot is not None:
        from training import deadline_plot

        deadline_plot.draw(args.plot, report)
    if args.json:
        print(json.dumps(deadline_report.as_json(report)))
    else:
        deadline_report.show(report, Console())
    return 0


def _plot(args: argparse.Namespace, matches: Sequence[Match], result: MapResult) -> None:
    from training import plots

    chosen = _chosen(matches, args.match)
    scores = plots.read_scores(args.scores, len(result.labels)) if args.scores else {}
    truths, found = _halves(matches)
    curve, _, _ = curves(truths, found, TOLERANCES_S[result.metric][-1], result.labels, corrected=result.corrected)
    timelines = [
        plots.Timeline(f"{chosen.name}, half {half}", chosen.truth[half], chosen.predictions[half], scores.get(half))
        for half in HALVES
        if args.half in (None, half)
    ]
    plots.draw(args.plot, result, curve, timelines)


def evaluate(predictions: Path, labels: Path, metric: str = "tight") -> MapResult:
    """Return the Average-mAP of all matches together, and say on stderr what was left out.

    Args:
        predictions: as for `read_matches`.
        labels: as for `read_matches`.
        metric: a key of `training.metric.TOLERANCES_S`.

    Raises:
        UsageError: one of the two is a file and the other a folder, or there is no such metric.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    return judge(read_matches(predictions, labels), metric)


def judge(matches: Sequence[Match], metric: str = "tight", corrected: bool = False) -> MapResult:
    """Return the Average-mAP of all matches together; see `training.metric.average_map`."""
    truths, predictions = _halves(matches)
    return average_map(truths, predictions, metric, corrected=corrected)


def read_matches(predictions: Path, labels: Path, clock: Clock = "position") -> list[Match]:
    """Return all matches that have both, and say on stderr what was left out.

    Args:
        predictions: a results file, or a folder or zip of them; or one file of words (.jsonl).
        labels: a labels file, or a folder of them; a match without results is left out (the SoccerNet package stops
            at one), so that a part of a data set can be judged.
        clock: where an action's time is read.

    Raises:
        UsageError: one of the two is a file and the other a folder.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    matches = []
    unknown_actions: Counter[str] = Counter()
    unknown_predictions: Counter[str] = Counter()
    for name in _names(predictions, labels, RESULTS_NAME):
        truth, unknown = read_truth(labels / name / LABELS_NAME if name else labels, clock=clock)
        unknown_actions += unknown
        zipped = name if predictions.is_file() and name else None
        results = predictions / name / RESULTS_NAME if name and not zipped else predictions
        found, unknown = _read_words(results) if results.suffix == ".jsonl" else read_predictions(results, match=zipped)
        unknown_predictions += unknown
        matches.append(Match(name or labels.absolute().parent.name, truth, found))
    _note_unknown(actions=unknown_actions, predictions=unknown_predictions)
    return matches


def _read_words(path: Path) -> tuple[dict[int, Predictions], Counter[str]]:
    """Return what stood at the end of a file of words."""
    histories, unknown = read_words(path)
    return {half: history.said.final for half, history in histories.items()}, unknown


def read_histories(
    words: Path, labels: Path, clock: Clock = "position", said: SaidClock = "media"
) -> tuple[list[Truth], list[History]]:
    """Return what happened and what was said when in all halves that have both, and say on stderr what was left out.

    Args:
        words: a file of JSON lines, or a folder of them.
        labels: as for `read_matches`.
        clock: as there.
        said: which clock says when a word was said.

    Raises:
        UsageError: one of the two is a file and the other a folder.
        DataError: a file is missing or cannot be read, or no match has both.
    """
    truths, histories = [], []
    unknown_actions: Counter[str] = Counter()
    unknown_spots: Counter[str] = Counter()
    for name in _names(words, labels, WORDS_NAME):
        truth, unknown = read_truth(labels / name / LABELS_NAME if name else labels, clock=clock)
        unknown_actions += unknown
        found, unknown = read_words(words / name / WORDS_NAME if name else words, clock=said)
        unknown_spots += unknown
        truths += [truth[half] for half in HALVES]
        histories += [found[half] for half in HALVES]
    _note_unknown(actions=unknown_actions, spots=unknown_spots)
    return truths, histories


def _names(predictions: Path, labels: Path, predictions_name: str) -> list[str]:
    """Return the names of the matches that have both; one empty name if both are single files."""
    try:
        if _are_folders(predictions, labels, predictions_name):
            return _in_both(predictions, labels, predictions_name)
        return [""]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be looked at: {error.strerror}; give another path.") from error


def _are_folders(predictions: Path, labels: Path, predictions_name: str) -> bool:
    """Return whether both are folders, or a zip of one, rather than single files."""
    for path in (predictions, labels):
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; give one that exists.")
    many = predictions.is_dir() or (predictions_name == RESULTS_NAME and zipfile.is_zipfile(predictions))
    if many != labels.is_dir():
        file, folder = (labels, predictions) if many else (predictions, labels)
        kind = "folder" if folder.is_dir() else "zip"
        raise UsageError(f"{file} is a file, but {folder} is a {kind}; give two files or two folders.")
    return many


def _in_both(predictions: Path, labels: Path, predictions_name: str) -> list[str]:
    """Return the names of the matches that both folders have."""
    labelled, predicted = find_matches(labels, LABELS_NAME), find_matches(predictions, predictions_name)
    if predictions_name == WORDS_NAME and not predicted and find_matches(predictions, RESULTS_NAME):
        raise DataError(
            f"{predictions}: its {RESULTS_NAME} do not say when spots were said; give <league>/<season>/<match>/"
            f"{WORDS_NAME}, the JSON lines of touchline replay or watch --json."
        )
    for root, name, matches in ((labels, LABELS_NAME, labelled), (predictions, predictions_name, predicted)):
        if not matches:
            raise DataError(f"{root}: holds no <league>/<season>/<match>/{name}; give the folder above the leagues.")
    both = sorted(set(labelled) & set(predicted))
    if not both:
        raise DataError(f"{predictions}: has results for none of the matches in {labels}; name the folders alike.")
    for lacking, found in (("results", labelled), ("labels", predicted)):
        alone = set(found) - set(both)
        if alone:
            _note(f"left out {len(alone)} of {len(found)} matches, which have no {lacking}: {_some(alone)}")
    return both


def _halves(matches: Sequence[Match]) -> tuple[list[Truth], list[Predictions]]:
    """Return actions and predictions of all halves, in order."""
    truths = [match.truth[half] for match in matches for half in HALVES]
    return truths, [match.predictions[half] for match in matches for half in HALVES]


def _chosen(matches: Sequence[Match], name: str | None) -> Match:
    """Return the match of that name, or the only one whose name holds it; the first if there is no name."""
    if name is None:
        return matches[0]
    found = [match for match in matches if match.name == name] or [match for match in matches if name in match.name]
    if len(found) != 1:
        among = _some(match.name for match in found or matches)
        raise UsageError(f"{len(found)} matches are named {name!r}; choose one with --match, of {among}.")
    return found[0]


def _as_json(result: MapResult) -> dict[str, object]:
    found: dict[str, object] = {"metric": result.metric, "labels": result.labels, **result.as_soccernet()}
    return found | {"corrected": True, "labels_without_action": result.absent} if result.corrected else found


def _note_unknown(**left_out: Counter[str]) -> None:
    for what, unknown in left_out.items():
        if unknown:
            _note(f"left out {unknown.total()} {what} of labels that SoccerNet-v2 does not have: {_some(unknown)}")


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
    table.caption = _caption(result)
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
    means = [f"{100 * part.mean:.2f}" for part in parts]
    occurring = f"average of the {len(result.labels) - len(result.absent)} occurring"
    if result.corrected:
        table.add_row(occurring, *means, total)
    else:
        table.add_row(f"average of all {len(result.labels)}", *means, total)
        table.add_row(occurring, f"{100 * result.occurring_mean:.2f}", "", "", total)
    return table


def _caption(result: MapResult) -> str | None:
    if result.corrected:
        return f"Corrected, not SoccerNet's. Never happens: {', '.join(result.absent) or 'none'}."
    return "SoccerNet multiplies its unshown average by 17/13." if len(TOLERANCES_S[result.metric]) > 1 else None


def _percents(values: Sequence[float], counts: Sequence[int]) -> list[str]:
    return [f"{100 * value:.2f}" if count else "-" for value, count in zip(values, counts, strict=True)]
