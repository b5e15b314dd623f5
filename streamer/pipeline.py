"""Wires the stages: reading process → Spotter (a thread) → outputs (asyncio), and shuts them down.

One direction. The thread that computes never waits for an output; outputs are told through the event loop.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from engines.backends.base import Array, Engine
from engines.bundle import Bundle, Manifest, open_bundle
from engines.decider import Spot
from engines.errors import SourceError
from engines.spotter import Spotter
from streamer.broker import EmbeddedBroker
from streamer.config import RunConfig
from streamer.ingest import Arrived, HalfEnded, Ingest, Message, Opened
from streamer.metrics import Metrics
from streamer.mqtt import parse_broker_url
from streamer.publisher import Publisher
from streamer.results import write_results
from streamer.sampler import PictureSpec
from streamer.sources.base import StreamInfo
from streamer.web import serve

log = logging.getLogger("touchline")


class Screen(Protocol):
    """What people see of a run. Called on the event loop only."""

    def opened(self, half: int, info: StreamInfo) -> None:
        """A stream is open."""

    def advanced(self, media_s: float, factor: float) -> None:
        """A second was processed; `factor` is media seconds per second of wall clock."""

    def said(self, spot: Spot, said: datetime) -> None:
        """A spot was said."""


@dataclass(slots=True)
class Progress:
    """How far a run is; what the command and the metrics tell of it."""

    seconds: int = 0
    shed: int = 0
    skipped: int = 0
    spots: int = 0
    started_mono_s: float = 0.0
    last_mono_s: float = 0.0
    open: bool = False

    @property
    def factor(self) -> float:
        """Media seconds processed per second of wall clock, since the first one was done."""
        elapsed = self.last_mono_s - self.started_mono_s
        return (self.seconds - 1) / elapsed if elapsed > 0 else 0.0


class TimedEngine:
    """An engine whose runs are measured; the middle itself knows no clock."""

    def __init__(self, engine: Engine, stage: str, metrics: Metrics) -> None:
        self.inputs, self.outputs, self.metadata = engine.inputs, engine.outputs, engine.metadata
        self._run = engine.run
        self._observe = metrics.stage.labels(stage).observe

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine; see Engine."""
        started = time.perf_counter()
        out = self._run(feeds)
        self._observe(time.perf_counter() - started)
        return out


