"""`touchline tune`: what a bundle decides with, chosen again on one's own matches, under the rule that will run."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from engines.actions import Action, read_actions
from engines.bundle import MANIFEST, Bundle, Manifest, open_bundle, read_manifest, write_manifest
from engines.errors import DataError, UsageError
from engines.frontend import Embeddings, embeddings_of
from training.calibrate import UNCHANGED, calibrate_graph
from training.data.features import FeatureHalf, FeatureStream, find_halves, report_left_out
from training.data.results import LABELS_NAME
from training.data.soccernet import find_video
from training.data.splits import match_folder, read_split
from training.measure import embed, scored
from training.progress import progress_bar
from training.tune import RADII_S, WIDE_RADII_S, choose, decide


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Choose a bundle's NMS radius, calibration and thresholds on labelled matches that it was not trained on. DATA "
        "is laid out as SoccerNet's, with videos, or with the feature files that the bundle takes (touchline embed)."
    )
    parser.epilog = "example: touchline tune bundles/demo --data DATA --out bundles/tuned"
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="root of the labelled matches")
    parser.add_argument("--split", default="valid", metavar="NAME", help="which split to choose on (default valid)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a new bundle here instead of into the old one")
    parser.add_argument(
        "--rule",
        choices=["local-max"],
        help="decide by this rule from now on; an imported bundle waits for the whole half",
    )
    parser.add_argument("--no-calibration", action="store_true", help="leave the scores as the network gives them")


def run(args: argparse.Namespace) -> int:
    """Choose, and write the bundle; until everything is chosen nothing is touched."""
    before, _ = read_manifest(args.bundle)
    if before.rule == "greedy" and args.rule is None:
        raise UsageError(
            f"{args.bundle}: decides by its original's rule and windows, over the whole half; give --rule local-max to "
            "choose for deciding live."
        )
    out = args.out or args.bundle
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(dir=_parent(out), prefix=".tune-") as folder:
        work = Path(folder) / "bundle"
        bundle = _uncalibrated(args.bundle, before, work)
        halves = list(_halves(bundle, args.data, args.split))
        with progress_bar(console) as progress:
            found = [
                scored(bundle, _embeddings(bundle, half), half.actions)
                for half in progress.track(halves, description="scoring")
            ]
        radii = RADII_S if before.head.max_displacement_s else WIDE_RADII_S
        choice = choose(found, before.labels, radii, calibrated=not args.no_calibration)
        manifest = decide(work, _for_local_max(bundle.manifest, args), choice)
        open_bundle(work)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(work.iterdir(), key=lambda p: p.name == MANIFEST):  # the manifest last: it names the others
            path.replace(out / path.name)
    Console().print(_table(before, manifest))
    console.print(f"bundle {manifest.name} is in {out}", highlight=False)
    return 0


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


def _embeddings(bundle: Bundle, half: _Half) -> Sequence[Embeddings]:
    if isinstance(half.source, Path):
        return embed(bundle, half.source)
    return list(embeddings_of(half.source.read(), bundle.manifest))


def _uncalibrated(path: Path, manifest: Manifest, work: Path) -> Bundle:
    """Return a copy of the bundle that scores as its network does."""
    open_bundle(path)  # says what is wrong with it
    shutil.copytree(path, work)
    if manifest.calibration:
        calibrate_graph(work / manifest.head.file, [UNCHANGED] * len(manifest.labels))
        write_manifest(work, manifest.model_copy(update={"calibration": {}}))
    return open_bundle(work)


def _for_local_max(manifest: Manifest, args: argparse.Namespace) -> Manifest:
    """Return the manifest without what only the greedy rule can have, and without figures that no longer hold."""
    head = manifest.head
    if manifest.rule == "greedy":
        edges = "zeros" if head.edges == "inside" else head.edges
        head = head.model_copy(update={"unscored_rows": 0, "edges": edges})
    tuned = {"data": args.data.name, "split": args.split}
    provenance = {**manifest.provenance, "tuned": tuned}
    return manifest.model_copy(update={"head": head, "measured": {}, "provenance": provenance})


def _parent(out: Path) -> Path:
    parent = out.resolve().parent
    if not parent.is_dir():
        raise UsageError(f"{parent}: there is no such folder to write a bundle in.")
    return parent


def _table(before: Manifest, after: Manifest) -> Table:
    table = Table("label", title="chosen", box=box.SIMPLE_HEAD)
    for heading in ("threshold", "was", "radius, s", "was", "temperature", "shift"):
        table.add_column(heading, justify="right")
    for label in after.labels:
        old, new, calibration = before.decision[label], after.decision[label], after.calibration.get(label, {})
        table.add_row(
            label,
            f"{new.threshold:.3f}",
            f"{old.threshold:.3f}",
            f"{new.radius_s:g}",
            f"{old.radius_s if old.radius_s is not None else old.window_s:g}",
            f"{calibration.get('temperature', 1):.2f}",
            f"{calibration.get('shift', 0):+.2f}",
        )
    return table
