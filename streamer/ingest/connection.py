"""Source, timeline and sampler of one connection, in a process of their own: the process's whole life.

In: a Job, and orders for clips and the preview. Out, on a pipe: what happened, and Seconds in order. The process may be
killed at any moment, so nothing that FFmpeg does can hang the streamer.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from engines.errors import TouchlineError
from engines.second import Second
from streamer.config import IngestConfig
from streamer.ingest import child
from streamer.ingest.child import PassedFd
from streamer.ingest.clips import ClipRequest, Clips
from streamer.ingest.messages import Alive, Arrived, Connected, Counts, Ended, Listening, PreviewOrder
from streamer.ingest.outlet import Outlet
from streamer.ingest.pacing import Lateness, Pacer
from streamer.ingest.preview import Previews
from streamer.redact import redact_url
from streamer.sampler import Sampler
from streamer.sources.base import Frame, PictureSpec, Source, SourceFault, Wall
from streamer.sources.libav import LibavSource
from streamer.sources.opening import STDIN, open_source
from streamer.sources.ring import Ring
from streamer.timeline import Anchor, unwrapped_us

_UNDECODABLE_PACKETS = 250
"""So many packets in a row without a picture, and a live source has changed under the decoder: ten seconds' worth."""

_PLAYLIST_BURSTS = 2
"""A live playlist is entered at its newest segment: so much of it may have been seen."""
_ANYWHERE_US = 2**62
"""The clock of a recording is one from end to end."""


@dataclass(frozen=True, slots=True)
class Job:
    """One connection.

    Attributes:
        half: of the match.
        url: what to open.
        config: how.
        spec: how the bundle wants its pictures.
        anchor: where the connection before this one ended.
        from_s: media second from which seconds are given out.
        to_s: up to which.
        stdin: the streamer's standard input, if the URL names it.
    """

    half: int
    url: str
    config: IngestConfig
    spec: PictureSpec
    anchor: Anchor | None = None
    from_s: int = 0
    to_s: float = float("inf")
    stdin: PassedFd | None = None


FINISH = "finish"
"""The last order: ends the process, once clips that were asked for are written."""


def main(sender: Connection, orders: Connection, job: Job) -> None:
    """Read one connection and say what was found."""
    child.begin()
    outlet = Outlet(
        sender, job.config.backlog_s, job.config.stale_s if job.config.live else None, job.config.speed or 1.0
    )
    ring = Ring(job.config.clips_keep_s) if job.config.clips_keep_s is not None else None
    clips = Clips(ring, outlet.send) if ring is not None else None
    previews = Previews(outlet.show)
    finished = threading.Event()
    obeying = (orders, clips, previews, outlet, finished)
    threading.Thread(target=_obey, args=obeying, name="orders", daemon=True).start()
    try:
        try:
            outlet.send(Ended(_Connection(job, outlet, ring, clips, previews).read()))
        except SourceFault as fault:
            outlet.send(Ended(fault))
        except TouchlineError as error:
            outlet.send(error)
        if clips is not None:
            finished.wait()
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody listens any more
    finally:
        outlet.close()


def _obey(
    orders: Connection, clips: Clips | None, previews: Previews, outlet: Outlet, finished: threading.Event
) -> None:
    """Take the streamer's orders, and the last one even while FFmpeg waits for a silent stream."""
    with suppress(EOFError, OSError):
        while (order := orders.recv()) != FINISH:
            if isinstance(order, PreviewOrder):
                previews.want(order.wanted)
            elif isinstance(order, ClipRequest) and clips is not None:
                clips.ask(order)
        if clips is not None:
            clips.finish()
        outlet.close()
        finished.set()
        os._exit(0)


