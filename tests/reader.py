"""One connection, read by a process of its own, since a source has no time limits; what was seen comes back.

python tests/reader.py URL SECONDS reads that many whole seconds of media and prints one line of JSON, a Seen.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from servers import SPEC, number_of

from streamer.sources.base import SourceFault

ROOT = Path(__file__).parent.parent


@dataclass
class Seen:
    """What a reader saw.

    Attributes:
        addresses: at which it waited for a sender.
        container: what FFmpeg calls it.
        recording: see StreamInfo, as the next.
        burst_s: for HLS.
        open_s: how long opening took.
        first_s: until the first whole second was there, from the start.
        seconds: index, share of pictures and of sound, of each second.
        pictures: number, pts in seconds, wall clock in µs and whose, and arrival in µs, of some pictures.
        error: the sentence it ended with, if it failed.
        cause: that of the fault.
    """

    addresses: list[str] = field(default_factory=list)
    container: str = ""
    recording: bool = False
    burst_s: float = 0.0
    open_s: float = 0.0
    first_s: float = 0.0
    seconds: list[tuple[int, float, float]] = field(default_factory=list)
    pictures: list[tuple[int, float, int | None, str | None, int]] = field(default_factory=list)
    error: str = ""
    cause: str = ""


def start(
    url: str, seconds: int, options: Mapping[str, str] | None = None, stdin: "IO[bytes] | None" = None
) -> "subprocess.Popen[str]":
    """Start reading, in a process group of its own, as the streamer does it."""
    return subprocess.Popen(
        [sys.executable, __file__, url, str(seconds), json.dumps(dict(options or {}))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", limit_s: float = 40.0) -> Seen:
    """Return what was seen; a reader that hangs is killed, with all that it started."""
    try:
        out, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        out = ""
    finally:
        kill(process)
    return Seen(**json.loads(out)) if out else Seen(error=f"the reader said nothing for {limit_s:.0f} s")


def kill(process: "subprocess.Popen[str]") -> None:
    """End a reader's whole group, as the streamer ends a reading process."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def read(url: str, wanted: int, options: dict[str, str]) -> Seen:
    """Read a connection."""
    from streamer.sampler import Sampler
    from streamer.sources.opening import open_source

    seen, started_s = Seen(), time.monotonic()
    try:
        source = open_source(url, options=options, threads=1, listening=seen.addresses.append)
        seen.open_s = time.monotonic() - started_s
        info = source.info
        seen.container, seen.recording, seen.burst_s = info.container, info.recording, info.burst_s
        sampler, pictures = Sampler(SPEC), 0
        for frame in source.frames():
            if frame.picture is not None:
                pictures += 1
                if pictures % 5 == 1 and frame.pts is not None:
                    wall = frame.wall
                    utc_us, clock = (wall.utc_us, wall.clock) if wall is not None else (None, None)
                    pts_s = float(frame.pts * frame.time_base)
                    number = number_of(frame.picture.rgb(SPEC))
                    seen.pictures.append((number, pts_s, utc_us, clock, time.time_ns() // 1000))
            for second in sampler.push(frame):
                seen.first_s = seen.first_s or time.monotonic() - started_s
                seen.seconds.append((second.index, second.video_filled, second.audio_filled))
            if len(seen.seconds) >= wanted:
                break
        source.close()
    except SourceFault as fault:
        seen.error, seen.cause = str(fault), fault.cause
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(read(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))))
