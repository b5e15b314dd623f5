"""Where words go: broker, pages, files, screen, counters. On the event loop; nothing here makes the middle wait.

A word is stored before anybody hears it: in the outbox, if a broker is to have it, and in the files. Its order is the
same everywhere.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, Protocol

from engines.bundle import Bundle
from engines.decider import Spot
from engines.errors import DataError
from engines.second import FORCED, RESTARTED
from streamer.config import MqttConfig, RunConfig
from streamer.delivery import Delivery
from streamer.desk import Desk
from streamer.feed import Advanced
from streamer.files.opening import out_file
from streamer.files.writing import OutFile
from streamer.ingest.clips import spot_id_of
from streamer.ingest.messages import ClipDone, Opened, SourceChanged
from streamer.metrics import Metrics
from streamer.outbox import Mark
from streamer.pages.hub import Hub
from streamer.payload import AnswerMessage, ClipMessage, SpotMessage, StatusMessage
from streamer.progress import Progress
from streamer.redact import printable
from streamer.reports import Reports
from streamer.sources.base import StreamInfo
from streamer.timeline import Anchor
from streamer.web import serve

log = logging.getLogger("touchline")

_TICK_S = 1.0


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
        self._latest_s = _latest_s(config, bundle)
        self._files = [out_file(path, config.stream) for path in config.output.files]
        self._delivery = Delivery(config.output, config.stream, metrics, self)
        self.desk = Desk({label: d.threshold for label, d in bundle.manifest.decision.items()})
        self.hub: Hub | None = None
        self._run = secrets.token_hex(6)
        self._reports = Reports(config.stream, self._run, bundle, self.desk, progress)
        self._last_status: StatusMessage | None = None
        self._newest: Advanced | None = None
        self._continues = False  # whether media time goes on over runs: a live stream's does
        self._said: list[tuple[Spot, datetime]] = []  # what is not stored, and so not told, yet
        self._mark: Mark | None = None
        self._wake, self._stopping = asyncio.Event(), False
        self._tasks: set[asyncio.Task[None]] = set()

    # Beginning and end

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect to the broker and serve the pages, as far as they are wanted; both end with the stack.

        Raises:
            TouchlineError: something cannot be started or reached.
        """
        output = self._config.output
        deadlines_s = _deadlines_s(self._bundle)
        self._metrics.describe(version("touchline"), self._bundle.name, self._reports.promise_s, deadlines_s)
        await self._delivery.open(stack)
        self.desk.recall(self._delivery.commanded)
        if output.serve is not None:
            self.hub = Hub(self._hello())
            clips = self._config.clips.folder if self._config.clips is not None else None
            url = await stack.enter_async_context(serve(output.serve, self._metrics, self.not_ready, self.hub, clips))
            log.info("dashboard at %s/, overlay at %s/overlay, metrics at %s/metrics", url, url, url)
        await self._delivery.connect(self._status("online"), self._obey)
        self._tell_status()
        self._begin(self._store_for_ever(), "touchline-store")
        self._ticking = self._begin(self._tick_for_ever(), "touchline-tick")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Write and deliver what is pending.

        Raises:
            TouchlineError: something could not be written, or not be delivered in this run.
        """
        self._progress.open = False
        self._metrics.stream_up.set(0)
        if self._progress.seconds:
            log.info("%s", self._progress)
        self._stopping = True
        self._wake.set()
        self._ticking.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        stopped = self._status("stopped")
        if self.hub is not None:
            self.hub.send("status", stopped)
        try:
            await self._write(lambda file: file.close())
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
        for file in self._files:
            file.begin(opened.info, opened.half)
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
            messages = [SpotMessage.of(spot, said) for spot, said in batch]
            try:
                await self._delivery.put(messages, mark)
                if batch:
                    await self._write(partial(_say, words=batch))
            except Exception as fault:
                self._fail(fault)
            for (spot, said), message in zip(batch, messages, strict=True):
                try:
                    self._tell(spot, said, message)
                except Exception as fault:
                    self._fail(fault)

    async def _write(self, write: Callable[[OutFile], None]) -> None:
        """Have each file written, in a thread; one that cannot be holds up no other.

        Raises:
            DataError: the first one's.
        """
        faults: list[DataError] = []

        def all_files() -> None:
            for file in self._files:
                try:
                    write(file)
                except DataError as fault:
                    faults.append(fault)

        if self._files:
            await asyncio.to_thread(all_files)
        if faults:
            raise faults[0]

    def _tell(self, spot: Spot, said: datetime, message: SpotMessage) -> None:
        self._count(spot)
        self._reports.said(spot)
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
            self._tell_status()
            if ticks % round(mqtt.clock_s) == 0:
                self._tell_clock()
            if ticks % round(mqtt.stats_s) == 0:
                self._tell_stats()

    def _status(self, state: Literal["online", "stopped"]) -> StatusMessage:
        return self._reports.status(state, self._delivery.outbox, self._delivery.connected)

    def _tell_status(self) -> None:
        """Tell how the stream is, if that has changed."""
        status, last = self._status("online"), self._last_status
        if last is not None and status.model_copy(update={"at_utc": last.at_utc}) == last:
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

    def _hello(self) -> dict[str, object]:
        """Return what a page must know of the run."""
        manifest = self._bundle.manifest
        return {
            "stream": self._config.stream,
            "run": self._run,
            "bundle": self._bundle.name._asdict(),
            "labels": list(manifest.labels),
            "promise": self._reports.promise_s,
            "deadline": _deadlines_s(self._bundle),
            "clips": self._config.clips is not None,
            "preview": True,
            "live": self._config.ingest.live,
            "version": version("touchline"),
        }


def _say(file: OutFile, words: Sequence[tuple[Spot, datetime]]) -> None:
    for spot, said in words:
        file.say(spot, said)


def _deadlines_s(bundle: Bundle) -> dict[str, float]:
    return {label: d.deadline_s for label, d in bundle.manifest.decision.items() if d.deadline_s is not None}


def _latest_s(config: RunConfig, bundle: Bundle) -> dict[str, float]:
    """Return the delay, compute included, after which a label's final word has missed its deadline; live only."""
    if not config.ingest.live:
        return {}
    return {label: deadline_s + config.guard.missed_s for label, deadline_s in _deadlines_s(bundle).items()}
