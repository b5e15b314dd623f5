"""`touchline tune`: what a bundle decides with, chosen again on one's own matches, under the rule that will run."""

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.actions import Action, read_actions
from engines.bundle import MANIFEST, Bundle, Decision, Manifest, open_bundle, read_manifest, write_manifest
from engines.errors import DataError, UsageError
from engines.frontend import Embeddings, embeddings_of
from training.calibrate import UNCHANGED, calibrate_graph
from training.choice import Halves, Track, Wish, candidates
from training.data.features import FeatureHalf, FeatureStream, find_halves, report_left_out
from training.data.results import LABELS_NAME
from training.data.soccernet import find_video
from training.data.splits import match_folder, read_split
from training.measure import embed, measured, record
from training.progress import progress_bar
from training.reliability import check_plot, draw
from training.tune import calibrated, choose, decide
from training.tune_report import chosen_table, error_table

_LONGEST_DEADLINE_S = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Choose how a bundle decides (look-ahead, NMS radius, threshold, early words) and calibrate it, on labelled "
        "matches that it was not trained on, under the rule and the deadline that will run. DATA is laid out as "
        "SoccerNet's, with videos, or with the feature files that the bundle takes (touchline embed)."
    )
    parser.epilog = "example: touchline tune bundles/demo --data DATA --deadline 8 --out bundles/tuned"
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="root of the labelled matches")
    parser.add_argument("--split", default="valid", metavar="NAME", help="which split to choose on (default valid)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a new bundle here instead of into the old one")
    deadline = parser.add_mutually_exclusive_group()
    deadline.add_argument(
        "--deadline",
        type=_seconds,
        metavar="S",
        help="choose for final words at most S seconds of media after the action, and promise that from now on "
        "(default: the bundle's own deadline, if it has one for all labels)",
    )
    deadline.add_argument("--no-deadline", action="store_true", help="let the rule take its time")
    parser.add_argument(
        "--precision",
        type=_share,
        metavar="P",
        help="say as much as can be said with a share P, 0 to 1, of it right (default: best F1)",
    )
    parser.add_argument(
        "--provisional-precision",
        type=_share,
        default=Wish().provisional_precision,
        metavar="P",
        help="speak before it is settled where a share P of such words ends confirmed and right (default 0.8)",
    )
    parser.add_argument(
        "--rule", choices=["local-max", "greedy"], help="decide by this rule from now on (default: the bundle's own)"
    )
    parser.add_argument("--no-calibration", action="store_true", help="leave the scores as the network gives them")
    parser.add_argument(
        "--measure",
        metavar="NAME",
        help="also measure the result on this split, which has no part in the choice; for the manifest",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw confidence against the share of right spots (.png or .svg)"
    )


def run(args: argparse.Namespace) -> int:
    """Choose, and write the bundle; until everything is chosen nothing is touched."""
    if args.plot is not None:
        check_plot(args.plot)
    before, _ = read_manifest(args.bundle)
    wish = Wish(
        rule=args.rule or before.decision[before.labels[0]].rule,
        deadline_s=None if args.no_deadline else args.deadline or _kept_deadline_s(before),
        precision=args.precision,
        provisional_precision=args.provisional_precision,
        calibrated=not args.no_calibration,
    )
    out = args.out or args.bundle
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(dir=_parent(out), prefix=".tune-") as folder:
        work = Path(folder) / "bundle"
        bundle = _uncalibrated(args.bundle, before, wish, work)
        candidates(bundle.manifest, wish)  # says which deadline is too small before hours of scoring
        with progress_bar(console) as progress:

            def track(items: Sequence[Any], what: str) -> Iterable[Any]:
                return progress.track(items, description=what)

            recorded = {s: _recorded(bundle, args.data, s, track) for s in (args.split, args.measure) if s}
            choice = choose(bundle.manifest, recorded[args.split], wish, track)
        manifest = decide(work, _noting(bundle.manifest, args, wish), choice)
        found = {split: calibrated(manifest, halves, choice.calibrations) for split, halves in recorded.items()}
        figures = {split: measured(manifest, halves) for split, halves in found.items()}
        write_manifest(work, manifest.model_copy(update={"measured": figures}))
        open_bundle(work)
        _put(work, out)
    if args.plot is not None:
        draw(args.plot, choice.reliabilities)
    Console().print(chosen_table(before, manifest, found[args.split]), error_table(choice.reliabilities))
    for note in (*choice.notes, f"bundle {manifest.name} is in {out}"):
        console.print(note, highlight=False)
    return 0


