"""`touchline embed`: recordings in, feature files in SoccerNet's layout out, through the code the live path runs.

Out: `<out>/<match>/{1,2}_<bundle>_<stream>.npy`, float32 (N, D), row k from media second k, with the match's labels and
the split lists beside them, so that the folder is training data by itself. What is there already is kept.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from engines.bundle import Bundle, open_bundle
from engines.errors import DataError, TouchlineError, UsageError
from engines.frontend import Embeddings
from engines.second import FLOAT32
from training.data.results import LABELS_NAME
from training.data.soccernet import find_video
from training.data.splits import TASK_FOLDER
from training.measure import embed
from training.progress import progress_bar

HALVES = (1, 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Compute a bundle's embeddings of recordings and write them as SoccerNet lays feature files out: "
        "<league>/<season>/<match>/{1,2}_<bundle>_<stream>.npy, one row a second. DATA is a folder of matches (it, and "
        "every folder below it, that holds 1.mp4 or the like), or one recording or two, the halves of a match."
    )
    parser.epilog = "example: touchline embed DATA --bundle bundles/demo --out features"
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="a folder of matches, or recordings")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"), metavar="DIR", help="whose front ends")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the feature files go")


def run(args: argparse.Namespace) -> int:
    """Write the features of every recording; one that fails is named at the end, and the others are still written."""
    of_folder = len(args.data) == 1 and args.data[0].is_dir()
    if of_folder and args.out.resolve() == args.data[0].resolve():
        raise UsageError(f"{args.out}: --out is DATA itself; give the features a folder of their own.")
    bundle = open_bundle(args.bundle)
    _ = bundle.manifest.pictures  # says so if it cannot watch a video
    console = Console(stderr=True)
    recordings = list(_recordings(args.data))
    embedded: set[str] = set()
    failed: list[str] = []
    with progress_bar(console) as progress:
        for video, match, half in progress.track(recordings, description="embedding"):
            try:
                _write(bundle, video, args.out / match, half)
                embedded.add(match)
            except TouchlineError as error:
                failed.append(str(error))
    if of_folder:
        _copy_lists(args.data[0], args.out, embedded)
    for sentence in failed:
        console.print(f"left out: {sentence}", highlight=False, markup=False, soft_wrap=True)
    done = f"{len(recordings) - len(failed)} of {len(recordings)} recordings are embedded in {args.out}"
    console.print(done, highlight=False, markup=False)
    if failed:
        raise DataError(f"{len(failed)} of {len(recordings)} recordings could not be embedded; see above.")
    return 0


def rows_of(embeddings: Iterable[Embeddings]) -> dict[str, FLOAT32]:
    """Return each stream's rows (N, D) of a recording, row k from second k; seconds that are missing are zeros."""
    seconds = {e.index: e.rows for e in embeddings}
    if not seconds:
        return {}
    empty: Mapping[str, FLOAT32] = {name: np.zeros_like(rows) for name, rows in next(iter(seconds.values())).items()}
    return {name: np.concatenate([seconds.get(k, empty)[name] for k in range(max(seconds) + 1)]) for name in empty}


def _recordings(data: list[Path]) -> Iterable[tuple[Path, str, int]]:
    """Yield each recording with its match's folder and its half."""
    if not (len(data) == 1 and data[0].is_dir()):
        if len(data) > len(HALVES):
            raise UsageError(f"{len(data)} recordings are given; give one folder of matches, or a match's two halves.")
        for half, video in enumerate(data, 1):
            if not video.is_file():
                raise UsageError(f"{video}: there is no such recording.")
            yield video, ".", half
        return
    found = False
    for folder in [data[0], *sorted(path for path in data[0].rglob("*") if path.is_dir())]:
        for half in HALVES:
            try:
                video = find_video(folder, half)
            except DataError:
                continue
            found = True
            yield video, folder.relative_to(data[0]).as_posix(), half
    if not found:
        raise DataError(f"{data[0]}: no recordings of halves (1.mp4, 1_224p.mkv, …) are in it or in a folder below it.")


def _write(bundle: Bundle, video: Path, folder: Path, half: int) -> None:
    """Write one recording's features, unless they are there already, and its match's labels beside them."""
    manifest = bundle.manifest
    files = {stream.name: folder / f"{half}_{manifest.features_of(stream)}.npy" for stream in manifest.streams}
    made_with = folder / f"{half}_{manifest.name}.json"
    made = json.dumps({"front_ends": manifest.front_ends, "recording_bytes": video.stat().st_size}).encode()
    kept = all(path.exists() for path in files.values()) and made_with.exists() and made_with.read_bytes() == made
    rows = {} if kept else rows_of(embed(bundle, video))
    if not rows and not kept:
        raise DataError(f"{video}: holds no whole second of picture.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows_ND in rows.items():
            part = files[name].with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, rows_ND)
            os.replace(part, files[name])
        if not kept:
            made_with.write_bytes(made)
        labels = video.parent / LABELS_NAME
        if labels.is_file() and labels.parent.resolve() != folder.resolve():
            shutil.copyfile(labels, folder / LABELS_NAME)
    except OSError as error:
        raise DataError(f"{folder}: the features cannot be written: {error.strerror}.") from error


def _copy_lists(data: Path, out: Path, matches: set[str]) -> None:
    """Copy the split lists that name a match that was embedded."""
    names = matches | {match.removeprefix(f"{TASK_FOLDER}/") for match in matches}
    for path in (*data.glob("*.txt"), *data.glob("SoccerNetGames*.json")):
        if path.is_file() and names & _listed(path):
            shutil.copyfile(path, out / path.name)


def _listed(path: Path) -> set[str]:
    """Return the matches that a split list names; of any other file nothing that matters."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return {line.strip() for line in text.splitlines()}
        return {
            f"{league}/{season}/{match}"
            for league, seasons in json.loads(text).items()
            for season, matches in seasons.items()
            for match in matches
        }
    except (ValueError, AttributeError, TypeError):
        return set()
