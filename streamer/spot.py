"""`touchline spot`: feature files in, spots out, through the window, head and decider of the live path.

A features file takes the place of the front ends: row k is what they would have said of row k's time. No torch, no
video.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from engines.bundle import Bundle, Manifest, open_bundle
from engines.decider import Spot
from engines.errors import DataError, UsageError
from engines.frontend import embeddings_of
from engines.head import AT_ONCE, Scores
from engines.npy import map_rows, read_header
from engines.second import FLOAT32
from engines.spotter import Spotter
from streamer.decision import add_deadline, decided
from streamer.files.results import RESULTS_NAME, write_results, zip_results

_HALVES = (1, 2)


@dataclass(frozen=True, slots=True)
class Match:
    """The feature files of a match: half → features' name → file."""

    name: str
    halves: Mapping[int, Mapping[str, Path]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Spot on feature files instead of a video: SoccerNet's own {1,2}_<features>.npy, or those of touchline embed. "
        "The half and the features are read from the file's name; a bundle that wants one kind of features takes files "
        "of any name, in the order of the halves. A folder of matches gives a folder of results."
    )
    parser.epilog = (
        "example: touchline spot 1_ResNET_TF2_PCA512.npy 2_ResNET_TF2_PCA512.npy --bundle calf --out out.json"
    )
    parser.add_argument(
        "features", type=Path, nargs="+", metavar="FEATURES", help="feature files, or a folder of matches"
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the model")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help=f"{RESULTS_NAME}; for a folder of matches a folder, or a .zip as SoccerNet's challenge takes it",
    )
    parser.add_argument("--threshold", type=_share, metavar="P", help="say every spot of at least this confidence")
    add_deadline(parser)
    parser.add_argument(
        "--rule", choices=["local-max"], help="decide by this rule instead of the bundle's; needs --radius"
    )
    parser.add_argument(
        "--radius", type=_seconds, metavar="S", help="seconds around a spot without another of its label"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="also write each row's scores (.npz: an array a half, `rate`, `row_time_s`)",
    )


def run(args: argparse.Namespace) -> int:
    """Spot on every match that was given."""
    bundle = _open(args)
    whole_tree = len(args.features) == 1 and args.features[0].is_dir()
    if args.scores is not None and whole_tree:
        raise UsageError("--scores is for the files of one match; give them instead of a folder.")
    matches = list(_tree(args.features[0], bundle.manifest)) if whole_tree else [_match(args.features, bundle.manifest)]
    packed = whole_tree and args.out.suffix == ".zip"
    with tempfile.TemporaryDirectory() if packed else nullcontext(args.out) as folder:
        said, failed = _spot_all(bundle, matches, Path(folder), whole_tree, args.scores)
        if packed and len(failed) < len(matches):
            zip_results(Path(folder), args.out)
    for sentence in failed:
        print(f"left out: {sentence}", file=sys.stderr)
    count = len(matches) - len(failed)
    print(f"{said} spots in {count} {'match' if count == 1 else 'matches'}: {args.out}", file=sys.stderr)
    if failed:
        raise DataError(f"{len(failed)} of {len(matches)} matches could not be spotted on; see above.")
    return 0


def _spot_all(
    bundle: Bundle, matches: Sequence[Match], out: Path, whole_tree: bool, scores_path: Path | None
) -> tuple[int, list[str]]:
    """Write the results of every match; return how many spots there are, and why matches of a tree were left out."""
    said, failed = 0, []
    for match in track(matches, "spotting", console=Console(stderr=True), disable=not whole_tree):
        try:
            spots, scores = spot_match(bundle, match)
        except DataError as error:
            if not whole_tree:
                raise
            failed.append(str(error))
            continue
        path = out / match.name / RESULTS_NAME if whole_tree else out
        if whole_tree:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_results(path, spots, match.name)
        said += len(spots)
        if scores_path is not None:
            _write_scores(scores_path, scores, bundle.manifest)
    return said, failed


def spot_match(bundle: Bundle, match: Match) -> tuple[list[Spot], dict[int, FLOAT32]]:
    """Return the spots of a match and, for each half, the scores (T, C) of its rows.

    Raises:
        DataError: a file cannot be read, or does not fit the bundle.
    """
    spots: list[Spot] = []
    scores_TC: dict[int, FLOAT32] = {}
    for half, files in sorted(match.halves.items()):
        spotter = Spotter(bundle, match.name, half)
        seconds = embeddings_of(read_half(files, bundle.manifest), bundle.manifest)
        scores: list[Scores] = []
        while block := list(islice(seconds, AT_ONCE)):
            scores += spotter.score_rows(block)
        scores += spotter.flush_scores()
        spots += spotter.decide(scores) + spotter.flush()
        by_row = {s.index: s.scores_C for s in scores}
        scores_TC[half] = np.stack([by_row[row] for row in sorted(by_row)])
    return spots, scores_TC


