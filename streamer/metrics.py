"""Every metric of the live path; the only importer of prometheus_client. The registry is injected."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engines.decider import Spot
from engines.second import FORCED
from streamer.ingest.messages import Counts, SourceChanged, State

_STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_LATENCY_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 60)


class Metrics:
    """The live path's metrics, in base units, under the prefix `touchline_`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = r = registry or CollectorRegistry()
        self.stage = Histogram(
            "touchline_stage_duration_seconds",
            "Wall clock that a stage took for one second of media (publish: for one spot).",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=r,
        )
        self.real_time_factor = Gauge(
            "touchline_real_time_factor",
            "Media seconds processed per second of wall clock, since the start.",
            registry=r,
        )
        self.queue_depth = Gauge(
            "touchline_queue_depth", "What waits: seconds for the engines, spots for the broker.", ["queue"], registry=r
        )
        self.seconds = Counter("touchline_seconds_processed_total", "Seconds of media processed.", registry=r)
        self.seconds_dropped = Counter(
            "touchline_seconds_dropped_total",
            "Seconds of media never processed, since the engines were late (stale).",
            ["cause"],
            registry=r,
        )
        self.frames = Counter("touchline_frames_decoded_total", "Pictures decoded.", registry=r)
        self.frames_dropped = Counter(
            "touchline_frames_dropped_total",
            "Pictures or packets lost (decode_error), left out to catch up (late), or kept though damaged (corrupt).",
            ["cause"],
            registry=r,
        )
        self.timeline_repairs = Counter(
            "touchline_timeline_repairs_total", "Timestamps repaired, by cause.", ["cause"], registry=r
        )
        self.spots = Counter("touchline_spots_total", "Spots confirmed.", ["label"], registry=r)
        self.spots_retracted = Counter(
            "touchline_spots_retracted_total", "Provisional spots taken back.", ["label"], registry=r
        )
        self.spots_provisional = Counter(
            "touchline_spots_provisional_total", "Words said before they were settled.", ["label"], registry=r
        )
        self.decisions_forced = Counter(
            "touchline_decisions_forced_total", "Final words that a deadline forced.", ["label"], registry=r
        )
        self.deadline_missed = Counter(
            "touchline_deadline_missed_total",
            "Final words that came after their deadline by the wall clock; live only.",
            registry=r,
        )
        self.spots_dropped = Counter(
            "touchline_spots_dropped_total", "Spots that could not be kept for the broker.", registry=r
        )
        self.spot_latency = Histogram(
            "touchline_spot_latency_seconds",
            "From action to confirmed word: grid, look_ahead, hold in media time, compute and publish in wall clock.",
            ["part"],
            buckets=_LATENCY_BUCKETS_S,
            registry=r,
        )
        self.stream_up = Gauge("touchline_stream_up", "1 while the stream is open.", registry=r)
        self.broker_up = Gauge("touchline_broker_up", "1 while the broker is connected.", registry=r)
        self.last_frame = Gauge(
            "touchline_last_frame_timestamp_seconds", "Wall clock when the newest second of media arrived.", registry=r
        )
        self.media_time = Gauge("touchline_media_time_seconds", "End of the newest second processed.", registry=r)
        self.source_state = Gauge(
            "touchline_source_state", "1 for the state that the source is in.", ["state"], registry=r
        )
        self.source_failures = Counter(
            "touchline_source_failures_total", "Connections lost or not made, by cause.", ["cause"], registry=r
        )
        self.source_openings = Counter(
            "touchline_source_openings_total", "Times the source was opened, the first one included.", registry=r
        )
        self.clips = Counter("touchline_clips_total", "Clips written, or not.", ["result"], registry=r)
        self._counts, self._half = Counts(), 0
        self.seconds_dropped.labels("stale")
        for result in ("written", "failed"):
            self.clips.labels(result)
        for cause in ("decode_error", "corrupt", "late"):
            self.frames_dropped.labels(cause)

    def count(self, half: int, counts: Counts) -> None:
        """Take over what the reading process has counted since the last call; each half starts from zero."""
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
            for part, seconds in spot.latency.items():
                self.spot_latency.labels(part).observe(seconds)

    def on_connected(self, up: bool) -> None:
        """See publisher.Observer."""
        self.broker_up.set(up)

    def on_published(self, duration_s: float) -> None:
        """See publisher.Observer."""
        self.stage.labels("publish").observe(duration_s)
        self.spot_latency.labels("publish").observe(duration_s)

    def on_pending(self, depth: int) -> None:
        """See publisher.Observer."""
        self.queue_depth.labels("spots").set(depth)

    def on_dropped(self, count: int) -> None:
        """See publisher.Observer."""
        self.spots_dropped.inc(count)

    def text(self) -> bytes:
        """Return the exposition in Prometheus's text format."""
        return generate_latest(self.registry)
