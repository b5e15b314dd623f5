"""Resident memory over a long replay: minute 5 of the media against the last.

    python benchmarks/memory.py [--file samples/broadcast.ts] [--bundle bundles/demo] [--minutes 60]

The file is played over and over as one stream, each time as the restart of an encoder (a new epoch). Memory is that of
the streamer and of its reading process, from /proc (Linux) or `ps`.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

from streamer.config import IngestConfig, RunConfig
from streamer.pipeline import Pipeline
from streamer.screen import JsonScreen
from streamer.sources.base import StreamInfo


class MemoryScreen(JsonScreen):
    """Notes the memory of this process and its children at every minute of media."""

    def __init__(self) -> None:
        self.minutes: dict[int, tuple[float, float]] = {}
        self.spots = 0

    def opened(self, half: int, info: StreamInfo) -> None:
        """Say nothing."""

    def advanced(self, media_s: float, factor: float) -> None:
        """Note the memory at full minutes."""
        minute, rest = divmod(round(media_s), 60)
        if rest == 0 and minute not in self.minutes:
            self.minutes[minute] = (resident_mb(os.getpid()), sum(resident_mb(child) for child in children()))
            own, child = self.minutes[minute]
            print(
                f"minute {minute:3}: streamer {own:6.1f} MB, reading process {child:6.1f} MB, {factor:.1f} x",
                flush=True,
            )

    def said(self, *_: object) -> None:
        """Count."""
        self.spots += 1


def resident_mb(pid: int) -> float:
    """Return a process's resident memory, MB."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0) / 1024


def children() -> list[int]:
    """Return the processes that this one started and that still run, `ps` itself excluded."""
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=False)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    return [int(pid) for pid, parent, name in rows if int(parent) == os.getpid() and name.strip() != "ps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("samples/broadcast.ts"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--minutes", type=int, default=60)
    args = parser.parse_args()
    screen = MemoryScreen()
    data = args.file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        loop = Path(folder) / "loop.ts"
        with loop.open("wb") as out:
            for _ in range(args.minutes * 60 // 120 + 1):
                out.write(data)
        ingest = IngestConfig((str(loop),), live=False)
        asyncio.run(Pipeline(RunConfig(args.bundle, "benchmark", ingest, threshold=0.1), screen).run())
    first, last = screen.minutes[5], screen.minutes[args.minutes]
    change = sum(last) / sum(first) - 1
    print(
        f"minute 5: {sum(first):.1f} MB, minute {args.minutes}: {sum(last):.1f} MB, change {change:+.1%}; "
        f"{screen.spots} spots said"
    )


if __name__ == "__main__":
    main()
