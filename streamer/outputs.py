"""Where words go: screen, file, broker, counters. All of it on the event loop; nothing here makes the middle wait."""

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Protocol

from engines.decider import Spot
from engines.second import FORCED
from streamer.broker import EmbeddedBroker
from streamer.config import OutputConfig
from streamer.ingest.messages import ClipDone, Opened, SourceChanged
from streamer.metrics import Metrics
from streamer.mqtt import parse_broker_url
from streamer.progress import Progress
from streamer.publisher import Publisher
from streamer.results import WordsFile, write_results
from streamer.sources.base import StreamInfo

log = logging.getLogger("touchline")


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
        config: where words go, beside the screen.
        stream: the broadcast's name.
        latest_s: label → the delay, compute included, after which a final word has missed its deadline.
        screen: what people see.
        metrics: what is counted for Prometheus.
        progress: what is counted for the run's end.
    """

    def __init__(
        self,
        config: OutputConfig,
        stream: str,
        latest_s: Mapping[str, float],
        screen: Screen,
        metrics: Metrics,
        progress: Progress,
    ) -> None:
        self._config, self._stream, self._latest_s = config, stream, latest_s
        self._screen, self._metrics, self._progress = screen, metrics, progress
        self._publisher: Publisher | None = None
        path = config.results
        self._words = WordsFile(path) if path is not None and path.suffix == ".jsonl" else None
        self._said: list[Spot] = []

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect to the broker, if there is to be one; an embedded one ends with the stack.

        Raises:
            TouchlineError: it cannot be started or reached.
        """
        url = self._config.mqtt_url
        if self._config.broker:
            broker = await stack.enter_async_context(EmbeddedBroker(port=self._config.broker_port))
            log.info("embedded broker at %s", broker.url)
            url = url or broker.url
        if url is None:
            return
        self._publisher = Publisher(url, self._stream, prefix=self._config.mqtt_prefix, observer=self._metrics)
        await self._publisher.start()
        log.info("publishing to %s", parse_broker_url(url))

    async def stop(self) -> None:
        """Write the results and deliver what is pending."""
        self._progress.open = False
        self._metrics.stream_up.set(0)
        if self._progress.seconds:
            log.info("%s", self._progress)
        try:
            self._write_results()
        finally:
            if self._publisher is not None:
                await self._publisher.stop(self._progress.statistics(), self._config.stop_timeout_s)

    def _write_results(self) -> None:
        if self._words is not None:
            self._words.close()
        elif self._config.results is not None and self._progress.seconds:  # nothing seen: leave the old file
            write_results(self._config.results, self._said, self._stream)

    def opened(self, opened: Opened) -> None:
        """Hear that a half's stream is open."""
        self._progress.openings += 1
        self._metrics.source_openings.inc()
        if opened.again:
            return
        if opened.info.audio is None:
            log.warning("this stream has no sound; spots rest on the picture alone and say so (no-audio)")
        if self._words is not None:
            self._words.open()
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
        if self._publisher is not None:
            self._publisher.tell_source(change)

    def clipped(self, clip: ClipDone) -> None:
        """Hear of a clip."""
        self._metrics.clips.labels("failed" if clip.error else "written").inc()
        self._progress.clips += clip.error is None
        if clip.error is not None:
            log.warning("%s", clip.error)

    def advanced(self, media_s: float) -> None:
        """Hear that a second was processed."""
        self._screen.advanced(media_s, self._progress.factor)

    def said(self, spot: Spot, said: datetime) -> None:
        """Hand a word to everybody."""
        self._count(spot)
        if self._words is not None:
            self._words.say(spot, said)
        elif self._config.results is not None:
            self._said.append(spot)
        if self._publisher is not None:
            self._publisher.say(spot, said)
        self._screen.said(spot, said)

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

    def not_ready(self) -> str | None:
        """Return why the run is not ready, or None when it is."""
        if not self._progress.open:
            return self._progress.why_not_open or "the stream is not open"
        if self._publisher is not None and not self._publisher.connected:
            return "the broker is not connected"
        return None
