"""The reading process, seen from the streamer: started, watched, killed, and started again.

In: an IngestConfig. Out: Seconds, in order, through every fault of their source; and what the source does meanwhile. A
connection is a process. One that gives nothing for too long is killed, whatever holds it up, and another goes on where
its clock ended, in a new epoch.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace

from engines.errors import TouchlineError
from streamer.config import IngestConfig
from streamer.ingest import child
from streamer.ingest.child import stdin_of
from streamer.ingest.clips import ClipRequest
from streamer.ingest.connection import FINISH, Job, main
from streamer.ingest.messages import (
    Alive,
    Arrived,
    ClipDone,
    Connected,
    Counts,
    Ended,
    HalfEnded,
    Listening,
    Message,
    Opened,
    Preview,
    PreviewOrder,
    Report,
    Said,
)
from streamer.ingest.watchdog import Watchdog
from streamer.redact import redact_url
from streamer.sources.base import PictureSpec, SourceFault, StreamInfo
from streamer.sources.opening import STDIN
from streamer.timeline import Anchor

_POLL_S = 0.2
_END_WAIT_S = 30.0
"""How long a reading process may take to write the clips that were asked for."""
_CLIP_LOST = "no clip was written: the connection that had it is gone."
_PLAUSIBLE_S = 30.0
"""A stream's own clock may go on by so much more than the outage lasted, and is believed."""


