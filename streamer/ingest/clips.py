"""Clips around confirmed spots, in the stream's own encoding.

The streamer asks (`request_for`), the reading process writes (`Clips`): it alone has the encoded packets. Promise:
every request is answered once, with the clip's path or why there is none; reading never waits for a disk.
"""

import queue
import re
import threading
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import TouchlineError
from streamer.ingest.messages import ClipDone
from streamer.sources.remux import write_clip
from streamer.sources.ring import Cut, Ring

if TYPE_CHECKING:  # the reading process starts sooner without the middle
    from engines.decider import Spot

SETTLE_S = 3.0
"""How long a clip waits after its end, in media time, for sound that is interleaved late."""
_MOST_PENDING = 256
_MOST_UNWRITTEN = 8
"""Clips that may wait for the disk; each holds its packets in memory."""
_FINISH_S = 10.0
_LONGEST_DELAY_S = 120.0
_MARGIN_S = 10.0
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A clip that somebody wants.

    Attributes:
        path_stem: where, without the suffix: the codecs decide on that.
        epoch: in which it lies.
        start_us: media time from which it is wanted.
        end_us: up to which.
    """

    path_stem: Path
    epoch: int
    start_us: int
    end_us: int


def request_for(spot: "Spot", pre_s: float, post_s: float, folder: Path) -> ClipRequest:
    """Return the request for a clip from `pre_s` before a spot's action to `post_s` after it."""
    at_us = round(spot.media_time * 1e6)
    start_us = max(0, at_us - round(pre_s * 1e6))
    return ClipRequest(clip_path_stem(folder, spot), spot.epoch, start_us, at_us + round(post_s * 1e6))


def clip_path_stem(folder: Path, spot: "Spot") -> Path:
    """Return a spot's file name without suffix: half, clock, label and id, in letters that every file system takes."""
    minutes, seconds = divmod(int(spot.media_time), 60)
    clock = f"{minutes // 60:02d}-{minutes % 60:02d}-{seconds:02d}"
    return folder / f"{spot.half}_{clock}_{_plain(spot.label)}_{_plain(spot.id)}"


def spot_id_of(path: Path) -> str:
    """Return the id of the spot that a clip is of."""
    return path.stem.rpartition("_")[2]


def _plain(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", ascii_only).strip("-")[:_LONGEST_NAME] or "x"


def keep_s(pre_s: float, post_s: float, delay_s: float) -> float:
    """Return how much of the stream must be kept, for clips of spots that are said at most `delay_s` late.

    Rules without a bound may say a spot later than any memory lasts; its clip is then not there any more.
    """
    return pre_s + max(post_s, min(delay_s, _LONGEST_DELAY_S)) + SETTLE_S + _MARGIN_S


class Clips:
    """Writes the clips that are asked for, each when its end has passed. `ask` may be called from another thread.

    Args:
        ring: has the packets.
        report: is told how each request ended, from any thread.
    """

    def __init__(self, ring: Ring, report: Callable[[ClipDone], None]) -> None:
        self._ring, self._report = ring, report
        self._lock = threading.Lock()
        self._pending: list[ClipRequest] = []
        self._clock = (-1, 0)  # epoch and media time
        self._cuts: queue.Queue[tuple[Path, Cut] | None] = queue.Queue(_MOST_UNWRITTEN)
        self._writer = threading.Thread(target=self._write, name="clips", daemon=True)
        self._writer.start()

    def ask(self, request: ClipRequest) -> None:
        """Take a request."""
        with self._lock:
            full = len(self._pending) >= _MOST_PENDING
            if not full:
                self._pending.append(request)
        if full:
            self._refuse(request, f"{_MOST_PENDING} others are waiting already")
        else:
            self._cut_due()

    def advance(self, epoch: int, media_us: int) -> None:
        """Be told how far the clock has come."""
        self._clock = epoch, media_us
        self._cut_due()

    def finish(self, timeout_s: float = _FINISH_S) -> None:
        """Write what is pending with what there is of it, and wait for the disk so long."""
        with self._lock:
            pending, self._pending = self._pending, []
        until_s = time.monotonic() + timeout_s
        for request in pending:
            self._cut(request, max(0.0, until_s - time.monotonic()))
        with suppress(queue.Full):
            self._cuts.put(None, timeout=max(0.0, until_s - time.monotonic()))
            self._writer.join(timeout_s)

    def _cut_due(self) -> None:
        epoch, media_us = self._clock
        settled_us = media_us - round(SETTLE_S * 1e6)
        with self._lock:
            due = [r for r in self._pending if r.epoch < epoch or (r.epoch == epoch and r.end_us <= settled_us)]
            due = due[: max(0, _MOST_UNWRITTEN - self._cuts.qsize())]  # the others when there is room
            self._pending = [r for r in self._pending if r not in due]
        for request in due:
            self._cut(request)

    def _cut(self, request: ClipRequest, timeout_s: float = 0.0) -> None:
        """Take a clip's packets while they are there; writing may wait."""
        cut = self._ring.cut(request.epoch, request.start_us, request.end_us)
        if cut is None:
            self._refuse(request, "that part of the stream is not kept any more, or has never come")
            return
        try:
            self._cuts.put((request.path_stem, cut), timeout=max(timeout_s, 0.001))
        except queue.Full:
            self._refuse(request, "the disk is too slow")

    def _refuse(self, request: ClipRequest, reason: str) -> None:
        self._report(ClipDone(None, f"{request.path_stem}: no clip was written: {reason}."))

    def _write(self) -> None:
        while (item := self._cuts.get()) is not None:
            stem, cut = item
            try:
                done = ClipDone(write_clip(cut, stem).path)
            except TouchlineError as error:
                done = ClipDone(None, str(error))
            except Exception as bug:  # the next clip may be fine
                done = ClipDone(None, f"{stem}: no clip was written, by a fault of ours: {bug!r}.")
            self._report(done)
