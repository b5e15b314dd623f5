"""A day of media through the live path, with a fault every few minutes, faster than real time.

    python benchmarks/soak.py [--hours 24] [--speed 40] [--bundle bundles/demo] [--clips] [--samples out.csv]

A server in this process sends small pictures with sound as MPEG-TS over TCP, three minutes to a connection, which then
ends in one of four ways, in turn: a clean end, a reset, silence, and the death of the reading process. Timestamps begin
at 0, shortly before the 33-bit wrap, or in between. Every minute of wall clock resident memory, open files and threads
of the streamer and its reading process are noted; at the end their slopes per day of media are fitted, the first tenth
left out. Exits with 1 if anything stopped, or grew.
"""

import argparse
import asyncio
import csv
import io
import itertools
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from streamer.config import ClipConfig, IngestConfig, RunConfig, WatchConfig
from streamer.pipeline import Pipeline
from streamer.screen import JsonScreen
from streamer.sources.base import StreamInfo

CONNECTION_S = 180
RATE = 5
STARTS_S = (0.0, 2**33 / 90_000 - 90.0, 50_000.0)
WAYS = ("end", "reset", "silence", "kill")
WATCH = WatchConfig(open_s=10, first_s=10, stall_s=2, first_backoff_s=0.1, longest_backoff_s=0.2, steady_s=1)
MOST_MB_A_DAY, MOST_FILES = 20.0, 4


def stream(start_s: float) -> bytes:
    """Return three minutes of MPEG-TS whose timestamps begin at `start_s`."""
    rng, out = np.random.default_rng(3), io.BytesIO()
    ts: Any = av.open(out, "w", format="mpegts", options={"output_ts_offset": str(start_s)})
    with ts:
        video = ts.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": str(2 * RATE)})
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        sound = ts.add_stream("aac", rate=16_000, layout="mono")
        for i in range(CONNECTION_S * RATE):
            pixels = np.kron(rng.integers(0, 256, (9, 16, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, RATE)
            ts.mux(video.encode(picture))
            noise = rng.normal(0, 0.1, (1, 16_000 // RATE)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16_000, i * 16_000 // RATE, Fraction(1, 16_000)
            ts.mux(sound.encode(block))
        ts.mux(video.encode(None))
        ts.mux(sound.encode(None))
    return out.getvalue()


class Server:
    """Sends one of the streams to each connection, at a pace, and ends it in one of the ways."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._streams = [stream(start_s) for start_s in STARTS_S]
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for data, way in zip(itertools.cycle(self._streams), itertools.cycle(WAYS), strict=False):
            connection, _ = self._listening.accept()
            self.connections += 1
            with connection:
                try:
                    self._send(connection, data)
                    self._end(connection, way)
                except OSError:
                    continue

    def _send(self, connection: socket.socket, data: bytes) -> None:
        piece = len(data) // CONNECTION_S // 188 * 188
        started = time.monotonic()
        for second, at in enumerate(range(0, len(data), piece)):
            connection.sendall(data[at : at + piece])
            time.sleep(max(0.0, started + (second + 1) / self._speed - time.monotonic()))

    def _end(self, connection: socket.socket, way: str) -> None:
        if way == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "kill":
            for child in reading_processes():
                os.kill(child.pid, signal.SIGKILL)
        elif way == "silence":
            connection.settimeout(30)
            connection.recv(1)  # returns when the reader has given up


def reading_processes() -> list[psutil.Process]:
    """Return the reading process, or none between two."""
    found = []
    for child in psutil.Process().children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment."""

    media_h: float
    streamer_mb: float
    reader_mb: float
    files: int
    threads: int
    connections: int


class Watch(JsonScreen):
    """Notes how the processes are, and ends the run when enough media has passed."""

    def __init__(self, server: Server, hours: float) -> None:
        self._server, self._end_s = server, hours * 3600
        self._next_s = 0.0
        self.samples: list[Sample] = []
        self.words = 0
        self.enough = asyncio.Event()

    def opened(self, half: int, info: StreamInfo) -> None:
        """Say nothing."""

    def advanced(self, media_s: float, factor: float) -> None:
        """Note what is seen, every minute of wall clock."""
        if media_s >= self._end_s:
            self.enough.set()
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + (60.0 if self._end_s > 7200 else 5.0)
        own = psutil.Process()
        readers = [child.memory_info().rss for child in reading_processes()]
        sample = Sample(
            media_s / 3600,
            own.memory_info().rss / 2**20,
            sum(readers) / 2**20,
            own.num_fds(),
            own.num_threads(),
            self._server.connections,
        )
        self.samples.append(sample)
        print(
            f"{sample.media_h:6.2f} h: streamer {sample.streamer_mb:.1f} MB, its child {sample.reader_mb:.1f} MB, "
            f"{sample.files} files, {sample.threads} threads, {sample.connections} connections, {factor:.1f} x",
            flush=True,
        )

    def said(self, *_: object) -> None:
        """Count."""
        self.words += 1


async def run(args: argparse.Namespace, server: Server, watch: Watch, folder: str) -> Pipeline:
    ingest = IngestConfig((server.url,), live=True, watch=WATCH)
    clips = ClipConfig(Path(folder)) if args.clips else None
    pipeline = Pipeline(RunConfig(args.bundle, "soak", ingest, threshold=0.1, clips=clips), watch)
    work = asyncio.create_task(pipeline.run())
    enough = asyncio.create_task(watch.enough.wait())
    await asyncio.wait({work, enough}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait({work})
    return pipeline


def slope_a_day(samples: list[Sample], name: str) -> float:
    """Return how much a figure grows in 24 h of media, by least squares, the first tenth left out."""
    kept = samples[len(samples) // 10 :]
    hours = np.array([s.media_h for s in kept])
    return float(np.polyfit(hours, [getattr(s, name) for s in kept], 1)[0] * 24)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--speed", type=float, default=40.0)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--clips", action="store_true", help="keep the encoded stream, and write clips")
    parser.add_argument("--samples", type=Path)
    args = parser.parse_args()
    server = Server(args.speed)
    watch = Watch(server, args.hours)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pipeline = asyncio.run(run(args, server, watch, folder))
    progress, samples = pipeline.progress, watch.samples
    if args.samples:
        with args.samples.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Sample)])
            writer.writerows(map(astuple, samples))
    grown = {name: slope_a_day(samples, name) for name in ("streamer_mb", "reader_mb", "files", "threads")}
    kept = samples[len(samples) // 10 :]
    files, threads = ({getattr(s, name) for s in kept} for name in ("files", "threads"))
    print(
        f"{samples[-1].media_h:.2f} h of media in {(time.monotonic() - started) / 60:.1f} min, {server.connections} "
        f"connections; {progress.seconds} seconds processed, {progress.shed} shed, {watch.words} words, "
        f"{progress.clips} clips\n"
        f"per 24 h of media: streamer {grown['streamer_mb']:+.1f} MB, reading process {grown['reader_mb']:+.1f} MB, "
        f"files {grown['files']:+.2f} ({min(files)} to {max(files)}), threads {grown['threads']:+.2f} "
        f"({min(threads)} to {max(threads)})"
    )
    flat = grown["streamer_mb"] < MOST_MB_A_DAY and max(files) - min(files) <= MOST_FILES
    return 0 if flat and samples[-1].media_h >= 0.99 * args.hours else 1


if __name__ == "__main__":
    sys.exit(main())