class _Connection:
    """Reads one connection from its opening to its end."""

    def __init__(self, job: Job, outlet: Outlet, ring: Ring | None, clips: Clips | None, previews: Previews) -> None:
        self._job, self._config, self._outlet = job, job.config, outlet
        self._ring, self._clips, self._previews = ring, clips, previews
        self._counts = Counts()
        self._sent = 0  # seconds
        self._alive_s = -1  # media second up to which we have said that we read

    def read(self) -> SourceFault | None:
        """Send every second; return why the stream broke off, or None at its own end.

        Raises:
            TouchlineError: it could not be opened, or no picture came.
        """
        job, config = self._job, self._config
        source = open_source(
            job.url,
            options=config.input_options,
            threads=1 if config.live else config.threads,
            listening=lambda address: self._outlet.send(Listening(address)),
            start_s=job.from_s or None,
            tap=self._ring.push if self._ring is not None else None,
            give_up_after=_UNDECODABLE_PACKETS if config.live else None,
            stdin_fd=job.stdin.fd if job.stdin is not None else None,
        )
        self._outlet.send(Connected(source.info))
        fault = self._read(source, Sampler(job.spec, self._anchor(source), job.from_s))
        source.close()  # not when something is raised: another thread may be inside it, and the process ends anyway
        if fault is None and config.live and not source.info.recording and job.url not in STDIN:
            return SourceFault(f"{redact_url(job.url)}: the live stream came to an end.", "ended")
        return fault

    def _anchor(self, source: Source) -> Anchor | None:
        """Return where the clock goes on: after the last connection, or in the middle of a recording."""
        if self._job.from_s and isinstance(source, LibavSource) and source.first_us is not None:
            return Anchor(epoch=0, media_us=0, stream_us=source.first_us, reach_us=_ANYWHERE_US)
        return None if source.info.recording else self._job.anchor  # a recording says the same ids in every run

    def _read(self, source: Source, sampler: Sampler) -> SourceFault | None:
        fault = None
        try:
            for frame in self._frames(source):
                self._say_alive(sampler.timeline.newest.us)
                self._previews.offer(frame)
                before = sampler.timeline.newest
                for second in sampler.push(frame):
                    if second.index >= self._job.to_s:
                        return None
                    self._send(second, source, sampler)
                at = sampler.timeline.newest
                if self._ring is not None and frame.picture is not None and at != before:
                    self._ring.place(frame.pts, at.epoch, at.us)
        except SourceFault as broken:
            fault = broken
        if self._counts.frames == 0:
            raise fault or SourceFault(
                "No picture could be decoded from this stream, so there is nothing to watch.", "undecodable"
            )
        for second in sampler.flush():
            if second.index < self._job.to_s:
                self._send(second, source, sampler)
        if not self._sent and self._job.from_s and fault is None:
            name, clock = redact_url(self._job.url), f"{self._job.from_s // 60}:{self._job.from_s % 60:02d}"
            raise SourceFault(f"{name}: ends before {clock}, from where it was to be read.", "ended")
        return fault

    def _say_alive(self, media_us: int) -> None:
        """Say, of a part that is only read up to, that it is being read."""
        second = media_us // 1_000_000
        if second < self._job.from_s and second > self._alive_s:
            self._alive_s = second
            self._outlet.send(Alive())

    def _frames(self, source: Source) -> Iterator[Frame]:
        """Yield the frames: a replay's decoded ahead, live ones with their arrival, paced ones when they are due."""
        config, counts = self._config, self._counts
        paced = source.info.recording or not config.live  # what is live has its own pace
        pacer = Pacer(config.speed) if config.speed and paced else None
        lateness = Lateness(config.stale_s + source.info.burst_s)
        for frame in self._unseen(source) if config.live else ahead(source.frames(), config.ahead_frames):
            if pacer is not None:
                frame = pacer.wait(frame)
            if frame.picture is not None:
                counts = replace(counts, frames=counts.frames + 1, corrupt_frames=counts.corrupt_frames + frame.corrupt)
                self._counts = counts
                if config.live:
                    late = pacer.late_s > config.stale_s if pacer is not None else lateness.of(frame, source.waited_s)
                    if late:
                        source.skip()
                    if frame.wall is None:
                        frame = replace(frame, wall=Wall(time.time_ns() // 1000, "arrival"))
            yield frame

    def _unseen(self, source: Source) -> Iterator[Frame]:
        """Yield a live source's frames; of a playlist that has not moved on, none that was there before the fault."""
        anchor, reach_us = self._job.anchor, round(_PLAYLIST_BURSTS * source.info.burst_s * 1e6)
        seen_us = anchor.stream_us if anchor is not None and not source.info.recording else None
        for frame in source.frames():
            if seen_us is not None and reach_us and frame.pts is not None:
                ago_us = seen_us - unwrapped_us(frame.pts, frame.time_base, frame.wraps_at, seen_us)
                if 0 <= ago_us < reach_us:
                    continue
                if frame.picture is not None:
                    seen_us = None  # from here on it is new, wherever its timestamps jump
            yield frame

    def _send(self, second: Second, source: Source, sampler: Sampler) -> None:
        self._sent += 1
        counts = replace(
            self._counts,
            decode_errors=source.decode_errors,
            skipped_frames=source.skipped,
            repairs=dict(sampler.timeline.repairs),
        )
        self._outlet.send(Arrived(self._job.half, second, counts, sampler.timeline.next_anchor(0)))
        if self._clips is not None:
            self._clips.advance(second.epoch, (second.index + 1) * 1_000_000)


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
