"""The words that must arrive, on disk until the broker has acknowledged them.

In: words, in the order in which they were said. Out: final words by sequence, until they are removed. Promise: what
`put` has returned from is on the disk, synced, and survives a kill or a power cut. Bound: at most `capacity` final
words; then the oldest are dropped, counted and said. A disk that fails stops nothing: what it does not take is kept in
memory, in the same order and bound, and written when it works again; a disk that fails at the start is no different. A
sequence never comes twice, but after a run that ended while the disk failed. Where the past is lost (a damaged file was
set aside, or could not be read at the start), sequences and epochs leap ahead instead of beginning anew: they go on
from what the wall clock gives, which no earlier run can have used.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from streamer.outbox_file import BEGINNING_UTC, MARK, REMEMBERED, STANDING, OutboxFile
from streamer.payload import SpotMessage, utc_text

log = logging.getLogger("touchline.outbox")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a live stream's clock is.

    Attributes:
        epoch: unbroken stretch of media time.
        media_us: media time.
        stream_us: the same by the stream's own clock, where it has one.
        at_utc: when that was.
    """

    epoch: int
    media_us: int
    stream_us: int | None
    at_utc: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """A final word and its place in the order."""

    sequence: int
    message: SpotMessage


class OutboxObserver(Protocol):
    """Who is told how the outbox does (metrics)."""

    def on_pending(self, depth: int) -> None:
        """So many final words wait."""

    def on_dropped(self, count: int) -> None:
        """So many more were given up."""

    def on_durable(self, ok: bool) -> None:
        """The disk takes what is put, or fails."""


class Outbox:
    """One stream's words on their way.

    Args:
        path: the file; None keeps them in memory only.
        observer: is told how it goes, on the event loop.
        capacity: final words that may wait.

    Attributes:
        path: the file.
        capacity: final words that may wait.
        mark: where the clock of an earlier run was.
        standing: provisional words that an earlier run left without a final one.
        remembered: what earlier runs remembered.
    """

    def __init__(self, path: Path | None, observer: OutboxObserver | None = None, capacity: int = 50_000) -> None:
        self.path = path
        self.mark: Mark | None = None
        self.standing: list[SpotMessage] = []
        self.remembered: dict[str, str] = {}
        self._observer, self.capacity = observer, capacity
        self._file = OutboxFile(path, capacity)
        self._changes: deque[Callable[[], None]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._told_pending, self._told_dropped, self._told_fault = 0, 0, ""

    @property
    def pending(self) -> int:
        """How many final words wait."""
        return self._file.pending

    @property
    def dropped(self) -> int:
        """How many final words were given up in this run."""
        return self._file.dropped

    @property
    def fault(self) -> str | None:
        """What is wrong with the disk, in one sentence; None while it works."""
        return self._file.fault

    async def open(self) -> None:
        """Read what an earlier run left; the file is this run's until it is closed, or the process ends in any way.

        A disk that is full, fails or is read-only is a `fault`, and every change tries the file again.

        Raises:
            DeliveryError: it is in use, no outbox, of a newer version, or may not be written; in one sentence.
        """
        self._thread = ThreadPoolExecutor(1, "touchline-outbox")
        try:
            kept = await self._do(self._file.open)
        except BaseException:
            self._thread.shutdown(wait=False)
            self._thread = None
            raise
        self.remembered = {key: value for (kind, key), value in kept.items() if kind == REMEMBERED}
        standing = (_message(value) for (kind, _), value in kept.items() if kind == STANDING)
        self.standing = [message for message in standing if message is not None]
        self.mark = _mark(kept[MARK, ""]) if (MARK, "") in kept else None
        if self._observer is not None and self.path is not None:
            self._told_fault = self.fault or ""
            self._observer.on_durable(self.fault is None)
        if self._file.is_cut_off:
            now_utc = datetime.now(UTC)
            self.mark = Mark(int((now_utc - BEGINNING_UTC).total_seconds() / 60), 0, None, now_utc)
            await self.note(self.mark)
        self._tell()

    async def close(self) -> None:
        """Write what is not on the disk yet, and let go of the file; a second time does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
        finally:
            thread.shutdown(wait=False)

    async def put(self, words: Sequence[SpotMessage]) -> None:
        """Take words, in order; they are on the disk when this returns, unless it fails.

        Args:
            words: final ones wait to be delivered; provisional ones are noted as standing until their final word.
        """
        rows = [(word.id, word.state == "provisional", word.model_dump_json()) for word in words]
        await self._save(partial(self._file.add, rows))

    async def note(self, mark: Mark) -> None:
        """Keep where the stream's clock is."""
        text = json.dumps(asdict(mark) | {"at_utc": utc_text(mark.at_utc)})
        await self._save(partial(self._file.keep, (MARK, ""), text))

    async def remember(self, key: str, value: str) -> None:
        """Keep a value for later runs."""
        await self._save(partial(self._file.keep, (REMEMBERED, key), value))

    async def after(self, sequence: int, limit: int) -> list[Delivery]:
        """Return the oldest final words that wait behind a sequence, in order; at most `limit`.

        No word while `pending` counts some: the disk cannot be read now; ask again. If words of an earlier run come to
        light, since the disk works again, they come first, whatever their sequence.
        """
        rows = await self._do(partial(self._file.after, sequence, limit))
        found = [(number, _message(text)) for number, text in rows]
        unread = [number for number, message in found if message is None]
        if unread:
            log.error("%s: %d spots cannot be read; they were dropped.", self.path, len(unread))
            await self._save(partial(self._file.drop, unread))
            return await self.after(sequence, limit)
        self._tell()
        return [Delivery(number, message) for number, message in found if message is not None]

    async def remove(self, sequences: Sequence[int]) -> None:
        """Let go of words that were delivered."""
        await self._save(partial(self._file.remove, list(sequences)))

    async def _save(self, change: Callable[[], None]) -> None:
        """Make a change; all that wait when the thread is free share one commit."""
        self._changes.append(change)
        await self._do(self._save_changes)
        self._tell()

    def _save_changes(self) -> None:
        if not self._changes:
            return  # an earlier caller's commit took this one's along
        while self._changes:
            self._changes.popleft()()
        self._file.save()

    def _close(self) -> None:
        self._save_changes()
        self._file.close()

    async def _do(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise RuntimeError("the outbox is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell(self) -> None:
        """Tell the observer what has changed."""
        pending, dropped, fault = self.pending, self.dropped, self.fault or ""
        before, self._told_pending = self._told_pending, pending
        new, self._told_dropped = dropped - self._told_dropped, dropped
        failed, self._told_fault = self._told_fault, fault
        if self._observer is None:
            return
        if pending != before:
            self._observer.on_pending(pending)
        if new:
            self._observer.on_dropped(new)
        if bool(fault) != bool(failed):
            self._observer.on_durable(not fault)


def _message(text: str) -> SpotMessage | None:
    try:
        return SpotMessage.model_validate_json(text)
    except ValidationError:
        return None


def _mark(text: str) -> Mark:
    fields = json.loads(text)
    return Mark(**fields | {"at_utc": datetime.fromisoformat(fields["at_utc"])})
