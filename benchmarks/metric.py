"""SoccerNet's metric on 20 games, ours against the original's own loops, and how much memory it takes.

    python benchmarks/metric.py [--quick]

The games are those of `metric_timing.json` in the shared fixtures: 40 halves of 110 actions, predictions of all 17
labels every 15 s, every 2 s, or every half second. CPU time of one thread in one run; the original begins with its
arrays on the grid of frames, ours with lists of predictions. The figures must be equal, or the run ends in an error.
Where the SoccerNet package is installed (pip install --no-deps SoccerNet) it is timed too, beside the loops told anew.
"""

import argparse
import resource
import tracemalloc
from collections.abc import Callable
from importlib import import_module

import numpy as np
from original_loops import average_maps, cpu_s, dense_halves, grids
from rich.console import Console
from rich.table import Table

from training.metric import TOLERANCES_S, average_map

SETTINGS = (("loose", 30), ("tight", 30), ("tight", 4), ("at1", 1))
MIB = 1 << 20


def resident_mib() -> float:
    """Return the most memory that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_mib(metric: str, halves: int, step_frames: int) -> float:
    """Return the most that one call allocates on top of its input."""
    truths, predictions = dense_halves(halves, step_frames)
    tracemalloc.start()
    try:
        average_map(truths, predictions, metric)
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def package() -> Callable[..., object] | None:
    """Return the SoccerNet package's own function, if it is installed."""
    try:
        found: Callable[..., object] = import_module("SoccerNet.Evaluation.ActionSpotting").average_mAP
    except ImportError:
        return None
    return found


def measure(metric: str, halves: int, step_frames: int) -> tuple[int, float, float, float | None]:
    """Return the number of predictions, and the CPU time of the original's loops, of ours and of the package."""
    truths, predictions = dense_halves(halves, step_frames)
    result = average_map(truths, predictions, metric)
    ours_s = cpu_s(lambda: average_map(truths, predictions, metric), 10)
    targets, closests, detections = map(list, zip(*grids(truths, predictions), strict=True))
    found = []
    original_s = cpu_s(
        lambda: found.append(average_maps(targets, closests, detections, 2, TOLERANCES_S[metric])), runs=1
    )
    parts = (result.overall, result.visible, result.unshown)
    if not np.allclose(found[0], [part.per_label for part in parts], rtol=0, atol=1e-12):
        raise SystemExit(f"{metric}, every {step_frames} frames: the two differ")
    average_map_of_package, package_s = package(), None
    if average_map_of_package is not None:
        deltas = np.array(TOLERANCES_S[metric])
        package_s = cpu_s(lambda: average_map_of_package(targets, detections, closests, 2, deltas), runs=1)
    return sum(len(p.labels_N) for p in predictions), original_s, ours_s, package_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 games instead of 20")
    games = 2 if parser.parse_args().quick else 20
    peaks = [peak_mib(metric, 2 * games, step) for metric, step in SETTINGS]
    resident = resident_mib()
    table = Table(title=f"SoccerNet's metric on {games} games, CPU time")
    for column in ("metric", "predictions", "loops", "ours", "ratio", "package", "ratio", "peak"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for (metric, step), peak in zip(SETTINGS, peaks, strict=True):
        count, slow, fast, real = measure(metric, 2 * games, step)
        times = [f"{slow:.2f} s", f"{1000 * fast:.1f} ms", f"{slow / fast:.0f} ×"]
        times += ["-", "-"] if real is None else [f"{real:.2f} s", f"{real / fast:.0f} ×"]
        table.add_row(metric, f"{count:,}", *times, f"{peak:.1f} MiB")
    Console().print(table)
    print(f"most resident memory of the process, with input and before the original's loops: {resident:.0f} MiB")


if __name__ == "__main__":
    main()
