"""What deciding costs: CPU time per second of stream at 17 labels, however long the match has lasted.

    python benchmarks/decider.py [--hours 24]

Compares, in one run, the online decider with the offline rule run again over everything seen, every second (what one
does who has only the offline rule), and with the whole middle (front ends, head, decider) of the shipped bundle. Scores
are random but like a head's: smooth, mostly low, peaks now and then; and with every row a candidate. Greedy has a
deadline of 30 s, without which ever higher scores in a row would leave it ever more to settle.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engines.bundle import Decision, HeadSpec, Manifest, ModalityStream, open_bundle
from engines.decider import Decider
from engines.head import Scores
from engines.labels import SOCCERNET_LABELS
from engines.nms import greedy, local_maxima
from engines.second import Second
from engines.spotter import Spotter

C = len(SOCCERNET_LABELS)
RADIUS_S, WINDOW_S = 1.5, 20.0
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="length of the long match (default 24)")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    args = parser.parse_args()
    whole_us = middle(args.bundle)
    print(f"the whole middle: {whole_us:.0f} µs of CPU a second of stream\n")
    print(f"rule       threshold  at hour 1   at hour {args.hours:<4g}  ratio  of the whole  naive at hour 1")
    for rule, threshold in (("local-max", 0.5), ("local-max", 0.0), ("greedy", 0.5), ("greedy", 0.0)):
        first, last = online(rule, threshold, args.hours)
        repeated = naive(rule, threshold)
        print(
            f"{rule:<10} {threshold:<9} {first:7.0f} µs  {last:8.0f} µs   {last / first:5.2f}  "
            f"{first / whole_us:11.2%}   {repeated:9.0f} µs ({repeated / first:.0f} times)"
        )


def manifest(rule: str, threshold: float) -> Manifest:
    one = Decision(
        rule="greedy" if rule == "greedy" else "local-max",
        threshold=threshold,
        radius_s=RADIUS_S,
        window_s=WINDOW_S,
        deadline_s=30.0 if rule == "greedy" else None,
        provisional_threshold=0.6,
    )
    return Manifest(
        format_version=1,
        name="cost",
        labels=SOCCERNET_LABELS,
        streams=(ModalityStream(name="visual", modality="visual", file=None, features="none", width=1),),
        head=HeadSpec(
            file="head.onnx", kind="none", rows=8, look_ahead_s=2, early_look_ahead_s=(0,), max_displacement_s=1
        ),
        decision=dict.fromkeys(SOCCERNET_LABELS, one),
        sha256={},
    )


def scores(rows: int) -> np.ndarray:
    """Return scores (T, C): smooth noise, of which about 1 row in 25 is above one half."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((rows + 2, C)).astype(np.float32)
    smooth = (noise[:-2] + noise[1:-1] + noise[2:]) / np.sqrt(3)
    found: np.ndarray = 1 / (1 + np.exp(-(2.5 * smooth - 4.4)))
    return found


def stream(rows: int) -> Iterator[list[Scores]]:
    """Yield what a head says each second: of the row two seconds back, and early of the newest."""
    hour = scores(3600)
    rng = np.random.default_rng(1)
    shift = rng.uniform(-1, 1, (3600, C)).astype(np.float32)
    for row in range(rows):
        late = max(row - 2, 0)
        yield [
            Scores(0, late, row, hour[late % 3600], shift[late % 3600], frozenset(), 2),
            Scores(0, row, row, hour[row % 3600], shift[row % 3600], frozenset(), 0),
        ]


def online(rule: str, threshold: float, hours: float) -> tuple[float, float]:
    """Return microseconds of CPU a second of stream: the mean of five minutes before hour 1, and before the end."""
    decider, times = Decider(manifest(rule, threshold), "cost"), []
    total = round(hours * 3600)
    measured = {*range(3600 - 300, 3600), *range(total - 300, total)}
    for row, said in enumerate(stream(total)):
        started = time.process_time_ns()
        for one in said:
            decider.push(one)
        decider.advance(row + 1)
        if row in measured:
            times.append((time.process_time_ns() - started) / 1000)
    return float(np.mean(times[:300])), float(np.mean(times[-300:]))


def naive(rule: str, threshold: float) -> float:
    """Return microseconds for one run of the offline rule over an hour of scores, all labels."""
    found = scores(3600)
    times_T = np.arange(3600, dtype=np.int64) * 1_000_000

    def run() -> None:
        for c in range(C):
            if rule == "greedy":
                greedy(found[:, c], round(WINDOW_S), max(threshold, 1e-6))
            else:
                at = found[:, c] >= threshold
                local_maxima(times_T[at], found[at, c], round(RADIUS_S * 1e6))

    return median_us(run)


def middle(path: Path) -> float:
    """Return microseconds of CPU that the shipped bundle takes for a second, from pixels to words."""
    bundle = open_bundle(path)
    pictures, rng = bundle.manifest.pictures, np.random.default_rng(0)
    shape = (pictures.rate, pictures.height, pictures.width, 3)
    spotter, index = Spotter(bundle, "cost"), iter(range(1 << 30))
    frames = rng.integers(0, 256, shape, np.uint8)
    sound = rng.uniform(-0.3, 0.3, 16_000).astype(np.float32)
    for _ in range(30):
        spotter.push(Second(0, next(index), frames, sound))

    def run() -> None:
        for _ in range(20):
            spotter.push(Second(0, next(index), frames, sound))

    return median_us(run) / 20


def median_us(run: Callable[[], None]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        run()
        times.append((time.process_time_ns() - started) / 1000)
    return float(np.median(times))


if __name__ == "__main__":
    main()
