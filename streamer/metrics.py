"""Every metric of the live path; the only importer of prometheus_client. The registry is injected.

Whatever can be known beforehand is there from the start, at zero: a rate, and an alert, of a series that appears with
its first fault would miss that fault. No label has values that a stream or a stranger could add to.
"""

from collections.abc import Collection, Mapping
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics import exposition as openmetrics

from engines.bundle import BundleName
from engines.decider import Spot
from engines.second import CORRUPT, FORCED, GAP, NO_AUDIO, NO_VIDEO, PARTIAL_AUDIO, PARTIAL_VIDEO
from streamer.ingest.messages import Counts, SourceChanged, State
from streamer.sources.base import Cause

_STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_LATENCY_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 60)
_PARTS = ("grid", "look_ahead", "hold", "compute", "publish")
_FLAGS = (NO_AUDIO, PARTIAL_AUDIO, NO_VIDEO, PARTIAL_VIDEO, CORRUPT, GAP)
_LOSSES = ("decode_error", "corrupt", "late")
_COMMANDS = ("pause", "mute", "threshold")
_REPAIRS = (
    *("missing_pts", "outlier", "reordered", "discontinuity"),
    *("sound_elsewhere", "sound_rebased", "unconvertible"),
)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # they say when we started, once for every counter


