"""What a run tells of itself: status, clock, scores, statistics. Values in, messages out; no I/O.

In: what was heard of the source, of the middle and of delivery. Out: messages, for the broker and the pages alike.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
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

VERSION = version("touchline")

_LATEST = 200
"""So many spots are in the statistics."""
_SHEDDING_S = 30.0
"""So long after a second was shed, the engines' health says so."""


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
        decisions = bundle.manifest.decision.items()
        self.deadline_s = {label: d.deadline_s for label, d in decisions if d.deadline_s is not None}
        self._latency: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATEST))
        self._source: SourceChanged | None = None
        self._since = datetime.now(UTC)
        self._shed, self._shed_at = 0, datetime.min.replace(tzinfo=UTC)

    def hello(self, *, live: bool, clips: bool) -> dict[str, object]:
        """Return what a page must know of the run.

        Args:
            live: whether it is no replay.
            clips: whether confirmed spots get clips.
        """
        return {
            "stream": self._stream,
            "run": self._run,
            "bundle": self._bundle.model_dump(),
            "labels": list(self._manifest.labels),
            "promise": self.promise_s,
            "deadline": self.deadline_s,
            "clips": clips,
            "preview": True,
            "live": live,
            "version": VERSION,
        }

    def changed(self, change: SourceChanged) -> None:
        """Take how the source is."""
        self._source, self._since = change, datetime.now(UTC)

    def said(self, spot: Spot) -> int:
        """Take a word; return how many confirmed ones are in the statistics."""
        if spot.state == "confirmed":
            for part, seconds in spot.latency.items():
                self._latency[part].append(seconds)
            self._latency["total"].append(spot.delay_s + spot.latency.get("compute", 0.0))
        return len(self._latency["total"])

    def published(self, duration_s: float) -> None:
        """Take how long a spot took to its acknowledgement."""
        self._latency["publish"].append(duration_s)

    def status(
        self, state: Literal["online", "stopped"], health: Mapping[str, Health], reason: str | None = None
    ) -> StatusMessage:
        """Return how the stream is.

        Args:
            state: of the run.
            health: of the parts that words go through on their way out.
            reason: why it has stopped, unless at its own end.
        """
        now, online = datetime.now(UTC), state == "online"
        own = {"source": self._source_health(), "engines": self._engines_health(now)}
        return StatusMessage(
            stream=self._stream,
            run=self._run,
            state=state,
            reason=reason,
            at_utc=now,
            health={**own, **health} if online else {},
            source=self._source_fields() if online else None,
            bundle=self._bundle,
            promise=self.promise_s,
            paused=self._desk.paused,
            muted=sorted(self._desk.muted),
            thresholds=dict(self._desk.thresholds),
            statistics=self._progress.statistics() if state == "stopped" else None,
        )

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
            statistics=self._progress.statistics(),
            latency={part: _percentiles(values) for part, values in self._latency.items() if values},
            outbox={"pending": outbox.pending, "dropped": outbox.dropped} if outbox is not None else {},
        )


def _percentiles(values: "deque[float] | list[float]") -> Percentiles:
    p50, p95 = np.percentile(list(values), [50, 95], method="inverted_cdf")
    return Percentiles(p50=round(float(p50), 4), p95=round(float(p95), 4), max=round(max(values), 4))
