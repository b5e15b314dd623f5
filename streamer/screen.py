"""What people and programs see of a run: JSON lines on a pipe, a progress display on a terminal."""

import logging
import os
import queue
import sys
import threading
from contextlib import suppress
from datetime import datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from engines.decider import Spot
from streamer.payload import spot_to_json
from streamer.redact import printable
from streamer.sources.base import StreamInfo

log = logging.getLogger("touchline")

_MOST_LINES = 10_000
"""So many words wait for whoever reads stdout."""
_LOOK_AGAIN_S = 0.5
_LAST_S = 5.0
"""How long the end of a run waits for the reader."""


class JsonScreen:
    """One word a line on stdout, nothing else. Use as a context manager.

    Written by a thread, so that a reader that stops reading (a pager, a stuck pipe) holds up no live stream.

    Args:
        patient: whether a reader that is too slow is waited for; if not, words are left out for it.
    """

    def __init__(self, *, patient: bool = True) -> None:
        self._patient, self._left_out = patient, 0
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES)
        self._fault: OSError | None = None
        self._thread = threading.Thread(target=self._write, name="touchline-stdout", daemon=True)

    def __enter__(self) -> "JsonScreen":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(queue.Full):
            self._lines.put(None, timeout=_LAST_S)
            self._thread.join(_LAST_S)
        if self._fault is not None:
            raise self._fault

    def opened(self, half: int, info: StreamInfo) -> None:
        """Say nothing."""

    def advanced(self, media_s: float, factor: float) -> None:
        """Say nothing."""

    def said(self, spot: Spot, said: datetime) -> None:
        """Print the word.

        Raises:
            OSError: nobody reads any more, or the disk is full.
        """
        line = (spot_to_json(spot, said) + "\n").encode()
        while self._fault is None:
            try:
                self._lines.put(line, block=self._patient, timeout=_LOOK_AGAIN_S)
                return
            except queue.Full:
                if not self._patient:
                    self._leave_out()
                    return
        raise self._fault

    def _leave_out(self) -> None:
        self._left_out += 1
        if self._left_out == 1:
            log.warning("nobody reads stdout any more; words are left out there until somebody does")

    def _write(self) -> None:
        """Write lines as they come; by the system's own call, since Python's buffer could not be left at the end."""
        try:
            while (line := self._lines.get()) is not None:
                while line:
                    line = line[os.write(sys.stdout.fileno(), line) :]
        except OSError as fault:
            self._fault = fault


class TerminalScreen:
    """Words as lines, with a progress bar below them. Use as a context manager."""

    def __init__(self) -> None:
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[clock]}"),
            TextColumn("{task.fields[factor]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalScreen":
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def opened(self, half: int, info: StreamInfo) -> None:
        """Start the bar; its length is the file's, where that is known."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        rate = f" {info.rate_fps:g} fps" if info.rate_fps else ""
        what = f"{info.video} {info.width}×{info.height}{rate}, {info.audio or 'no sound'}"
        self._task = self._progress.add_task(what, total=info.duration_s, clock="00:00", factor="")

    def advanced(self, media_s: float, factor: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=media_s, clock=clock(media_s), factor=f"{factor:.1f}x")

    def said(self, spot: Spot, said: datetime) -> None:
        """Print the word above the bar."""
        self._console.print(line(spot, f"said {spot.delay_s:4.1f} s after"), highlight=False)


def line(spot: Spot, how_late: str) -> Text:
    """Return a word as one line: clock, label, confidence, how late, state, flags.

    What is confirmed stands out, what is provisional is quiet, what is retracted is struck out.
    """
    style = {"provisional": "dim", "retracted": "dim strike"}.get(spot.state, "")
    text = Text.assemble(
        (f"{clock(spot.media_time):>6}  ", "dim"),
        (f"{printable(spot.label):<18}", style or "bold"),
        (f" {spot.confidence:4.0%}", style),
        (f"  {how_late}", "dim"),
    )
    if spot.state != "confirmed":
        text.append(f"  {spot.state}", "dim" if spot.state == "provisional" else "magenta")
    if spot.flags:
        text.append("  " + " ".join(map(printable, spot.flags)), "yellow")
    return text


def clock(seconds: float) -> str:
    """Return media time as mm:ss."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
