"""Memory and speed of streaming the features of all 500 labelled games of SoccerNet through one training epoch.

    python benchmarks/feature_streaming.py [--games 500] [--share 0.1] [--folder FOLDER]

The files have their true size (2 halves × 2700 rows × 8576 float32 a game, 93 GB in all) and are sparse: they take no
room, and the figures are those of the software without a disk. All of them are found; of the halves a share is read,
in blocks, each cut into windows of 3 rows that are shuffled into batches of 32, as HMTAS is trained. The floor is to
read the same bytes once with np.fromfile. Every pass begins with none of the files in the system's cache.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from training.data.features import FeatureHalf, FeatureStream, LoadedHalf, blocks, find_halves, gather
from training.memory import keep_freed_memory

ROWS, WIDTH = 2700, 8576
WINDOW, BATCH = 3, 32
FILE = "baidu_soccer_embeddings"
EDGES = (0, 2048, 4096, 4480, 6528, 8576)
NAMES = ("tpn", "gta", "vtn", "ircsn", "i3d")
STREAMS = [FeatureStream(name, FILE, (a, b)) for name, a, b in zip(NAMES, EDGES[:-1], EDGES[1:], strict=True)]


def make_games(root: Path, games: int) -> list[str]:
    """Write sparse games and return their folders."""
    matches = [f"league/season/{i:03d}" for i in range(games)]
    label = {"gameTime": "1 - 10:00", "label": "Goal", "position": "600000", "visibility": "visible"}
    for match in matches:
        folder = root / match
        folder.mkdir(parents=True)
        (folder / "Labels-v2.json").write_text(json.dumps({"annotations": [label]}))
        for half in (1, 2):
            make_half(folder / f"{half}_{FILE}.npy")
    return matches


def make_half(path: Path) -> None:
    """Write a half of zeros that takes no room.

    Raises:
        SystemExit: the file system has no sparse files, or fills them when they are read.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, WIDTH)})
        file.truncate(file.tell() + 4 * ROWS * WIDTH)
    if path.parent.name == "000":
        np.load(path, "r").max()
        if path.stat().st_blocks * 512 > 2**20:
            raise SystemExit(f"{path.parent}: sparse files take room here; give a --folder on another file system.")


def read_plainly(halves: Sequence[FeatureHalf], root: Path) -> None:
    for half in halves:
        np.fromfile(root / half.match / f"{half.half}_{FILE}.npy", np.float32)


def read_blocks(halves: Sequence[FeatureHalf]) -> None:
    for _ in blocks(halves, seed=0, epoch=0):
        pass


def read_windows(halves: Sequence[FeatureHalf]) -> None:
    rng = np.random.default_rng(0)
    for block in blocks(halves, seed=0, epoch=0):
        for _ in batches(block, rng):
            pass


def batches(block: Sequence[LoadedHalf], rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    """Yield all windows of a block, shuffled, in batches."""
    which = np.repeat(np.arange(len(block)), [half.length for half in block])
    starts = np.concatenate([np.arange(half.length) for half in block])
    lengths = np.array([half.length for half in block])[which]
    order = rng.permutation(len(which))
    for chosen in np.split(order, range(BATCH, len(order), BATCH)):
        rows = np.minimum(starts[chosen, None] + np.arange(WINDOW), lengths[chosen, None] - 1)
        yield gather(block, which[chosen], rows)


def timed(name: str, halves: Sequence[FeatureHalf], root: Path, pass_: Callable[[], None]) -> float:
    """Return how long a pass takes, s, after dropping the files from the cache."""
    for half in halves:
        with (root / half.match / f"{half.half}_{FILE}.npy").open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    pass_()
    took = time.perf_counter() - began
    mb = sum(half.nbytes for half in halves) / 1e6
    print(f"{name:38} {took:6.1f} s, {mb / took:6.0f} MB/s, peak resident {peak_mb():5.0f} MB", flush=True)
    return took


def peak_mb() -> float:
    """Return the most memory that this process has had resident, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(root: Path, games: int, share: float) -> None:
    matches = make_games(root, games)
    free_gb = shutil.disk_usage(root).free / 1e9
    began = time.perf_counter()
    halves, problems = find_halves(root, matches, STREAMS, rate=1)
    took = time.perf_counter() - began
    assert not problems
    size_gb = sum(half.nbytes for half in halves) / 1e9
    print(f"{len(halves)} halves, {size_gb:.1f} GB, found in {took:.2f} s; {free_gb:.0f} GB of disk stay free")
    read = halves[: max(1, round(share * len(halves)))]
    print(f"read are {len(read)} of them, {sum(half.nbytes for half in read) / 1e9:.1f} GB")
    floor = timed("floor: np.fromfile", read, root, lambda: read_plainly(read, root))
    alone = timed("blocks alone", read, root, lambda: read_blocks(read))
    whole = timed(f"blocks, windows of {WINDOW}, batches of {BATCH}", read, root, lambda: read_windows(read))
    print(f"time over the floor's: blocks alone {alone / floor:.2f}, with windows {whole / floor:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=500, help="games made and found (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="share of the halves read (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's temporary folder)")
    args = parser.parse_args()
    keep_freed_memory()  # as training does
    try:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            measure(Path(folder), args.games, args.share)
    except KeyboardInterrupt:
        print("stopped; the files are removed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