def _put(work: Path, out: Path) -> None:
    """Put the finished bundle into its place, the manifest last: it names the others."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(work.iterdir(), key=lambda p: p.name == MANIFEST):
        path.replace(out / path.name)


@dataclass(frozen=True, slots=True)
class _Half:
    """A labelled half, and the video or the feature files that its embeddings come from."""

    actions: Sequence[Action]
    source: Path | FeatureHalf


def _halves(bundle: Bundle, data: Path, split: str) -> Iterator[_Half]:
    """Yield the halves of a split: from feature files where there are any, else from videos."""
    matches, manifest = read_split(data, split), bundle.manifest
    streams = [FeatureStream(s.name, manifest.features_of(s), s.columns) for s in manifest.streams]
    halves, problems = find_halves(data, matches, streams, manifest.rate)
    if halves or not bundle.front_ends:
        report_left_out(problems)
        if not halves:
            raise DataError(f"{data}: the {split} split has none of the feature files that this bundle takes.")
        yield from (_Half(half.actions, half) for half in halves)
        return
    for match in matches:
        folder = match_folder(data, match)
        for half in (1, 2):
            actions = [a for a in read_actions(folder / LABELS_NAME) if a.half == half]
            yield _Half(actions, find_video(folder, half))


def _kept_deadline_s(manifest: Manifest) -> float | None:
    """Return the bundle's deadline, if it has one for all labels."""
    deadlines_s = {decision.deadline_s for decision in manifest.decision.values()}
    return deadlines_s.pop() if len(deadlines_s) == 1 else None


def _recorded(bundle: Bundle, data: Path, split: str, track: Track) -> Halves:
    """Return what the bundle scores of a split."""
    halves = list(_halves(bundle, data, split))
    return [record(bundle, _embeddings(bundle, half), half.actions) for half in track(halves, f"scoring {split}")]


def _embeddings(bundle: Bundle, half: _Half) -> Sequence[Embeddings]:
    if isinstance(half.source, Path):
        return embed(bundle, half.source)
    return list(embeddings_of(half.source.read(), bundle.manifest))


def _uncalibrated(path: Path, manifest: Manifest, wish: Wish, work: Path) -> Bundle:
    """Return a copy of the bundle that scores as its network does, and in the way that the wish allows."""
    open_bundle(path)  # says what is wrong with it
    shutil.copytree(path, work)
    if manifest.calibration:
        none = [UNCHANGED] * len(manifest.labels)
        calibrate_graph(work / manifest.head.file, none, [none] * len(manifest.head.early_look_ahead_s))
    head, decision = manifest.head, manifest.decision
    if wish.rule == "local-max" or wish.deadline_s is not None:  # these cannot wait for what originals do at the ends
        edges = "zeros" if head.edges == "inside" else head.edges
        head = head.model_copy(update={"unscored_rows": 0, "edges": edges})
    if wish.rule != manifest.rule:
        reach = {"radius_s": 1.0} if wish.rule == "local-max" else {"window_s": 2.0}  # until it is chosen
        decision = dict.fromkeys(manifest.labels, Decision(rule=wish.rule, threshold=0.5, **reach))
    changes = {"calibration": {}, "early_calibration": {}, "head": head, "decision": decision}
    write_manifest(work, manifest.model_copy(update=changes))
    return open_bundle(work)


def _noting(manifest: Manifest, args: argparse.Namespace, wish: Wish) -> Manifest:
    """Return the manifest with what was asked for in its provenance."""
    tuned = {"data": args.data.name, "split": args.split, **asdict(wish)}
    return manifest.model_copy(update={"provenance": {**manifest.provenance, "tuned": tuned}})


def _parent(out: Path) -> Path:
    parent = out.resolve().parent
    if not parent.is_dir():
        raise UsageError(f"{parent}: there is no such folder to write a bundle in.")
    return parent


def _seconds(text: str) -> float:
    return _number(text, _LONGEST_DEADLINE_S, "seconds")


def _share(text: str) -> float:
    return _number(text, 1, "a share")


def _number(text: str, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: {what} above 0 and up to {most:g} is needed")
    return value
