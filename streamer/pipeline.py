"""Wires the stages: reading process → Feed (a thread) → Outputs (asyncio), and shuts them down.

One direction. The thread that computes never waits for an output; outputs are told through the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

from engines.backends.base import Array, Engine
from engines.bundle import Bundle, Manifest, open_bundle
from engines.decider import Spot
from engines.errors import SourceError, TouchlineError
from streamer.config import ClipConfig, IngestConfig, RunConfig
from streamer.decision import decided, promise
from streamer.feed import Advanced, Feed
from streamer.ingest.clips import SETTLE_S, keep_s, request_for
from streamer.ingest.messages import ClipDone, Opened, SourceChanged
from streamer.ingest.supervisor import Ingest
from streamer.metrics import Metrics
from streamer.outputs import Outputs, Screen
from streamer.progress import Progress
from streamer.sources.base import PictureSpec

log = logging.getLogger("touchline")

_LONGEST_CONTEXT_S = 60.0
"""So much is read after the end of a part, if nothing is promised."""


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
        self._fault: Exception | None = None
        self._stop: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Run until the stream ends.

        Raises:
            TouchlineError: anything a user can cause; what was found until then has been said.
            asyncio.CancelledError: interrupted; what was said until then has been delivered.
        """
        bundle = self._open_bundle()
        outputs = Outputs(self._config, bundle, self._screen, self.metrics, self.progress, self._fail)
        async with AsyncExitStack() as stack:
            await outputs.start(stack)
            reason: str | None = "a fault of ours"
            try:
                reason = await self._spot(bundle, outputs)
                if reason:
                    raise SourceError(reason)
            except asyncio.CancelledError:
                reason = "interrupted"
                raise
            except TouchlineError as error:
                reason = str(error)
                raise
            finally:
                await asyncio.shield(outputs.stop(reason))

    def _open_bundle(self) -> Bundle:
        config, bundle = self._config, open_bundle(self._config.bundle)
        _ = bundle.manifest.pictures  # says so if it cannot watch a video
        manifest = decided(
            bundle.manifest,
            threshold=config.threshold,
            deadlines_s=config.deadlines_s,
            provisional_threshold=config.provisional_threshold,
            provisional=config.provisional,
        )
        timed = {name: TimedEngine(engine, name, self.metrics) for name, engine in bundle.front_ends.items()}
        log.info("bundle %s (%s): %s", manifest.name, bundle.digest[:12], promise(manifest))
        head = TimedEngine(bundle.head, "head", self.metrics)
        return replace(bundle, manifest=manifest, front_ends=timed, head=head)

    async def _spot(self, bundle: Bundle, outputs: Outputs) -> str | None:
        """Compute in a thread until the stream ends; on cancellation end the reading process, and so the thread.

        Returns why the stream broke off, if it did.
        """
        spec = PictureSpec.of(bundle.manifest.pictures)
        relay = _Relay(outputs, asyncio.get_running_loop(), self._fail, self._config.clips)
        feed = Feed(bundle, self._config, relay, self.metrics, self.progress)
        outputs.desk.attach(feed.set_threshold)
        ingest_config = self._ingest(bundle.manifest)
        with Ingest(ingest_config, spec, relay.clipped, anchor=outputs.anchor, on_preview=relay.pictured) as ingest:
            self._stop, relay.ingest = ingest.stop, ingest
            if outputs.hub is not None:
                outputs.hub.viewers = ingest.preview
            work = asyncio.create_task(asyncio.to_thread(_compute, ingest, feed), name="touchline-compute")
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                ingest.stop()
                await asyncio.wait([work])
                raise
        if self._fault is not None:
            raise self._fault
        return feed.broken

    def _ingest(self, manifest: Manifest) -> IngestConfig:
        """Return how the stream is read, with what the bundle has to say: how much a clip or a part needs around it."""
        config, clips = self._config.ingest, self._config.clips
        latest_s = max(manifest.promised_delay_s(label) for label in manifest.labels)
        context_s = manifest.head.rows / manifest.rate + min(latest_s, _LONGEST_CONTEXT_S)
        if clips is None:
            return replace(config, context_s=context_s)
        context_s = max(context_s, clips.pre_s, clips.post_s + SETTLE_S)
        return replace(config, context_s=context_s, clips_keep_s=keep_s(clips.pre_s, clips.post_s, latest_s))

    def _fail(self, fault: Exception) -> None:
        """Let the first fault of an output end the run, instead of vanishing in the loop."""
        self._fault = self._fault or fault
        self._stop()


def _compute(ingest: Ingest, feed: Feed) -> None:
    """Feed everything to the middle; runs in a thread of its own."""
    try:
        for message in ingest.messages():
            feed.take(message)
    finally:
        feed.end()  # interrupted, or the reading process died: what is pending gets its final word


class _Relay:
    """Tells the outputs on the event loop what the feed tells it in its thread."""

    def __init__(
        self,
        outputs: Outputs,
        loop: asyncio.AbstractEventLoop,
        fail: Callable[[Exception], None],
        clips: ClipConfig | None,
    ) -> None:
        self._outputs, self._loop, self._fail, self._clips = outputs, loop, fail, clips
        self.ingest: Ingest | None = None

    def opened(self, opened: Opened) -> None:
        """See Listener."""
        self._loop.call_soon_threadsafe(self._tell, self._outputs.opened, opened)

    def changed(self, change: SourceChanged) -> None:
        """See Listener."""
        self._loop.call_soon_threadsafe(self._tell, self._outputs.changed, change)

    def clipped(self, clip: ClipDone) -> None:
        """Pass on that a clip was written, or not."""
        self._loop.call_soon_threadsafe(self._tell, self._outputs.clipped, clip)

    def pictured(self, jpeg: bytes) -> None:
        """Pass on a picture for those who watch."""
        self._loop.call_soon_threadsafe(self._tell, self._outputs.picture, jpeg)

    def advanced(self, second: Advanced) -> None:
        """See Listener."""
        self._loop.call_soon_threadsafe(self._tell, self._outputs.advanced, second)

    def said(self, spot: Spot) -> None:
        """See Listener."""
        if self._clips is not None and self.ingest is not None and spot.state == "confirmed":
            self.ingest.clip(request_for(spot, self._clips.pre_s, self._clips.post_s, self._clips.folder))
        self._loop.call_soon_threadsafe(self._tell, self._outputs.said, spot, datetime.now(UTC))

    def _tell(self, output: Callable[..., None], *what: object) -> None:
        try:
            output(*what)
        except Exception as fault:
            self._fail(fault)
