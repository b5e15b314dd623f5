"""Scores in, spots out, by the bundle's rule.

`local-max`, with a bounded wait: a row's score of a label is a spot if it reaches the label's threshold and no other
score of that label, placed by its displacement, is higher within the radius (the earlier wins ties). It is settled as
soon as no later row can land within the radius, and never taken back.

`greedy`, the originals' suppression: best first, over the whole half, so nothing is said before its end.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Manifest
from engines.head import Scores
from engines.nms import INT64, greedy, local_maxima

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Spot:
    """What the world sees.

    Attributes:
        id: derived from stream, half, epoch, label and time; the same input says the same ids.
        half: which file of a match it is in, from 1; always 1 live.
        media_time: when it happened, seconds since the stream's first picture.
        confidence: score at the spot's peak.
        emitted_at: end of the newest second seen when this was said; minus `media_time` it is the delay.
        latency: the delay by part, seconds: grid + look_ahead + hold = emitted_at − media_time; the live path adds
            compute, which is wall clock.
        flags: what was wrong with the seconds it rests on.
    """

    id: str
    stream: str
    half: int
    epoch: int
    label: str
    media_time: float
    confidence: float
    emitted_at: float
    state: Literal["provisional", "confirmed", "retracted"] = "confirmed"
    revision: int = 1
    latency: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def delay_s(self) -> float:
        """Media seconds from the action to the word."""
        return self.emitted_at - self.media_time


class Decider(Protocol):
    """Decides all labels of one stream."""

    def push(self, scores: Scores) -> list[Spot]:
        """Take one row's scores; return the spots that are now settled."""

    def flush(self) -> list[Spot]:
        """End the epoch; return what was pending."""


def decider_of(manifest: Manifest, stream: str, half: int = 1) -> Decider:
    """Return the decider that the bundle wants."""
    kind = LocalMaxDecider if manifest.rule == "local-max" else GreedyDecider
    return kind(manifest, stream, half)


class LocalMaxDecider:
    """Decides all labels of one stream by the `local-max` rule.

    Args:
        manifest: of the bundle that scores; thresholds and radii come from it.
        stream: the broadcast's name, part of every id.
        half: part of every id.
    """

    def __init__(self, manifest: Manifest, stream: str, half: int = 1) -> None:
        self._writer = _Writer(manifest, stream, half)
        self._labels = manifest.labels
        decisions = [manifest.decision[label] for label in manifest.labels]
        self._thresholds = np.array([d.threshold for d in decisions], np.float32)
        self._radii_us = np.array([round((d.radius_s or 0) * _US) for d in decisions], np.int64)
        self._reach_us = round(manifest.head.max_displacement_s * _US)
        self._keep_us = 2 * (int(self._radii_us.max()) + self._reach_us) + 2 * _US
        self._rows: deque[_Row] = deque()
        self._epoch = -1

    def push(self, scores: Scores) -> list[Spot]:
        """Take one row's scores; return the spots that are now settled, in the order of their times."""
        done: list[Spot] = []
        if scores.epoch != self._epoch:
            done += self.flush()
            self._epoch = scores.epoch
        row_us = self._writer.row_time_us(scores.index)
        self._rows.append(_Row(scores, self._times_us(scores, row_us), np.zeros(len(self._labels), bool)))
        done += self._settle(earliest_next_us=self._writer.row_time_us(scores.index + 1) - self._reach_us)
        while self._writer.row_time_us(self._rows[0].scores.index) < row_us - self._keep_us:
            self._rows.popleft()
        return done

    def flush(self) -> list[Spot]:
        """End the epoch: nothing can rival what is pending any more."""
        done = self._settle(earliest_next_us=None)
        self._rows.clear()
        self._epoch = -1
        return done

    def _times_us(self, scores: Scores, row_us: int) -> INT64:
        """Return when each label's action is, by the displacement; never before the stream's first picture."""
        shift_us = np.round(scores.displacement_C.astype(np.float64) * 1000).astype(np.int64) * 1000
        return np.maximum(row_us + np.clip(shift_us, -self._reach_us, self._reach_us), 0)

    def _settle(self, earliest_next_us: int | None) -> list[Spot]:
        """Return the spots among the candidates that no row still to come can reach any more."""
        if not self._rows:
            return []
        times_TC = np.stack([row.times_us for row in self._rows])
        scores_TC = np.stack([row.scores.scores_C for row in self._rows])
        settled_TC = np.stack([row.settled for row in self._rows])
        due_TC = ~settled_TC
        if earliest_next_us is not None:
            due_TC &= times_TC + self._radii_us < earliest_next_us
        spots = []
        for c in np.flatnonzero((due_TC & (scores_TC >= self._thresholds)).any(0)):
            stands = local_maxima(times_TC[:, c], scores_TC[:, c], int(self._radii_us[c]))
            chosen = due_TC[:, c] & stands & (scores_TC[:, c] >= self._thresholds[c])
            spots += [self._spot(int(c), self._rows[i]) for i in np.flatnonzero(chosen)]
        for row, due in zip(self._rows, due_TC, strict=True):
            row.settled |= due
        return self._writer.in_order(spots)

    def _spot(self, c: int, row: "_Row") -> Spot:
        return self._writer.spot(row.scores, c, int(row.times_us[c]), self._rows[-1].scores.newest)