class Ingest:
    """Reads all halves of a run. Use as a context manager.

    Args:
        config: what to read, and how.
        spec: how the bundle wants its pictures.
        on_clip: hears of every clip that was asked for.
        clock: the monotonic clock.
        anchor: where an earlier run of this live stream ended; its reach is the time since.
        on_preview: takes pictures as JPEG, while they are wanted; in the thread that takes the messages.
    """

    def __init__(
        self,
        config: IngestConfig,
        spec: PictureSpec,
        on_clip: Callable[[ClipDone], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        anchor: Anchor | None = None,
        on_preview: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._config, self._spec, self._on_clip, self._clock = config, spec, on_clip, clock
        self._anchor, self._on_preview = anchor, on_preview
        self._preview_wanted, self._preview_lock = False, threading.Lock()
        self._stopped = threading.Event()
        self._reader: _Reader | None = None
        self._last: _Reader | None = None  # at its stream's end, and kept for the clips that are still asked of it
        self._finishing: list[threading.Thread] = []

    def __enter__(self) -> "Ingest":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._retire()
        for thread in self._finishing:
            thread.join()

    @property
    def pid(self) -> int | None:
        """Process id of the reading process; None if there is none now."""
        return self._reader.pid if self._reader is not None else None

    def stop(self) -> None:
        """Let `messages` end; safe from any thread, and twice."""
        self._stopped.set()

    def clip(self, request: ClipRequest) -> None:
        """Have a clip written; call it from the thread that takes the messages."""
        for reader in (self._reader, self._last):
            if reader is not None and request.epoch >= reader.first_epoch:
                reader.clip(request)
                return
        self._on_clip(ClipDone(None, f"{request.path_stem}: {_CLIP_LOST}"))

    def preview(self, wanted: bool) -> None:
        """Have pictures shown, or not, from now on and by every connection; safe from any thread."""
        with self._preview_lock:
            self._preview_wanted = wanted
            if self._reader is not None:
                self._reader.order(PreviewOrder(wanted))

    def messages(self) -> Iterator[Message | None]:
        """Yield what happens until all halves have ended, or `stop` was called.

        Live also yields None whenever nothing has come for a moment, so that whoever takes them can look at the clock.

        Raises:
            TouchlineError: a source could not be opened.
        """
        for half, url in enumerate(self._config.urls, 1):
            if self._config.part(half) is None:
                continue
            for message in self._half(half, url):
                if self._stopped.is_set():
                    return
                if message is not None or self._config.live:
                    yield message

    def _half(self, half: int, url: str) -> Iterator[Message | None]:
        """Read one half through all its connections."""
        watchdog = Watchdog(half, self._config.watch, live=self._config.live)
        link = _Link(half, self._anchor, self._clock())
        while True:
            job = self._job(half, url, link)
            yield watchdog.opening(self._clock())
            reader = self._open(job)
            fault = yield from self._connection(reader, watchdog, link)
            if fault is not None and fault.cause == "no_media" and url in STDIN and link.opened:
                fault = None  # a pipe whose writer has left while it was read again
            if fault is None or (link.opened and (link.recording or not self._config.live)):
                yield watchdog.ended()
                yield HalfEnded(half, str(fault) if fault is not None else None)
                self._retire()
                return
            change = watchdog.failed(self._clock(), fault)
            yield change
            self._retire(keep=fault.cause in ("ended", "broke_off"))
            if change.state == "failed":
                if not link.opened:
                    raise fault
                yield HalfEnded(half, str(fault))
                return
            while watchdog.until_open_s(self._clock()) > 0:
                self._stopped.wait(min(_POLL_S, watchdog.until_open_s(self._clock())))
                yield None

    def _open(self, job: Job) -> "_Reader":
        reader = _Reader(job, self._on_clip, self._on_preview)
        with self._preview_lock:
            self._reader = reader
            if self._preview_wanted:
                reader.order(PreviewOrder(True))
        return reader

    def _connection(
        self, reader: "_Reader", watchdog: Watchdog, link: "_Link"
    ) -> Generator[Message | None, None, SourceFault | None]:
        """Pass on what one connection says; return why it is over, or None at the stream's own end."""
        while True:
            report = reader.receive(_POLL_S)
            if report is None:
                stalled = watchdog.stalled(self._clock())
                if stalled is not None:
                    return SourceFault(f"{redact_url(reader.job.url)}: {stalled}.", stalled.cause)
                yield None
            elif isinstance(report, Ended):
                return report.fault
            elif isinstance(report, TouchlineError):
                raise report
            elif isinstance(report, Connected) and link.opened and report.info.recording:
                return None  # it was live, and is over: what is there now would be all of it again
            else:
                yield from self._hear(report, watchdog, link)

    def _hear(
        self, report: Listening | Connected | Alive | Arrived, watchdog: Watchdog, link: "_Link"
    ) -> Iterator[Message]:
        now_s = self._clock()
        if isinstance(report, Listening):
            yield watchdog.listening(report.address)
        elif isinstance(report, Connected):
            watchdog.opened(now_s, report.info.burst_s + self._pace_s(report.info))
            yield Opened(link.half, report.info, again=link.opened)
            link.opened, link.recording = True, report.info.recording
            if report.info.recording and self._reader is not None:
                self._reader.first_epoch = 0
        elif isinstance(report, Alive):
            watchdog.alive(now_s)
        else:
            change = watchdog.progressed(now_s)
            if change is not None:
                yield change
            yield link.arrived(report, now_s)

    def _pace_s(self, info: StreamInfo) -> float:
        """Return how long a second of a slowly played recording takes."""
        return 1 / self._config.speed if self._config.speed and info.recording else 0.0

    def _retire(self, *, keep: bool = False) -> None:
        """Part from a connection: at once, or, if it may still hold what clips need, when the next one is over."""
        reader, self._reader = self._reader, None
        keep &= self._config.clips_keep_s is not None
        over = [self._last] if keep else [self._last, reader]
        self._last = reader if keep else None
        self._finishing = [thread for thread in self._finishing if thread.is_alive()]
        for old in over:
            if old is not None:  # it may take a while to write clips, and what is due must not wait for that
                self._finishing.append(threading.Thread(target=old.finish, name="finish-reading"))
                self._finishing[-1].start()

    def _job(self, half: int, url: str, link: "_Link") -> Job:
        start_s, end_s = self._config.part(half) or (0.0, 0.0)
        return Job(
            half,
            url,
            self._config,
            self._spec,
            anchor=link.anchor(self._clock()),
            from_s=int(max(0.0, start_s - self._config.context_s)),
            to_s=end_s + self._config.context_s,
            stdin=stdin_of(url),
        )


class _Link:
    """What the connections of one half have in common."""

    def __init__(self, half: int, anchor: Anchor | None, now_s: float) -> None:
        self.half = half
        self.opened = self.recording = False
        self._past, self._now = Counts(), Counts()
        self._anchor = anchor
        self._progressed_s = now_s - (anchor.reach_us / 1e6 if anchor is not None else 0.0)

    def arrived(self, arrived: Arrived, now_s: float) -> Arrived:
        """Take a second; return it with the counts of all connections."""
        self._now, self._anchor, self._progressed_s = arrived.counts, arrived.anchor, now_s
        return replace(arrived, counts=self._now.after(self._past))

    def anchor(self, now_s: float) -> Anchor | None:
        """Begin another connection; return where its clock goes on."""
        self._past, self._now = self._now.after(self._past), Counts()
        if self._anchor is None:
            return None
        return replace(self._anchor, reach_us=int((now_s - self._progressed_s + _PLAUSIBLE_S) * 1e6))


class _Reader:
    """One reading process."""

    def __init__(self, job: Job, on_clip: Callable[[ClipDone], None], on_preview: Callable[[bytes], None]) -> None:
        self.job, self._on_clip, self._on_preview = job, on_clip, on_preview
        self._owed = 0  # clips that were asked for, and not answered yet
        self.first_epoch = job.anchor.epoch if job.anchor is not None else 0
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        orders, self._orders = multiprocessing.Pipe(duplex=False)
        self._ordering = threading.Lock()
        self._process = child.start(main, sender, orders, job, name="touchline-ingest")
        sender.close()  # so that the end of the process is the end of the pipe
        orders.close()

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def receive(self, timeout_s: float) -> Said | None:
        """Return what it says next; None if it says nothing for a while, or only of clips and preview."""
        try:
            report: Report | None = self._receiver.recv() if self._receiver.poll(timeout_s) else None
        except (EOFError, OSError):
            return Ended(SourceFault(f"{redact_url(self.job.url)}: the reading process died.", "died"))
        if isinstance(report, Preview):
            self._on_preview(report.jpeg)
            return None
        if not isinstance(report, ClipDone):
            return report
        self._owed -= 1
        self._on_clip(report)
        return None

    def order(self, order: object) -> None:
        """Send an order, which a process that has gone need not take; from any thread."""
        with self._ordering, suppress(OSError):
            self._orders.send(order)

    def clip(self, request: ClipRequest) -> None:
        """Have a clip written."""
        self._owed += 1
        self.order(request)

    def finish(self) -> None:
        """Have it write the clips that were asked for, if there may be any; end it, with whatever it has started."""
        if self.job.config.clips_keep_s is not None:
            self.order(FINISH)
            self._hear_it_out()
        child.end(self._process)
        self._receiver.close()
        with self._ordering:
            self._orders.close()

    def _hear_it_out(self) -> None:
        """Take what it still says, for a while, until it has ended."""
        until_s = time.monotonic() + _END_WAIT_S
        with suppress(EOFError, OSError):
            while self._receiver.poll(max(0.0, until_s - time.monotonic())):
                report = self._receiver.recv()
                if isinstance(report, ClipDone):
                    self._owed -= 1
                    self._on_clip(report)
        for _ in range(self._owed):
            self._on_clip(ClipDone(None, f"{redact_url(self.job.url)}: {_CLIP_LOST}"))
