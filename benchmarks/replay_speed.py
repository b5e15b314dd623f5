"""How fast a replay goes, against decoding alone, in one run.

    python benchmarks/replay_speed.py [--file samples/broadcast.ts] [--bundle bundles/demo] [--runs 3]

Decoding alone is PyAV with as many frame threads as the replay's decoder has, sound included, nothing converted: the
floor for anything that watches the whole stream. The replay is the real pipeline: reading process, spotter, results.
The two take turns, so that a noisy machine disturbs both.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import av

from streamer.config import IngestConfig, RunConfig
from streamer.pipeline import Pipeline
from streamer.screen import JsonScreen


class Silent(JsonScreen):
    """A screen that shows nothing."""

    def said(self, *_: object) -> None:
        """Say nothing."""


def decode_only(path: Path, threads: int) -> float:
    """Return the seconds it takes to decode a file, picture and sound, with PyAV."""
    started = time.perf_counter()
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.thread_type, video.codec_context.thread_count = "FRAME", threads
        for packet in container.demux(video, audio):
            packet.decode()
    return time.perf_counter() - started


def replay(path: Path, bundle: Path, threads: int) -> tuple[float, int]:
    """Return the seconds from the first second of media to the last, and how many there were."""
    ingest = IngestConfig((str(path),), live=False, threads=threads)
    pipeline = Pipeline(RunConfig(bundle, "benchmark", ingest), Silent())
    started = time.perf_counter()
    asyncio.run(pipeline.run())
    return time.perf_counter() - started, pipeline.progress.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("samples/broadcast.ts"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    threads = IngestConfig((), live=False).threads
    decode_only(args.file, threads)
    ratios, decodes, replays, media = [], [], [], 0
    for run in range(args.runs):
        decoding = decode_only(args.file, threads)
        replaying, media = replay(args.file, args.bundle, threads)
        print(
            f"run {run + 1}: decoding alone {media / decoding:5.1f} x real time, replay {media / replaying:5.1f} x, "
            f"share {decoding / replaying:.2f}"
        )
        decodes.append(media / decoding)
        replays.append(media / replaying)
        ratios.append(decoding / replaying)
    print(
        f"median of {args.runs}: replay {statistics.median(replays):.1f} x real time, "
        f"{statistics.median(ratios):.2f} of decoding alone ({statistics.median(decodes):.1f} x); start-up included"
    )


if __name__ == "__main__":
    main()