class GreedyDecider:
    """Decides all labels of one stream by the originals' rule, once the epoch has ended.

    Source: `NMS` of CALF and `get_spot_from_NMS` of NetVLAD++ and HMTAS; see `engines.nms.greedy`.
    """

    def __init__(self, manifest: Manifest, stream: str, half: int = 1) -> None:
        self._writer = _Writer(manifest, stream, half)
        self._labels = manifest.labels
        self._decisions = [manifest.decision[label] for label in manifest.labels]
        self._rate, self._unscored = manifest.rate, manifest.head.unscored_rows
        self._rows: dict[int, Scores] = {}
        self._epoch = -1

    def push(self, scores: Scores) -> list[Spot]:
        """Take one row's scores, in place of earlier ones of that row; return the last epoch's spots if it is over."""
        done: list[Spot] = []
        if scores.epoch != self._epoch:
            done += self.flush()
            self._epoch = scores.epoch
        self._rows[scores.index] = scores
        return done

    def flush(self) -> list[Spot]:
        """End the epoch; return its spots, in the order of their times."""
        rows = [self._rows[index] for index in sorted(self._rows)]
        rows = rows[: max(len(rows) - self._unscored, 0)]
        self._rows, self._epoch = {}, -1
        spots: list[Spot] = []
        if rows:
            newest = rows[-1].newest
            scores_TC = np.stack([row.scores_C for row in rows])
            for c, decision in enumerate(self._decisions):
                window_rows = round((decision.window_s or 0) * self._rate)
                found, _ = greedy(scores_TC[:, c], window_rows, decision.threshold)
                times_us = [self._writer.row_time_us(rows[i].index) for i in found]
                spots += [self._writer.spot(rows[i], c, t, newest) for i, t in zip(found, times_us, strict=True)]
        return self._writer.in_order(spots)


class _Writer:
    """Turns a decided row into a Spot: its time, id, delay by part and flags."""

    def __init__(self, manifest: Manifest, stream: str, half: int) -> None:
        self._stream, self._half, self._labels = stream, half, manifest.labels
        self._row_us = _US // manifest.rate
        self._offset_us = round(manifest.head.row_time_s * _US)
        self._look_ahead_us = round(manifest.look_ahead_s() * _US)

    def row_time_us(self, index: int) -> int:
        """Return the media time that a row's scores are for."""
        return index * self._row_us + self._offset_us

    def in_order(self, spots: list[Spot]) -> list[Spot]:
        """Return spots by their times, then by their labels' order."""
        return sorted(spots, key=lambda spot: (spot.media_time, self._labels.index(spot.label)))

    def spot(self, scores: Scores, c: int, time_us: int, newest: int) -> Spot:
        """Return the spot of label `c` that `scores` is the peak of, said when row `newest` had been seen."""
        label = self._labels[c]
        grid_us = _US - time_us % _US  # to the end of the second it happened in
        seen_us = max((newest + 1) * self._row_us, time_us + grid_us)  # displacement may point beyond the stream's end
        delay_us = seen_us - time_us
        look_ahead_us = min(self._look_ahead_us, delay_us - grid_us)  # cut short at an epoch's end
        parts_us = {"grid": grid_us, "look_ahead": look_ahead_us, "hold": delay_us - grid_us - look_ahead_us}
        return Spot(
            id=spot_id(self._stream, self._half, scores.epoch, label, time_us),
            stream=self._stream,
            half=self._half,
            epoch=scores.epoch,
            label=label,
            media_time=time_us / _US,
            confidence=float(scores.scores_C[c]),
            emitted_at=seen_us / _US,
            latency={part: us / _US for part, us in parts_us.items()},
            flags=tuple(sorted(scores.flags)),
        )


@dataclass(slots=True, eq=False)
class _Row:
    """One row's candidates: when they are, how high, and which are decided."""

    scores: Scores
    times_us: INT64
    settled: NDArray[np.bool_]


def spot_id(stream: str, half: int, epoch: int, label: str, time_us: int) -> str:
    """Return the id of a spot: the same for the same stream, half, epoch, label and time, in every run."""
    return hashlib.sha256(f"{stream}\n{half}\n{epoch}\n{label}\n{time_us}".encode()).hexdigest()[:20]
