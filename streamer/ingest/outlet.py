"""The way out of the reading process.

In: reports, from any of its threads. Out: the same, on the pipe to the streamer. A replay waits when too much is
pending; live sheds what has waited beyond the staleness budget, oldest first, and counts it. Of pictures for people
only the newest waits, for a moment between two reports.
"""

import threading
from collections import deque
from dataclasses import replace
from multiprocessing.connection import Connection

from streamer.config import GuardConfig
from streamer.guard import Guard
from streamer.ingest.messages import Arrived, Preview, Report

_MOST_PENDING = 60
"""Seconds of media that live keeps at most, however long the stream's bursts are."""


class Outlet:
    """Sends reports from a thread of its own, so that decoding goes on while the engines compute.

    Args:
        sender: the pipe to the streamer.
        backlog_s: seconds of media that may be pending before a replay waits.
        stale_s: how late a second may be before live sheds it; None for a replay, which sheds nothing.
        speed: media seconds per second of wall clock.
    """

    def __init__(self, sender: Connection, backlog_s: int, stale_s: float | None, speed: float = 1.0) -> None:
        self._sender, self._backlog_s, self._stale_s = sender, backlog_s, stale_s
        self._schedule = Guard(GuardConfig(), speed)
        self._pending: deque[Report] = deque()
        self._picture: Preview | None = None
        self._shed = 0
        self._changed = threading.Condition()
        self._closing = self._gone = False
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        self._thread.start()

    def send(self, report: Report) -> None:
        """Hand a report over.

        Raises:
            BrokenPipeError: nobody listens any more.
        """
        with self._changed:
            if isinstance(report, Arrived):
                if self._stale_s is None:
                    self._changed.wait_for(lambda: self._gone or len(self._seconds()) < self._backlog_s)
                else:
                    self._shed_stale(report, self._stale_s)
            if self._gone:
                raise BrokenPipeError
            self._pending.append(report)
            self._changed.notify_all()

    def show(self, picture: Preview) -> None:
        """Hand over a picture for people; one that has not been sent yet is forgotten."""
        with self._changed:
            self._picture = picture
            self._changed.notify_all()

    def close(self) -> None:
        """Send what is pending, then end; safe to call twice, from any thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._sender.close()

    def _shed_stale(self, newest: Arrived, stale_s: float) -> None:
        """Shed the seconds that have waited too long, measured from when the stream's pace made them due."""
        self._schedule.arrived(newest.second.index + 1, newest.second.arrived_mono_s)
        pending = self._seconds()
        for i, arrived in enumerate(pending):
            if len(pending) - i < _MOST_PENDING and self._schedule.since(arrived.second.index + 1) <= stale_s:
                break
            self._pending.remove(arrived)
            self._shed += 1

    def _seconds(self) -> list[Arrived]:
        return [m for m in self._pending if isinstance(m, Arrived)]

    def _run(self) -> None:
        while (reports := self._next()) is not None:
            try:
                for report in reports:
                    self._sender.send(report)
            except BaseException as error:
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                if isinstance(error, BrokenPipeError | ConnectionResetError):
                    return
                raise

    def _next(self) -> list[Report] | None:
        """Wait for what is to be sent: the oldest report, and a picture if there is one; None when all is sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._picture is not None or self._closing)
            if self._closing and not self._pending:
                return None
            report = self._pending.popleft() if self._pending else None
            picture, self._picture = self._picture, None
            self._changed.notify_all()
            pending = len(self._seconds())
        if isinstance(report, Arrived):
            counts = replace(report.counts, stale_seconds=self._shed, pending_seconds=pending)
            report = replace(report, counts=counts)
        return [part for part in (report, picture) if part is not None]
