"""Where words go: broker, pages, files, screen, counters. On the event loop; nothing here makes the middle wait.

A word that a broker is to have is in the outbox before anybody hears it. Words keep their order everywhere.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from engines.bundle import Bundle
from engines.decider import Spot
from engines.errors import DeliveryError
from engines.second import FORCED, RESTARTED
from streamer.config import MqttConfig, RunConfig
from streamer.delivery import Delivery
from streamer.desk import Desk
from streamer.feed import Advanced
from streamer.files.run_files import RunFiles
from streamer.ingest.clips import spot_id_of
from streamer.ingest.messages import ClipDone, Opened, SourceChanged
from streamer.metrics import Metrics
from streamer.outbox import Mark
from streamer.pages.hub import Hub
from streamer.payload import AnswerMessage, ClipMessage, Health, SpotMessage, StatusMessage
from streamer.progress import Progress
from streamer.redact import printable
from streamer.reports import VERSION, Reports
from streamer.sources.base import StreamInfo
from streamer.timeline import Anchor
from streamer.web import serve

log = logging.getLogger("touchline")

_TICK_S = 1.0
_AGAIN_TICKS = 60
"""The status is told again so often, whoever may have overwritten it: the will of a run that died, for instance."""
_SLOW_DISK_S, _DISK_S = 2.0, 20.0
"""After so long the disk counts as slow; and so long it is waited for at the end."""


class Screen(Protocol):
    """What people see of a run. Called on the event loop only."""

    def opened(self, half: int, info: StreamInfo) -> None:
        """A stream is open."""

    def advanced(self, media_s: float, factor: float) -> None:
        """A second was processed; `factor` is media seconds per second of wall clock."""

    def said(self, spot: Spot, said: datetime) -> None:
        """A word was said."""


class Outputs:
    """Everything that hears of one run.

    Args:
        config: of the run.
        bundle: what scores.
        screen: what people see.
        metrics: what is counted for Prometheus.
        progress: what is counted for the run's end.
        fail: told of an output that cannot go on.

    Attributes:
        desk: obeys commands.
        hub: tells the pages, if any are served.
    """

    def __init__(
        self,
        config: RunConfig,
        bundle: Bundle,
        screen: Screen,
        metrics: Metrics,
        progress: Progress,
        fail: Callable[[Exception], None],
    ) -> None:
        self._config, self._bundle, self._screen, self._fail = config, bundle, screen, fail
        self._metrics, self._progress = metrics, progress
        self._files = RunFiles(config.output.files, config.stream, live=config.ingest.live)
        self._run = secrets.token_hex(6)
        self._delivery = Delivery(config.output, config.stream, self._run, metrics, self, fail)
        self.desk = Desk({label: d.threshold for label, d in bundle.manifest.decision.items()})
        self.hub: Hub | None = None
        self._reports = Reports(config.stream, self._run, bundle, self.desk, progress)
        self._latest_s = _latest_s(config, self._reports.deadline_s)
        self._last_status: StatusMessage | None = None
        self._newest: Advanced | None = None
        self._continues = False  # whether media time goes on over runs: a live stream's does
        self._said: list[tuple[Spot, datetime]] = []  # what is not stored, and so not told, yet
        self._mark: Mark | None = None
        self._wake, self._stopping = asyncio.Event(), False
        self._storing, self._storing_since_s = 0, 0.0  # words that are being stored now, and since when
        self._tasks: set[asyncio.Task[None]] = set()

    # Beginning and end

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect to the broker and serve the pages, as far as they are wanted; both end with the stack.

        Raises:
            TouchlineError: something cannot be started or reached.
        """
        output = self._config.output
        reports = self._reports
        self._metrics.describe(VERSION, self._bundle.name, reports.promise_s, reports.deadline_s)
        await self._delivery.open(stack)
        self.desk.recall(self._delivery.commanded)
        if self.desk.paused or self.desk.muted or self.desk.thresholds:
            log.warning("what was commanded in an earlier run still holds: %s", self.desk.as_text())
        if output.serve is not None:
            self.hub = Hub(self._reports.hello(live=self._config.ingest.live, clips=self._config.clips is not None))
            clips = self._config.clips.folder if self._config.clips is not None else None
            url = await stack.enter_async_context(serve(output.serve, self._metrics, self.not_ready, self.hub, clips))
            log.info("dashboard at %s/, overlay at %s/overlay, metrics at %s/metrics", url, url, url)
        await self._delivery.connect(self._status(), self._obey)
        self._tell_status()
        self._begin(self._store_for_ever(), "touchline-store")
        self._ticking = self._begin(self._tick_for_ever(), "touchline-tick")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let a bug in a task end the run, instead of vanishing."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    async def stop(self, reason: str | None = None) -> None:
        """Write and deliver what is pending.

        Args:
            reason: why the run ends, unless at the stream's own end.

        Raises:
            TouchlineError: something could not be written, or not be delivered in this run.
        """
        self._progress.open = False
        self._metrics.stream_up.set(0)
        self._stopping = True
        self._wake.set()
        self._ticking.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_DISK_S)
        if self._progress.seconds:
            log.info("%s", self._progress)
        if self._said or self._tasks:
            raise DeliveryError("The disk does not answer, so the last words could not be stored, and were not said.")
        stopped = self._reports.status("stopped", {}, reason)
        if self.hub is not None:
            self.hub.send("status", stopped)
        try:
            await self._files.close()
        finally:
            await self._delivery.stop(stopped)

    @property
    def anchor(self) -> Anchor | None:
        """Where an earlier run of this live stream ended; None if nobody knows."""
        return self._delivery.anchor() if self._config.ingest.live else None

    def not_ready(self) -> str | None:
        """Return why the run is not ready, or None when it is."""
        if not self._progress.open:
            return self._progress.why_not_open or "the stream is not open"
        return "the broker is not connected" if self._delivery.connected is False else None

    # What is heard of the run

    def opened(self, opened: Opened) -> None:
        """Hear that a half's stream is open."""
        self._progress.openings += 1
        self._metrics.source_openings.inc()
        if opened.again:
            return
        if opened.info.audio is None:
            log.warning("this stream has no sound; spots rest on the picture alone and say so (no-audio)")
        self._continues = self._config.ingest.live and not opened.info.recording
        if self._continues:
            self._retract_standing()
        self._files.begin(opened.info, opened.half)
        self._screen.opened(opened.half, opened.info)

    def changed(self, change: SourceChanged) -> None:
        """Hear that a source is otherwise than before."""
        self._progress.open = change.state == "running"
        self._progress.why_not_open = change.reason
        self._metrics.source_changed(change)
        if change.state == "waiting":
            log.warning("%s Trying again in %.1f s.", change.reason, change.retry_in_s)
        elif change.state == "listening":
            log.info("%s", change.reason)
        elif change.state == "running" and change.failures:
            log.info("the stream goes on")
        self._reports.changed(change)
        self._tell_status()

    def clipped(self, clip: ClipDone) -> None:
        """Hear of a clip."""
        self._metrics.clips.labels("failed" if clip.error else "written").inc()
        self._progress.clips += clip.error is None
        if clip.path is None:
            log.warning("%s", clip.error)
        elif self.hub is not None:
            self.hub.send("clip", ClipMessage(id=spot_id_of(clip.path), url=f"clips/{clip.path.name}"))

    def advanced(self, at: Advanced) -> None:
        """Hear that a second was processed."""
        new_epoch = self._newest is None or at.epoch != self._newest.epoch
        self._newest = at
        self._screen.advanced(at.media_s, self._progress.factor)
        if self._continues and at.anchor is not None:
            self._mark = Mark(at.anchor.epoch, at.anchor.media_us, at.anchor.stream_us, datetime.now(UTC))
            self._wake.set()
        if new_epoch:
            self._tell_clock()
        if self.hub is not None or self._delivery.with_scores:
            scores = self._reports.scores(at)
            if self._delivery.with_scores:
                self._delivery.pass_on("scores", scores)
            if self.hub is not None:
                self.hub.send("scores", scores)

    def said(self, spot: Spot, said: datetime) -> None:
        """Take a word; everybody hears it as soon as it is stored."""
        if not self.desk.lets(spot):
            self._metrics.withheld(spot.label)
            return
        self._said.append((spot, said))
        self._wake.set()

    def picture(self, jpeg: bytes) -> None:
        """Take a picture for those who watch."""
        if self.hub is not None:
            self.hub.picture(jpeg)

    # What is heard of the broker

    def on_connected(self, up: bool) -> None:
        """See publisher.Observer."""
        self._metrics.on_connected(up)
        self._tell_status()

    def on_published(self, duration_s: float) -> None:
        """See publisher.Observer."""
        self._metrics.on_published(duration_s)
        self._reports.published(duration_s)

    def on_publish_failed(self) -> None:
        """See publisher.Observer."""
        self._metrics.on_publish_failed()

    def _obey(self, command: str, payload: bytes) -> AnswerMessage:
        answer = self.desk.obey(command, payload)
        self._metrics.commanded(command, answer.ok)
        log.info("command %s: %s", printable(command), printable(answer.reason or "done"))
        if answer.ok:
            self._begin(self._delivery.remember_commands(self.desk.as_text()), "touchline-desk")
        self._tell_status()
        return answer

    # Words: stored, then told

    async def _store_for_ever(self) -> None:
        while self._said or self._mark is not None or not self._stopping:
            if not self._stopping:
                await self._wake.wait()
            self._wake.clear()
            batch, self._said = self._said, []
            mark, self._mark = self._mark, None
            self._storing, self._storing_since_s = len(batch), time.monotonic()
            try:
                messages = [SpotMessage.of(spot, said) for spot, said in batch]
                await self._delivery.put(messages, mark)
                for (spot, said), message in zip(batch, messages, strict=True):
                    self._tell(spot, said, message)
                if batch:
                    await self._files.say(batch)
            except Exception as fault:
                self._fail(fault)
            finally:
                self._storing = 0

    def _tell(self, spot: Spot, said: datetime, message: SpotMessage) -> None:
        self._count(spot)
        if self._reports.said(spot) == 1:
            self._tell_stats()  # so that pages need not wait for them
        self._delivery.deliver(message)
        if self.hub is not None:
            self.hub.send("spot", message)
        self._screen.said(spot, said)

    def _retract_standing(self) -> None:
        """Take back what an earlier run left open; a recording says all of it again, under the same ids."""
        for message in self._delivery.standing():
            spot = message.spot()
            flags = tuple(sorted({*spot.flags, RESTARTED}))
            word = replace(spot, state="retracted", revision=spot.revision + 1, flags=flags)
            self._said.append((word, datetime.now(UTC)))
        self._wake.set()

    def _count(self, spot: Spot) -> None:
        p = self._progress
        missed = spot.state != "provisional" and (
            spot.delay_s + spot.latency.get("compute", 0.0) > self._latest_s.get(spot.label, float("inf"))
        )
        p.spots += spot.state == "confirmed"
        p.retracted += spot.state == "retracted"
        p.provisional += spot.state == "provisional"
        p.forced += spot.state != "provisional" and FORCED in spot.flags
        p.missed += missed
        self._metrics.count_word(spot, missed=missed)

    # What is told of the run

    async def _tick_for_ever(self) -> None:
        """Tell what changes with time."""
        mqtt = self._config.output.mqtt or MqttConfig()
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            self._tell_status(again=ticks % _AGAIN_TICKS == 0)
            if ticks % round(mqtt.clock_s) == 0:
                self._tell_clock()
            if ticks % round(mqtt.stats_s) == 0:
                self._tell_stats()

    def _status(self) -> StatusMessage:
        slow = self._storing and time.monotonic() - self._storing_since_s > _SLOW_DISK_S
        health = self._delivery.health(len(self._said) + self._storing if slow else 0)
        if self._files:
            health["files"] = Health(state="failed" if self._files.fault else "ok", reason=self._files.fault)
        return self._reports.status("online", health)

    def _tell_status(self, *, again: bool = False) -> None:
        """Tell how the stream is, if that has changed, or `again`."""
        status, last = self._status(), self._last_status
        if not again and last is not None and status.model_copy(update={"at_utc": last.at_utc}) == last:
            return
        self._last_status = status
        self._delivery.keep(status)
        if self.hub is not None:
            self.hub.send("status", status)

    def _tell_clock(self) -> None:
        if self._newest is not None:
            clock = self._reports.clock(self._newest)
            self._delivery.keep(clock)
            if self.hub is not None:
                self.hub.send("clock", clock)

    def _tell_stats(self) -> None:
        stats = self._reports.stats(self._delivery.outbox)
        self._delivery.pass_on("stats", stats)
        if self.hub is not None:
            self.hub.send("stats", stats)


def _latest_s(config: RunConfig, deadline_s: Mapping[str, float]) -> dict[str, float]:
    """Return the delay, compute included, after which a label's final word has missed its deadline; live only."""
    if not config.ingest.live:
        return {}
    return {label: seconds + config.guard.missed_s for label, seconds in deadline_s.items()}