class Metrics:
    """The live path's metrics, in base units, under the prefix `touchline_`; the process's own under `process_`.

    Args:
        registry: where they are kept; one of its own unless given.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of_the_run()
        self._of_the_source()
        self._of_the_words()
        self._of_delivery()
        self._begin_at_zero()
        self._counts, self._half = Counts(), 0

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"touchline_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"touchline_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"touchline_{name}", text, [label], buckets=buckets, registry=self.registry)

    def _of_the_run(self) -> None:
        self.build = self._gauge("build_info", "1, with what runs.", "version", "bundle", "digest")
        self.stage = self._histogram(
            "stage_duration_seconds",
            "Wall clock that a stage took for one second of media (publish: for one spot).",
            "stage",
            _STAGE_BUCKETS_S,
        )
        self.real_time_factor = self._gauge(
            "real_time_factor", "Media seconds processed per second of wall clock, since the start."
        )
        self.queue_depth = self._gauge(
            "queue_depth", "What waits: seconds for the engines, spots for the broker.", "queue"
        )
        self.seconds = self._counter("seconds_processed_total", "Seconds of media processed.")
        self.seconds_dropped = self._counter(
            "seconds_dropped_total",
            "Seconds of media never processed, since the engines were late (stale).",
            "cause",
        )
        self.seconds_flagged = self._counter(
            "seconds_flagged_total", "Seconds of media processed of which something was missing or damaged.", "flag"
        )
        self.clips = self._counter("clips_total", "Clips written, or not.", "result")
        self._clients = self._gauge("page_clients", "Pages that listen.")

    def _of_the_source(self) -> None:
        self.stream_up = self._gauge("stream_up", "1 while the stream is open.")
        self.source_state = self._gauge("source_state", "1 for the state that the source is in.", "state")
        self.source_failures = self._counter(
            "source_failures_total", "Connections lost or not made, by cause.", "cause"
        )
        self.source_openings = self._counter(
            "source_openings_total", "Times the source was opened, the first one included."
        )
        self.last_frame = self._gauge(
            "last_frame_timestamp_seconds", "Wall clock when the newest second of media arrived."
        )
        self.media_time = self._gauge("media_time_seconds", "End of the newest second processed.")
        self.frames = self._counter("frames_decoded_total", "Pictures decoded.")
        self.frames_dropped = self._counter(
            "frames_dropped_total",
            "Pictures or packets lost (decode_error), left out to catch up (late), or kept though damaged (corrupt).",
            "cause",
        )
        self.timeline_repairs = self._counter("timeline_repairs_total", "Timestamps repaired, by cause.", "cause")

    def _of_the_words(self) -> None:
        self.spots = self._counter("spots_total", "Spots confirmed.", "label")
        self.spots_retracted = self._counter("spots_retracted_total", "Provisional spots taken back.", "label")
        self.spots_provisional = self._counter(
            "spots_provisional_total", "Words said before they were settled.", "label"
        )
        self.spots_withheld = self._counter("spots_withheld_total", "Words that a command held back.", "label")
        self.decisions_forced = self._counter("decisions_forced_total", "Final words that a deadline forced.", "label")
        self.deadline_missed = self._counter(
            "deadline_missed_total", "Final words that came after their deadline by the wall clock; live only."
        )
        self.commands = self._counter("commands_total", "Commands obeyed, or refused.", "command", "result")
        self.spot_delay = self._histogram(
            "spot_delay_seconds", "From action to confirmed word, in media time.", "label", _LATENCY_BUCKETS_S
        )
        self.spot_latency = self._histogram(
            "spot_latency_seconds",
            "From action to confirmed word: grid, look_ahead, hold in media time, compute and publish in wall clock.",
            "part",
            _LATENCY_BUCKETS_S,
        )
        self.promise = self._gauge(
            "promised_delay_seconds", "Media time after an action by which its final word is said.", "label"
        )
        self.deadline = self._gauge("deadline_seconds", "Deadlines that were set, in media time.", "label")

    def _of_delivery(self) -> None:
        self.broker_up = self._gauge("broker_up", "1 while the broker is connected.")
        self.broker_connections = self._counter("broker_connections_total", "Times the broker was connected to.")
        self.publish_failures = self._counter(
            "publish_failures_total", "Times that the broker did not acknowledge spots; they are sent again."
        )
        self.outbox_durable = self._gauge(
            "outbox_durable", "0 while the disk does not take the spots that it should keep for the broker."
        )
        self.spots_dropped = self._counter("spots_dropped_total", "Spots that could not be kept for the broker.")

    def _begin_at_zero(self) -> None:
        self.outbox_durable.set(1)
        known: tuple[tuple[Counter | Gauge | Histogram, Collection[str]], ...] = (
            (self.seconds_dropped, ("stale",)),
            (self.seconds_flagged, _FLAGS),
            (self.queue_depth, ("seconds", "spots")),
            (self.clips, ("written", "failed")),
            (self.frames_dropped, _LOSSES),
            (self.timeline_repairs, _REPAIRS),
            (self.source_state, get_args(State)),
            (self.source_failures, get_args(Cause)),
            (self.spot_latency, _PARTS),
        )
        for metric, values in known:
            for value in values:
                metric.labels(value)
        for command in (*_COMMANDS, "other"):
            for result in ("obeyed", "refused"):
                self.commands.labels(command, result)

    def describe(
        self, version: str, bundle: BundleName, promise_s: Mapping[str, float], deadline_s: Mapping[str, float]
    ) -> None:
        """Show what runs, and let the labels' counts begin.

        Args:
            version: of touchline.
            bundle: what spots.
            promise_s: label → delay in media time by which its final word is said; every label that has a promise.
            deadline_s: label → deadline, of those that have one.
        """
        for metric in (self.build, self.promise, self.deadline):
            metric.clear()
        self.build.labels(version, bundle.name, bundle.digest).set(1)
        for label, seconds in promise_s.items():
            self.promise.labels(label).set(seconds)
        for label, seconds in deadline_s.items():
            self.deadline.labels(label).set(seconds)
        counts = (self.spots, self.spots_retracted, self.spots_provisional, self.spots_withheld, self.decisions_forced)
        for label in promise_s.keys() | deadline_s.keys():
            for counter in counts:
                counter.labels(label)
            self.spot_delay.labels(label)

    def count(self, half: int, counts: Counts, flags: Collection[str] = ()) -> None:
        """Take over what the reading process has counted since the last call; each half starts from zero.

        Args:
            half: which file of a match.
            counts: what was counted so far in it.
            flags: of the second that was processed.
        """
        last, self._counts = self._counts, counts
        if half != self._half:
            last, self._half = Counts(), half
        self.frames.inc(counts.frames - last.frames)
        self.frames_dropped.labels("decode_error").inc(counts.decode_errors - last.decode_errors)
        self.frames_dropped.labels("corrupt").inc(counts.corrupt_frames - last.corrupt_frames)
        self.frames_dropped.labels("late").inc(counts.skipped_frames - last.skipped_frames)
        self.seconds_dropped.labels("stale").inc(counts.stale_seconds - last.stale_seconds)
        self.queue_depth.labels("seconds").set(counts.pending_seconds)
        for cause, n in counts.repairs.items():
            self.timeline_repairs.labels(cause).inc(n - last.repairs.get(cause, 0))
        for flag in flags:
            self.seconds_flagged.labels(flag).inc()

    def source_changed(self, change: SourceChanged) -> None:
        """Show the source's state, and count what went wrong."""
        for state in get_args(State):
            self.source_state.labels(state).set(state == change.state)
        self.stream_up.set(change.state == "running")
        if change.state in ("waiting", "failed") and change.cause is not None:
            self.source_failures.labels(change.cause).inc()

    def count_word(self, spot: Spot, *, missed: bool) -> None:
        """Count a word; `missed` if it is a final one that came after its deadline."""
        of_state = {
            "confirmed": self.spots,
            "retracted": self.spots_retracted,
            "provisional": self.spots_provisional,
        }
        of_state[spot.state].labels(spot.label).inc()
        if FORCED in spot.flags and spot.state != "provisional":
            self.decisions_forced.labels(spot.label).inc()
        self.deadline_missed.inc(missed)
        if spot.state == "confirmed":
            which = {"spot_id": spot.id}
            self.spot_delay.labels(spot.label).observe(spot.delay_s, which)
            for part, seconds in spot.latency.items():
                self.spot_latency.labels(part).observe(seconds, which)

    def withheld(self, label: str) -> None:
        """Count a word that a command held back."""
        self.spots_withheld.labels(label).inc()

    def commanded(self, command: str, ok: bool) -> None:
        """Count a command; its name comes from whoever sent it, so those that do not exist are counted as one."""
        self.commands.labels(command if command in _COMMANDS else "other", "obeyed" if ok else "refused").inc()

    def page_clients(self, n: int) -> None:
        """Show how many pages listen."""
        self._clients.set(n)

    def on_connected(self, up: bool) -> None:
        """See publisher.Observer."""
        self.broker_up.set(up)
        self.broker_connections.inc(up)

    def on_published(self, duration_s: float) -> None:
        """See publisher.Observer."""
        self.stage.labels("publish").observe(duration_s)
        self.spot_latency.labels("publish").observe(duration_s)

    def on_publish_failed(self) -> None:
        """See publisher.Observer."""
        self.publish_failures.inc()

    def on_pending(self, depth: int) -> None:
        """See outbox.OutboxObserver."""
        self.queue_depth.labels("spots").set(depth)

    def on_dropped(self, count: int) -> None:
        """See outbox.OutboxObserver."""
        self.spots_dropped.inc(count)

    def on_durable(self, ok: bool) -> None:
        """See outbox.OutboxObserver."""
        self.outbox_durable.set(ok)

    def text(self) -> bytes:
        """Return the exposition in Prometheus's text format."""
        return generate_latest(self.registry)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics, with exemplars, for whoever accepts it."""
        if "application/openmetrics-text" in accept:
            body: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return self.text(), _TEXT