def read_half(files: Mapping[str, Path], manifest: Manifest) -> dict[str, FLOAT32]:
    """Return each stream's rows (N, D) of one half; a shorter stream is filled up with its last row.

    Raises:
        DataError: a file cannot be read, or does not fit the bundle.
    """
    arrays = {name: _read(path) for name, path in files.items()}
    rows = {}
    for stream in manifest.streams:
        path, array = files[manifest.features_of(stream)], arrays[manifest.features_of(stream)]
        first, last = stream.columns or (0, array.shape[1])
        if last > array.shape[1] or last - first != stream.width:
            wanted = f"columns {first} to {last}" if stream.columns else str(stream.width)
            raise DataError(
                f"{path}: rows are {array.shape[1]} wide; stream {stream.name} of the bundle needs {wanted}."
            )
        rows[stream.name] = array[:, first:last]
    longest = max(len(x) for x in rows.values())
    return {
        name: np.pad(x, ((0, longest - len(x)), (0, 0)), mode="edge") if len(x) < longest else x
        for name, x in rows.items()
    }


def _share(text: str) -> float:
    return _bounded(text, 1)


def _seconds(text: str) -> float:
    return _bounded(text, 600)


def _bounded(text: str, most: float) -> float:
    value = float(text)
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to {most:g} belongs here")
    return value


def _open(args: argparse.Namespace) -> Bundle:
    bundle = open_bundle(args.bundle)
    manifest = bundle.manifest
    if (args.rule is None) != (args.radius is None):
        raise UsageError("--rule and --radius belong together, e.g. --rule local-max --radius 3.")
    if args.rule is not None:
        head = manifest.head.model_copy(
            update={"unscored_rows": 0} | ({"edges": "zeros"} if manifest.head.edges == "inside" else {})
        )
        manifest = manifest.with_decision(rule=args.rule, radius_s=args.radius).model_copy(update={"head": head})
    manifest = decided(manifest, threshold=args.threshold, deadlines_s=dict(args.deadline), provisional=False)
    return replace(bundle, manifest=manifest)


def _match(files: Sequence[Path], manifest: Manifest) -> Match:
    """Return one match made of the files given."""
    wanted = sorted({manifest.features_of(stream) for stream in manifest.streams})
    halves: dict[int, dict[str, Path]] = {}
    for place, path in enumerate(files, 1):
        named = re.fullmatch(r"([12])_(.+)", path.stem)
        if named and (named[2] in wanted or len(wanted) == 1):
            half, features = int(named[1]), named[2] if named[2] in wanted else wanted[0]
        elif len(wanted) == 1 and len(files) <= len(_HALVES):
            half, features = place, wanted[0]
        else:
            names = " and ".join(f"{{1,2}}_{name}.npy" for name in wanted)
            raise UsageError(f"{path}: cannot tell which features these are; this bundle takes {names}.")
        if features in halves.setdefault(half, {}):
            raise UsageError(f"{path}: a second file of {features} for half {half}.")
        halves[half][features] = path
    for half, found in halves.items():
        for name in wanted:
            if name not in found:
                raise UsageError(f"half {half} lacks {half}_{name}.npy, which this bundle needs.")
    return Match(str(files[0].parent), halves)


def _tree(root: Path, manifest: Manifest) -> Iterator[Match]:
    """Yield every match below `root` that has the feature files of a half."""
    wanted = sorted({manifest.features_of(stream) for stream in manifest.streams})
    found = False
    for folder in sorted({path.parent for path in root.rglob(f"*_{wanted[0]}.npy")}):
        halves = {half: {name: folder / f"{half}_{name}.npy" for name in wanted} for half in _HALVES}
        whole = {half: files for half, files in halves.items() if all(path.is_file() for path in files.values())}
        for half in halves.keys() - whole.keys():
            lacking = next(path for path in halves[half].values() if not path.is_file())
            print(f"note: half {half} is left out: there is no {lacking}", file=sys.stderr)
        if whole:
            found = True
            yield Match(folder.relative_to(root).as_posix(), whole)
    if not found:
        raise DataError(f"{root}: holds no match with {' and '.join(f'1_{name}.npy' for name in wanted)}.")


def _read(path: Path) -> FLOAT32:
    rows: FLOAT32 = np.array(map_rows(read_header(path)), np.float32)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise DataError(
            f"{path}: row {int(np.argmin(finite))} holds values that are no numbers; compute the file again."
        )
    return rows


def _write_scores(path: Path, scores: Mapping[int, FLOAT32], manifest: Manifest) -> None:
    try:
        with path.open("wb") as file:
            arrays = {str(half): values for half, values in scores.items()}
            place = {"rate": np.array(manifest.rate), "row_time_s": np.array(manifest.head.row_time_s)}
            np.savez_compressed(file, allow_pickle=False, **arrays, **place)
    except OSError as error:
        raise DataError(f"{path}: the scores cannot be written: {error.strerror}.") from error
