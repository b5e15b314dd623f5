"""Source, timeline and sampler, in a process of their own.

In: an IngestConfig. Out: Seconds, in order. Replay waits for whoever takes them; live never makes the source wait: when
more than `backlog_s` seconds are pending the oldest is shed and counted. The process can be killed at any moment, so
nothing that FFmpeg does can hang the streamer.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

from engines.errors import SourceError, TouchlineError
from engines.second import Second
from streamer.config import IngestConfig
from streamer.sampler import Sampler
from streamer.sources.base import Frame, PictureSpec, Source, StreamInfo
from streamer.timeline import to_us

_POLL_S = 0.2
_END_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the process has counted so far."""

    frames: int = 0
    decode_errors: int = 0
    corrupt_frames: int = 0
    skipped_frames: int = 0
    shed_seconds: int = 0
    pending_seconds: int = 0
    repairs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """The source of half `half` is open."""

    half: int
    info: StreamInfo


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A second of half `half`."""

    half: int
    second: Second
    counts: Counts


@dataclass(frozen=True, slots=True)
class HalfEnded:
    """Half `half` is over. `error` says why, if it broke off."""

    half: int
    error: str | None


Message = Opened | Arrived | HalfEnded


class Ingest:
    """The reading process, seen from the streamer. Use as a context manager."""

    def __init__(self, config: IngestConfig, spec: PictureSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(sender, config, spec), name="touchline-ingest", daemon=True)
        self._stopped = threading.Event()
        self._halves, self._live = len(config.urls), config.live
        self._sender = sender

    def __enter__(self) -> "Ingest":
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
        self._process.start()  # it inherits that Ctrl-C is ignored, from its first moment
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
        self._sender.close()  # so that the end of the process is the end of the pipe
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._process.join(_END_WAIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._receiver.close()

    def stop(self) -> None:
        """End it; safe from any thread, and twice."""
        self._stopped.set()
        if self._process.is_alive():
            self._process.terminate()

    def messages(self) -> Iterator[Message | None]:
        """Yield what the process says until all halves have ended, or `stop` was called.

        Live also yields None whenever nothing has come for a moment, so that whoever takes them can look at the clock.

        Raises:
            SourceError: a source could not be opened, or the process died.
        """
        ended = 0
        while ended < self._halves and not self._stopped.is_set():
            try:
                message = self._receiver.recv() if self._receiver.poll(_POLL_S) else None
            except (EOFError, OSError) as error:
                if self._stopped.is_set():
                    return
                raise SourceError("The reading process died; run again, and report it if it happens again.") from error
            if isinstance(message, TouchlineError):
                raise message
            ended += isinstance(message, HalfEnded)
            if message is not None or self._live:
                yield message


def _main(sender: Connection, config: IngestConfig, spec: PictureSpec) -> None:
    """Read every half and say what was found; the process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    outlet = _Outlet(sender, config.backlog_s, shed=config.live)
    try:
        try:
            for half, url in enumerate(config.urls, 1):
                _read_half(half, url, config, spec, outlet)
        except TouchlineError as error:
            outlet.send(error)
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody listens any more
    finally:
        outlet.close()


