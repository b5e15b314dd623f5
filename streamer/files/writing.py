"""How words come to a file: line by line, or as a whole file that takes the place of the last one.

Promise: a run that is killed leaves files that can be read. Lines are with the operating system when `say` returns and
on the disk a twentieth of a second later; a whole file is at most a good second older than what was said. A disk that
refuses is a DataError of the next word; what it refused is kept, in memory, and tried again.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Protocol

from engines.decider import Spot
from engines.errors import DataError
from streamer.redact import printable
from streamer.sources.base import StreamInfo

SYNC_S = 0.05
"""Between two times that lines are made durable: a fast replay says hundreds of words a second."""
REWRITE_S = 1.0
"""Between two times that a whole file is written."""


class OutFile(Protocol):
    """A file of one run. Called by one thread at a time."""

    def begin(self, info: StreamInfo, half: int) -> None:
        """Hear that a half's stream is open. The first time, what an earlier run left is gone.

        Raises:
            DataError: it cannot be written.
        """

    def say(self, spot: Spot, said: datetime) -> None:
        """Take a word, of a half that was begun.

        Raises:
            DataError: it, or one before it, cannot be written.
        """

    def close(self) -> None:
        """Write what is left; nothing if nothing was begun.

        Raises:
            DataError: it cannot be written.
        """


class Soon:
    """Does something soon after it was asked for, in a thread of its own, and not more often than it may.

    Args:
        act: what is done; a DataError of it is told to whoever asks next, and it is done again.
        pause_s: from one time to the next.
    """

    def __init__(self, act: Callable[[], None], pause_s: float) -> None:
        self._act, self._pause_s = act, pause_s
        self._asked, self._ended = threading.Event(), threading.Event()
        self._fault: DataError | None = None
        self._thread = threading.Thread(target=self._run, name="touchline-file", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Ask for it.

        Raises:
            DataError: it could not be done before.
        """
        self._asked.set()
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Do it for the last time.

        Raises:
            DataError: it cannot be done.
        """
        self._ended.set()
        self._asked.set()
        self._thread.join()
        self._act()

    def _run(self) -> None:
        while self._asked.wait() and not self._ended.is_set():
            self._asked.clear()
            try:
                self._act()
                self._fault = None
            except DataError as error:
                self._fault = error
                self._asked.set()
            self._ended.wait(self._pause_s)


class LinesFile:
    """Every word, a line each.

    Args:
        path: the file.
        line: a word and when it was said → its line, with the end of it.
        header: the first line, with its end.
    """

    def __init__(self, path: Path, line: Callable[[Spot, datetime], str], header: str = "") -> None:
        self._path, self._line = path, line
        self._unwritten, self._size = header.encode(), 0
        self._file: FileIO | None = None

    def begin(self, info: StreamInfo, half: int) -> None:
        """Begin the file, once; see OutFile."""
        if self._file is not None:
            return
        try:
            self._file = FileIO(self._path, "w")
        except (OSError, ValueError) as error:
            raise unwritable(self._path, error) from error
        self._soon = Soon(self._sync, SYNC_S)
        self._write(self._file)

    def say(self, spot: Spot, said: datetime) -> None:
        """Write a word; see OutFile."""
        assert self._file is not None
        self._unwritten += self._line(spot, said).encode()
        self._write(self._file)
        self._soon.ask()

    def close(self) -> None:
        """End the file; see OutFile."""
        if self._file is None or self._file.closed:
            return
        try:
            self._write(self._file)
        finally:
            try:
                self._soon.close()
            finally:
                self._file.close()

    def _write(self, file: FileIO) -> None:
        """Write whole lines or nothing: a full disk takes half of one."""
        rest = self._unwritten
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                file.truncate(self._size)
                file.seek(self._size)
            raise unwritable(self._path, error) from error
        self._size += len(self._unwritten)
        self._unwritten = b""

    def _sync(self) -> None:
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
            there = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            there = False
        except OSError as error:
            raise unwritable(self._path, error) from error
        if not there:
            raise DataError(f"{self._path}: is gone, and its words with it; leave the file alone while it is written.")


class WholeFile:
    """The confirmed spots, in a file that is written anew when there are more.

    Args:
        path: the file; a part file beside it is renamed when complete.
        text: what the stream is and its spots so far, in the order they were said → the file's content.
    """

    def __init__(self, path: Path, text: Callable[[StreamInfo, Sequence[Spot]], str]) -> None:
        self._path, self._text = path, text
        self._spots: list[Spot] = []
        self._soon: Soon | None = None

    def begin(self, info: StreamInfo, half: int) -> None:
        """Begin the file, once; see OutFile."""
        if self._soon is None:
            self._info = info
            self._write()
            self._soon = Soon(self._write, REWRITE_S)

    def say(self, spot: Spot, said: datetime) -> None:
        """Take a word; see OutFile."""
        assert self._soon is not None
        if spot.state == "confirmed":
            self._spots.append(spot)
            self._soon.ask()

    def close(self) -> None:
        """Write the file for the last time; see OutFile."""
        if self._soon is not None:
            self._soon.close()

    def _write(self) -> None:
        write_whole(self._path, self._text(self._info, list(self._spots)))


class HalvesFile:
    """A file for each half: that of the first has the name, that of the second has `-2` before the ending.

    Args:
        path: of the first half.
        text: see WholeFile.
    """

    def __init__(self, path: Path, text: Callable[[StreamInfo, Sequence[Spot]], str]) -> None:
        self._path, self._text = path, text
        self._files: dict[int, WholeFile] = {}

    def begin(self, info: StreamInfo, half: int) -> None:
        """Begin a half's file; see OutFile."""
        name = self._path.name if half == 1 else f"{self._path.stem}-{half}{self._path.suffix}"
        file = self._files.setdefault(half, WholeFile(self._path.with_name(name), self._text))
        file.begin(info, half)

    def say(self, spot: Spot, said: datetime) -> None:
        """Take a word; see OutFile."""
        self._files[spot.half].say(spot, said)

    def close(self) -> None:
        """Write every half's file for the last time; see OutFile."""
        faults = []
        for file in self._files.values():
            try:
                file.close()
            except DataError as error:
                faults.append(error)
        if faults:
            raise faults[0]


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: a part file beside it is renamed when it is on the disk.

    Raises:
        DataError: it cannot be written; the old one is as it was.
    """
    try:
        part = path.with_name(path.name + ".part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError | ValueError) -> DataError:
    """Return in one sentence why a file of spots cannot be written."""
    return DataError(f"{path}: the spots cannot be written ({getattr(error, 'strerror', None) or error}).")


def one_line(text: str) -> str:
    """Return text without what would end a line, or steer what shows it."""
    return printable(" ".join(text.split()))


def named(spot: Spot) -> str:
    """Return what a spot is called beside its time: label and confidence."""
    return f"{one_line(spot.label)} {spot.confidence:.2f}"
