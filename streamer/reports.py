"""What a run tells of itself: status, clock, scores, statistics. Values in, messages out; no I/O.

In: what was heard of the source, of the middle and of delivery. Out: messages, for the broker and the pages alike.
"""

from collections import defaultdict, deque
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from engines.bundle import Bundle
from engines.decider import Spot, row_time
from streamer.desk import Desk
from streamer.feed import Advanced
from streamer.ingest.messages import SourceChanged
from streamer.outbox import Outbox
from streamer.payload import (
    BundleRef,
    ClockMessage,
    Health,
    Percentiles,
    ScoredRow,
    ScoresMessage,
    StatsMessage,
    StatusMessage,
    utc_text,
)
from streamer.progress import Progress

_LATEST = 200
"""So many spots are in the statistics."""
_SHEDDING_S = 30.0
"""So long after a second was shed, the engines' health says so."""
_FILLING = 0.5
"""From this share of the outbox on, its health says so."""


class Reports:
    """Makes the messages of one run.

    Args:
        stream: the broadcast's name.
        run: tells this run from others.
        bundle: what scores.
        desk: what was commanded.
        progress: how far the run is.
    """

    def __init__(self, stream: str, run: str, bundle: Bundle, desk: Desk, progress: Progress) -> None:
        self._stream, self._run, self._desk, self._progress = stream, run, desk, progress
        self._bundle = BundleRef(**bundle.name._asdict())
        self._manifest = bundle.manifest
        promised_s = {label: bundle.manifest.promised_delay_s(label) for label in bundle.manifest.labels}
        self.promise_s = {label: delay_s for label, delay_s in promised_s.items() if delay_s != float("inf")}
        self._latency: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATEST))
        self._source: SourceChanged | None = None
        self._since = datetime.now(UTC)
        self._shed, self._shed_at = 0, datetime.min.replace(tzinfo=UTC)

    def changed(self, change: SourceChanged) -> None:
        """Take how the source is."""
        self._source, self._since = change, datetime.now(UTC)

    def said(self, spot: Spot) -> None:
        """Take a word."""
        if spot.state == "confirmed":
            for part, seconds in spot.latency.items():
                self._latency[part].append(seconds)
            self._latency["total"].append(spot.delay_s + spot.latency.get("compute", 0.0))

    def published(self, duration_s: float) -> None:
        """Take how long a spot took to its acknowledgement."""
        self._latency["publish"].append(duration_s)

    def status(
        self, state: Literal["online", "stopped", "offline"], outbox: Outbox | None, connected: bool | None
    ) -> StatusMessage:
        """Return how the stream is; `connected` is None where there is no broker."""
        now, online = datetime.now(UTC), state == "online"
        return StatusMessage(
            stream=self._stream,
            run=self._run,
            state=state,
            at_utc=now,
            health=self._health(now, outbox, connected) if online else {},
            source=self._source_fields() if online else None,
            bundle=self._bundle,
            promise=self.promise_s,
            paused=self._desk.paused,
            muted=sorted(self._desk.muted),
            thresholds=dict(self._desk.thresholds),
            statistics=self._statistics(outbox) if state == "stopped" else None,
        )

    def _health(self, now: datetime, outbox: Outbox | None, connected: bool | None) -> dict[str, Health]:
        health = {"source": self._source_health(), "engines": self._engines_health(now)}
        if outbox is not None:
            health["outbox"] = _outbox_health(outbox)
        if connected is not None:
            reason = None if connected else "the broker is not connected; spots wait for it"
            health["broker"] = Health(state="ok" if connected else "warning", reason=reason)
        return health

    def _source_health(self) -> Health:
        change = self._source
        if change is None or change.state in ("running", "ended"):
            return Health(state="ok" if change else "warning", reason=None if change else "the source is being opened")
        return Health(
            state="failed" if change.state == "failed" else "warning",
            reason=change.reason or f"the source is {change.state}",
        )

    def _engines_health(self, now: datetime) -> Health:
        if self._progress.shed > self._shed:
            self._shed, self._shed_at = self._progress.shed, now
        if (now - self._shed_at).total_seconds() < _SHEDDING_S:
            return Health(state="warning", reason=f"the engines are late; {self._shed} seconds were shed")
        return Health(state="ok")

    def _source_fields(self) -> dict[str, object] | None:
        if self._source is None:
            return None
        fields = {key: value for key, value in asdict(self._source).items() if value is not None}
        return {**fields, "since_utc": utc_text(self._since)}

    def clock(self, at: Advanced) -> ClockMessage:
        """Return media time beside the wall clock."""
        return ClockMessage(
            stream=self._stream,
            half=at.half,
            epoch=at.epoch,
            media_time=at.media_s,
            pts=at.pts,
            utc=at.utc,
            clock=at.clock,  # type: ignore[arg-type]  # pydantic checks it
            at_utc=datetime.now(UTC),
        )

    def scores(self, at: Advanced) -> ScoresMessage:
        """Return what a second scored: of each row the labels that are confirmed with its look-ahead."""
        manifest = self._manifest
        when_us = row_time(manifest)
        rows = []
        for row in at.scores:
            look_ahead_s = row.look_ahead / manifest.rate
            scores = {
                label: round(float(score), 4)
                for label, score in zip(manifest.labels, row.scores_C, strict=True)
                if manifest.look_ahead_s(label) == look_ahead_s
            }
            if scores:
                rows.append(
                    ScoredRow(media_time=max(when_us(row.index), 0) / 1e6, look_ahead=look_ahead_s, scores=scores)
                )
        return ScoresMessage(stream=self._stream, half=at.half, epoch=at.epoch, media_time=at.media_s, rows=rows)

    def stats(self, outbox: Outbox | None) -> StatsMessage:
        """Return how the run goes."""
        return StatsMessage(
            stream=self._stream,
            run=self._run,
            at_utc=datetime.now(UTC),
            statistics=self._statistics(outbox),
            latency={part: _percentiles(values) for part, values in self._latency.items() if values},
            outbox={"pending": outbox.pending, "dropped": outbox.dropped} if outbox is not None else {},
        )

    def _statistics(self, outbox: Outbox | None) -> dict[str, float]:
        lost = {"spots_lost": float(outbox.dropped)} if outbox is not None else {}
        return {**self._progress.statistics(), **lost}


def _outbox_health(outbox: Outbox) -> Health:
    if outbox.fault is not None:
        return Health(state="failed", reason=outbox.fault)
    if outbox.dropped:
        return Health(state="warning", reason=f"the outbox was full; the oldest {outbox.dropped} spots were dropped")
    if outbox.pending > _FILLING * outbox.capacity:
        return Health(state="warning", reason=f"{outbox.pending} spots wait; the outbox takes {outbox.capacity}")
    return Health(state="ok")


def _percentiles(values: "deque[float] | list[float]") -> Percentiles:
    p50, p95 = np.percentile(list(values), [50, 95], method="inverted_cdf")
    return Percentiles(p50=round(float(p50), 4), p95=round(float(p95), 4), max=round(max(values), 4))