def _end_with_parent() -> None:
    """End at once when the streamer is gone, even if it was killed and FFmpeg is waiting for a silent stream."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_half(half: int, url: str, config: IngestConfig, spec: PictureSpec, outlet: "_Outlet") -> None:
    from streamer.sources.libav import LibavSource

    source = LibavSource(
        url,
        options=config.input_options,
        open_timeout_s=config.open_timeout_s,
        read_timeout_s=config.read_timeout_s,
        threads=1 if config.live else config.threads,
    )
    outlet.send(Opened(half, source.info))
    pacer = Pacer(config.speed) if config.speed and source.info.recording else None
    error = _read(half, source, Sampler(spec), pacer, outlet, config)
    source.close()  # not when something is raised: the decoding thread may be inside it, and the process ends anyway
    outlet.send(HalfEnded(half, error))


def _read(
    half: int, source: Source, sampler: Sampler, pacer: "Pacer | None", outlet: "_Outlet", config: IngestConfig
) -> str | None:
    """Send every second of a source; return why it broke off, if it did."""
    counts, error = Counts(), None
    try:
        for frame in source.frames() if config.live else ahead(source.frames(), config.ahead_frames):
            if frame.picture is not None:
                counts = replace(counts, frames=counts.frames + 1, corrupt_frames=counts.corrupt_frames + frame.corrupt)
            if pacer is not None:
                frame = pacer.wait(frame)
                if frame.picture is not None and pacer.late_s > config.late_s:
                    source.skip()
            for second in sampler.push(frame):
                outlet.send(Arrived(half, second, _counted(counts, source, sampler)))
    except SourceError as broken:
        error = str(broken)
    if counts.frames == 0:
        raise SourceError(error or "No picture could be decoded from this stream, so there is nothing to watch.")
    for second in sampler.flush():
        outlet.send(Arrived(half, second, _counted(counts, source, sampler)))
    return error


def _counted(counts: Counts, source: Source, sampler: Sampler) -> Counts:
    repairs = dict(sampler.timeline.repairs)
    return replace(counts, decode_errors=source.decode_errors, skipped_frames=source.skipped, repairs=repairs)


def ahead(frames: Iterator[Frame], limit: int) -> Iterator[Frame]:
    """Yield the same frames, decoded ahead by a thread, at most `limit` of them: resizing need not stop decoding."""
    ready: queue.Queue[Frame | BaseException | None] = queue.Queue(limit)

    def decode() -> None:
        try:
            for frame in frames:
                ready.put(frame)
            ready.put(None)
        except BaseException as error:  # handed to whoever consumes
            ready.put(error)

    threading.Thread(target=decode, name="decode", daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


class Pacer:
    """Holds frames back until they are due, so that a file plays at `speed` times the speed of life."""

    _RE_ANCHOR_US = 10_000_000
    _STEP_US = 40_000  # of a picture without a timestamp

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._anchor: tuple[float, int] | None = None
        self._last_us = 0
        self.late_s = 0.0  # how far the last picture was behind its due time, wall clock

    def wait(self, frame: Frame) -> Frame:
        """Sleep until the frame is due; return it with its arrival time. Sound goes with the pictures around it."""
        if frame.picture is not None:
            missing = frame.pts is None
            at_us = self._last_us + self._STEP_US if missing else to_us(frame.pts or 0, frame.time_base)
            now = time.monotonic()
            if self._anchor is None or abs(at_us - self._last_us) > self._RE_ANCHOR_US:
                self._anchor = (now, at_us)
            self._last_us = at_us
            start_s, start_us = self._anchor
            due_s = start_s + (at_us - start_us) / 1e6 / self._speed
            self.late_s = now - due_s
            time.sleep(max(0.0, -self.late_s))
        return replace(frame, arrived_mono_s=time.monotonic())


class _Outlet:
    """Sends messages from a thread of its own, so that decoding goes on while the engines compute.

    Args:
        sender: the pipe to the streamer.
        backlog_s: seconds of media that may be pending.
        shed: when as many are pending, shed the oldest (live) instead of waiting (replay).
    """

    def __init__(self, sender: Connection, backlog_s: int, *, shed: bool) -> None:
        self._sender, self._backlog_s, self._shed = sender, backlog_s, shed
        self._pending: deque[Message | TouchlineError] = deque()
        self._shed_seconds = 0
        self._changed = threading.Condition()
        self._closing = self._gone = False
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        self._thread.start()

    def send(self, message: Message | TouchlineError) -> None:
        """Hand a message over.

        Raises:
            BrokenPipeError: nobody listens any more.
        """
        with self._changed:
            if isinstance(message, Arrived):
                if self._shed and len(self._seconds()) >= self._backlog_s:
                    self._pending.remove(self._seconds()[0])
                    self._shed_seconds += 1
                self._changed.wait_for(lambda: self._gone or len(self._seconds()) < self._backlog_s)
            if self._gone:
                raise BrokenPipeError
            self._pending.append(message)
            self._changed.notify_all()

    def close(self) -> None:
        """Send what is pending, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._sender.close()

    def _seconds(self) -> list[Arrived]:
        return [m for m in self._pending if isinstance(m, Arrived)]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                message = self._pending.popleft()
                self._changed.notify_all()
                pending = len(self._seconds())
            if isinstance(message, Arrived):
                counts = replace(message.counts, shed_seconds=self._shed_seconds, pending_seconds=pending)
                message = replace(message, counts=counts)
            try:
                self._sender.send(message)
            except BaseException as error:
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                if isinstance(error, BrokenPipeError | ConnectionResetError):
                    return
                raise
