"""What the reading process says, fed to the middle: the computing thread's whole work.

In: messages. Out: words, and how long they took. Live asks the guard, so that what is due goes out even when nothing
comes, and before work that waits; replay has no guard, and so no clock.
"""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from engines.bundle import Bundle
from engines.decider import Spot
from engines.head import Scores
from engines.spotter import Spotter
from streamer.config import RunConfig
from streamer.guard import Guard
from streamer.ingest.messages import Arrived, HalfEnded, Message, Opened, SourceChanged
from streamer.metrics import Metrics
from streamer.progress import Progress
from streamer.timeline import Anchor
from streamer.wallclock import WallClock


@dataclass(frozen=True, slots=True)
class Advanced:
    """A second was processed.

    Attributes:
        half: which file of a match.
        epoch: of the second.
        media_s: its end.
        utc: when its end was taken, by `clock`; None if nobody knows.
        clock: who says so.
        pts: the stream's own timestamp of its end, see Spot.
        scores: the rows that were scored with it.
        anchor: where another connection, or another run, would go on.
        compute_s: from its arrival to its scores.
    """

    half: int
    epoch: int
    media_s: float
    utc: datetime | None = None
    clock: str | None = None
    pts: int | None = None
    scores: Sequence[Scores] = ()
    anchor: Anchor | None = None
    compute_s: float = 0.0


class Listener(Protocol):
    """Who hears of the run."""

    def opened(self, opened: Opened) -> None:
        """A half's stream is open."""

    def changed(self, change: SourceChanged) -> None:
        """A source is otherwise than before."""

    def advanced(self, second: Advanced) -> None:
        """A second was processed; what it made due is said after this."""

    def said(self, spot: Spot) -> None:
        """A word was said."""


