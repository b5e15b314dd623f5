"""What one second of media costs the engines, and which part of it.

    python benchmarks/compute_latency.py [--file samples/broadcast.ts] [--bundle bundles/demo] [--rounds 3]

Every second of the file goes through the spotter on one thread, as it does live, after the decoding is done: no
decoder competes. Live, the same numbers are in `touchline_stage_duration_seconds`.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engines.backends.base import Array, Engine
from engines.bundle import Bundle, open_bundle
from engines.spotter import Spotter
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import PictureSpec
from streamer.sources.libav import LibavSource


class Stopwatch:
    """An engine that notes how long each run takes."""

    def __init__(self, engine: Engine, notes: list[float]) -> None:
        self.inputs, self.outputs, self.metadata = engine.inputs, engine.outputs, engine.metadata
        self._engine, self._notes = engine, notes

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        started = time.perf_counter()
        out = self._engine.run(feeds)
        self._notes.append(time.perf_counter() - started)
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("samples/broadcast.ts"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    source = LibavSource(str(args.file), threads=2)
    spec = PictureSpec.of(bundle.manifest.pictures)
    seconds = list(seconds_of(source.frames(), Sampler(spec)))
    source.close()
    notes: dict[str, list[float]] = defaultdict(list)
    timed = {name: Stopwatch(engine, notes[name]) for name, engine in bundle.front_ends.items()}
    watched = Bundle(bundle.path, bundle.manifest, bundle.digest, timed, Stopwatch(bundle.head, notes["head"]))
    for _ in range(args.rounds):
        spotter = Spotter(watched, "benchmark")
        for second in seconds:
            started = time.perf_counter()
            spotter.push(second)
            notes["whole second"].append(time.perf_counter() - started)
    print(f"{len(seconds)} seconds of media, {args.rounds} rounds, milliseconds per second of media:")
    print(f"{'':14}{'p50':>8}{'p95':>8}{'p99':>8}{'share of real time':>21}")
    for name in (*bundle.front_ends, "head", "whole second"):
        p50, p95, p99 = np.percentile(np.array(notes[name]) * 1e3, [50, 95, 99])
        print(f"{name:14}{p50:8.2f}{p95:8.2f}{p99:8.2f}{p50 / 1e3:21.3%}")


if __name__ == "__main__":
    main()
