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


def replay(path: Path, bundle: Path, threads: int) -> tuple[float, float, int]:
    """Return the seconds a whole replay takes, those of its start-up, and how many seconds of media there were."""
    ingest = IngestConfig((str(path),), live=False, threads=threads)
    pipeline = Pipeline(RunConfig(bundle, "benchmark", ingest), Silent())
    started = time.monotonic()
    asyncio.run(pipeline.run())
    return time.monotonic() - started, pipeline.progress.started_mono_s - started, pipeline.progress.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("samples/broadcast.ts"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    threads = IngestConfig((), live=False).threads
    decode_only(args.file, threads)
    rows = []
    for run in range(args.runs):
        decoding = decode_only(args.file, threads)
        whole, start_up, media = replay(args.file, args.bundle, threads)
        replaying = whole - start_up
        rows.append((media / decoding, media / replaying, decoding / replaying, decoding / whole, start_up))
        print("run {}: decoding alone {:5.1f} x, replay {:5.1f} x, share {:.2f}".format(run + 1, *rows[-1][:3]))
    alone, speed, share, whole_share, start_up = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median of {args.runs}: replay {speed:.1f} x real time, {share:.2f} of decoding alone ({alone:.1f} x); "
        f"with its start-up of {start_up:.1f} s, {whole_share:.2f} of decoding this short file alone"
    )


if __name__ == "__main__":
    main()