class Feed:
    """Takes the messages of one run.

    Args:
        bundle: what to spot with.
        config: of the run.
        listener: hears of it, in this thread.
        metrics: what is counted for Prometheus.
        progress: what is counted for the run's end.
        clock: the monotonic clock that arrivals are measured by.

    Attributes:
        broken: why a half broke off, if one did.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: RunConfig,
        listener: Listener,
        metrics: Metrics,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle, self._config, self._listener = bundle, config, listener
        self._metrics, self._progress, self._clock = metrics, progress, clock
        self._spotter: Spotter | None = None
        self._guard: Guard | None = None
        self._took_s = 0.0  # the last second's work
        self._part = (0.0, float("inf"))  # what is said of this half
        self._standing: dict[str, Spot] = {}  # said provisionally, and not finally yet
        self._wall = WallClock()
        self._orders: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._thresholds: dict[str, float] = {}  # as they were ordered
        self.broken: str | None = None

    def set_threshold(self, label: str, threshold: float) -> None:
        """Change a label's threshold from the next second on; safe from any thread."""
        self._orders.put((label, threshold))

    def take(self, message: Message | None) -> None:
        """Work on one message; None: nothing has come for a moment."""
        self._obey()
        if isinstance(message, Opened):
            self._open(message)
        elif isinstance(message, Arrived):
            self._push(message)
        elif isinstance(message, HalfEnded):
            self.broken = self.broken or message.error
            self.end()
        elif isinstance(message, SourceChanged):
            self._listener.changed(message)
        else:
            self._say_overdue()

    def _obey(self) -> None:
        while not self._orders.empty():
            label, threshold = self._orders.get()
            self._thresholds[label] = threshold
            if self._spotter is not None:
                self._spotter.set_threshold(label, threshold)

    def end(self) -> None:
        """Say what is pending: nothing more will come of this half."""
        if self._spotter is None:
            return
        started = self._clock()
        words = self._spotter.flush()
        self._say(words, lambda _: self._clock() - started)
        self._spotter = self._guard = None

    def _open(self, opened: Opened) -> None:
        ingest = self._config.ingest
        if not opened.again:
            self._spotter = Spotter(self._bundle, self._config.stream, opened.half)
            for label, threshold in self._thresholds.items():
                self._spotter.set_threshold(label, threshold)
            self._wall, self._part = WallClock(), ingest.part(opened.half) or self._part
            if ingest.live:
                speed = ingest.speed if ingest.speed and opened.info.recording else 1.0
                self._guard = Guard(self._config.guard, speed, self._clock)
        self._listener.opened(opened)

    def _push(self, arrived: Arrived) -> None:
        assert self._spotter is not None
        second = arrived.second
        if self._guard is not None:
            self._guard.arrived(second.index + 1, second.arrived_mono_s)
            self._say_overdue(self._took_s)
        self._wall.note(second)
        started = self._clock()
        words = self._spotter.push(second)
        done = self._clock()
        self._took_s = done - started
        self._advance(arrived)
        waited_s, since = done - second.arrived_mono_s, self._guard and self._guard.since
        self._listener.advanced(self._advanced(arrived, waited_s))
        self._say(words, lambda media_s: max(waited_s, since(media_s)) if since else waited_s)

    def _advanced(self, arrived: Arrived, compute_s: float) -> Advanced:
        assert self._spotter is not None
        epoch, end_s = arrived.second.epoch, float(arrived.second.index + 1)
        utc, clock = self._wall.at(epoch, end_s)
        pts, scores = self._wall.pts_at(epoch, end_s), self._spotter.scored
        return Advanced(arrived.half, epoch, end_s, utc, clock, pts, scores, arrived.anchor, max(compute_s, 0.0))

    def _say_overdue(self, within_s: float = 0.0) -> None:
        """Say what cannot wait for a second that should have come, or has come and waits for others to be worked on."""
        due_s = None if self._guard is None else self._guard.overdue(within_s)
        if due_s is not None and self._guard is not None and self._spotter is not None:
            self._say(self._spotter.expire(due_s), self._guard.since)

    def _say(self, words: list[Spot], compute_s: Callable[[float], float]) -> None:
        """Say words; `compute_s` tells of a media clock how long ago, by the wall clock, it was so late."""
        start_s, end_s = self._part
        for said in words:
            spot = said if start_s <= said.media_time < end_s else self._moved_out(said)
            if spot is None:
                continue
            if spot.state == "provisional":
                self._standing[spot.id] = spot
            else:
                self._standing.pop(spot.id, None)
            compute = round(max(compute_s(spot.emitted_at), 0.0), 6)
            utc, clock = self._wall.at(spot.epoch, spot.media_time)
            pts, latency = self._wall.pts_at(spot.epoch, spot.media_time), {**spot.latency, "compute": compute}
            bundle = self._bundle.name
            self._listener.said(replace(spot, latency=latency, utc=utc, clock=clock, pts=pts, bundle=bundle))

    def _moved_out(self, spot: Spot) -> Spot | None:
        """Return what is said of a spot outside the part: that it is no more, if it was inside and this is final."""
        inside = self._standing.get(spot.id)
        if inside is None or spot.state == "provisional":
            return None
        return replace(inside, state="retracted", revision=spot.revision, emitted_at=spot.emitted_at)

    def _advance(self, arrived: Arrived) -> None:
        p, metrics = self._progress, self._metrics
        p.last_mono_s = self._clock()
        p.started_mono_s = p.started_mono_s or p.last_mono_s  # the first second is where counting starts
        p.seconds += 1
        p.shed = arrived.counts.stale_seconds
        p.skipped = arrived.counts.skipped_frames
        metrics.stage.labels("second").observe(self._took_s)
        metrics.seconds.inc()
        metrics.count(arrived.half, arrived.counts, arrived.second.flags)
        metrics.last_frame.set(time.time() - (self._clock() - arrived.second.arrived_mono_s))
        metrics.media_time.set(arrived.second.index + 1)
        metrics.real_time_factor.set(p.factor)