class Pipeline:
    """One run of `touchline live` or `touchline replay`."""

    def __init__(self, config: RunConfig, screen: Screen, metrics: Metrics | None = None) -> None:
        self._config = config
        self._screen = screen
        self.metrics = metrics or Metrics()
        self.progress = Progress()
        self._publisher: Publisher | None = None
        self._spots: list[Spot] = []
        self._broken: str | None = None
        self._fault: Exception | None = None
        self._stop: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Run until the stream ends.

        Raises:
            TouchlineError: anything a user can cause; what was found until then has been said.
            asyncio.CancelledError: interrupted; what was said until then has been delivered.
        """
        bundle = self._open_bundle()
        async with AsyncExitStack() as stack:
            if self._config.output.metrics_port is not None:
                url = await stack.enter_async_context(
                    serve(self._config.output.metrics_port, self.metrics, self._not_ready)
                )
                log.info("metrics at %s/metrics", url)
            await self._start_delivery(stack)
            try:
                await self._spot(bundle)
            finally:
                self._finish()
                self.metrics.stream_up.set(0)
                try:
                    self._write_results()
                finally:
                    await self._stop_delivery()
        if self._broken:
            raise SourceError(self._broken)

    def _open_bundle(self) -> Bundle:
        bundle = open_bundle(self._config.bundle)
        manifest = bundle.manifest
        _ = manifest.pictures  # says so if it cannot watch a video
        if self._config.threshold is not None:
            decision = {
                label: d.model_copy(update={"threshold": self._config.threshold})
                for label, d in manifest.decision.items()
            }
            manifest = manifest.model_copy(update={"decision": decision})
        timed = {name: TimedEngine(engine, name, self.metrics) for name, engine in bundle.front_ends.items()}
        log.info("bundle %s (%s): %s", manifest.name, bundle.digest[:12], _promise(manifest))
        head = TimedEngine(bundle.head, "head", self.metrics)
        return replace(bundle, manifest=manifest, front_ends=timed, head=head)

    async def _start_delivery(self, stack: AsyncExitStack) -> None:
        output = self._config.output
        url = output.mqtt_url
        if output.broker:
            broker = await stack.enter_async_context(EmbeddedBroker(port=output.broker_port))
            log.info("embedded broker at %s", broker.url)
            url = url or broker.url
        if url is None:
            return
        self._publisher = Publisher(url, self._config.stream, prefix=output.mqtt_prefix, observer=self.metrics)
        await self._publisher.start()
        log.info("publishing to %s", parse_broker_url(url))

    async def _stop_delivery(self) -> None:
        if self._publisher is None:
            return
        p = self.progress
        statistics = {
            "seconds": p.seconds,
            "seconds_shed": p.shed,
            "frames_skipped": p.skipped,
            "spots": p.spots,
            "real_time_factor": round(p.factor, 3),
        }
        await asyncio.shield(self._publisher.stop(statistics, self._config.output.stop_timeout_s))

    async def _spot(self, bundle: Bundle) -> None:
        """Compute in a thread until the stream ends; on cancellation end the reading process, and so the thread."""
        pictures = bundle.manifest.pictures
        spec = PictureSpec(pictures.rate, pictures.width, pictures.height, pictures.resize_filter)
        loop = asyncio.get_running_loop()
        with Ingest(self._config.ingest, spec) as ingest:
            self._stop = ingest.stop
            work = asyncio.create_task(asyncio.to_thread(self._compute, ingest, bundle, loop), name="touchline-compute")
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                ingest.stop()
                await asyncio.wait([work])
                raise
        if self._fault is not None:
            raise self._fault

    def _compute(self, ingest: Ingest, bundle: Bundle, loop: asyncio.AbstractEventLoop) -> None:
        """Feed every second to the middle; runs in a thread of its own."""
        spotter: Spotter | None = None
        try:
            for message in ingest.messages():
                spotter = self._take(message, spotter, bundle, loop)
        except SourceError:
            if spotter is not None:
                self._say(spotter.flush(), 0.0, loop)  # the reading process died: say what is pending
            raise

    def _take(
        self, message: Message, spotter: Spotter | None, bundle: Bundle, loop: asyncio.AbstractEventLoop
    ) -> Spotter | None:
        """Work on one message; return the spotter of the half that is running."""
        if isinstance(message, Opened):
            spotter = Spotter(bundle, self._config.stream, message.half)
            loop.call_soon_threadsafe(self._tell, self._on_opened, message)
        elif isinstance(message, Arrived):
            assert spotter is not None
            started = time.monotonic()
            spots = spotter.push(message.second)
            done = time.monotonic()
            self._advance(message, done - started)
            self._say(spots, done - message.second.arrived_mono_s, loop)
            loop.call_soon_threadsafe(self._tell, self._on_advanced, message.second.index + 1)
        elif isinstance(message, HalfEnded):
            assert spotter is not None
            started = time.monotonic()
            spots = spotter.flush()
            self._say(spots, time.monotonic() - started, loop)
            self._broken = self._broken or message.error
            return None
        return spotter

    def _advance(self, arrived: Arrived, duration_s: float) -> None:
        p = self.progress
        p.last_mono_s = time.monotonic()
        p.started_mono_s = p.started_mono_s or p.last_mono_s  # the first second is where counting starts
        p.seconds += 1
        p.shed = arrived.counts.shed_seconds
        p.skipped = arrived.counts.skipped_frames
        self.metrics.stage.labels("second").observe(duration_s)
        self.metrics.seconds.inc()
        self.metrics.count(arrived.half, arrived.counts)
        self.metrics.last_frame.set(time.time() - (time.monotonic() - arrived.second.arrived_mono_s))
        self.metrics.media_time.set(arrived.second.index + 1)
        self.metrics.real_time_factor.set(p.factor)

    def _say(self, spots: list[Spot], compute_s: float, loop: asyncio.AbstractEventLoop) -> None:
        for spot in spots:
            spot = replace(spot, latency={**spot.latency, "compute": round(compute_s, 6)})
            loop.call_soon_threadsafe(self._tell, self._on_spot, spot, datetime.now(UTC))

    def _tell(self, output: Callable[..., None], *what: object) -> None:
        """Call an output on the event loop; its first fault ends the run, instead of vanishing in the loop."""
        try:
            output(*what)
        except Exception as fault:
            self._fault = self._fault or fault
            self._stop()

    def _on_opened(self, opened: Opened) -> None:
        self.progress.open = True
        self.metrics.stream_up.set(1)
        if opened.info.audio is None:
            log.warning("this stream has no sound; spots rest on the picture alone and say so (no-audio)")
        self._screen.opened(opened.half, opened.info)

    def _on_advanced(self, media_s: float) -> None:
        self._screen.advanced(media_s, self.progress.factor)

    def _on_spot(self, spot: Spot, said: datetime) -> None:
        self.progress.spots += 1
        self.metrics.spots.labels(spot.label).inc()
        for part, seconds in spot.latency.items():
            self.metrics.spot_latency.labels(part).observe(seconds)
        if self._config.output.results is not None:
            self._spots.append(spot)
        if self._publisher is not None:
            self._publisher.say(spot, said)
        self._screen.said(spot, said)

    def _finish(self) -> None:
        p = self.progress
        p.open = False
        if p.seconds:
            log.info(
                "%d seconds at %.1f times the speed of life, %d spots; %d seconds shed, %d pictures skipped to keep up",
                *(p.seconds, p.factor, p.spots, p.shed, p.skipped),
            )

    def _write_results(self) -> None:
        if self._config.output.results is not None and self.progress.seconds:  # nothing seen: leave the old file
            write_results(self._config.output.results, self._spots, self._config.stream)

    def _not_ready(self) -> str | None:
        if not self.progress.open:
            return "the stream is not open"
        if self._publisher is not None and not self._publisher.connected:
            return "the broker is not connected"
        return None


def _promise(manifest: Manifest) -> str:
    """Return what the bundle promises about its delay."""
    label = max(manifest.labels, key=manifest.promised_delay_s)
    if manifest.promised_delay_s(label) == math.inf:
        return f"its rule ({manifest.rule}) waits for the whole half, so spots are said at its end"
    return (
        f"a spot is said at most {manifest.promised_delay_s(label):.2f} s after its action "
        f"(look-ahead {manifest.look_ahead_s():.2f}, hold {manifest.hold_s(label):.2f}, grid 1.00)"
    )
