"""Scores in, spots out: online suppression with a bounded wait.

Rule `local-max`: a second's score of a label is a spot if it reaches the label's threshold and no other score of that
label, placed by its displacement, is higher within the radius (the earlier wins ties). It is settled as soon as no
later second can land within the radius, and never taken back.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Manifest
from engines.head import Scores
from engines.nms import INT64, local_maxima

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


class LocalMaxDecider:
    """Decides all labels of one stream by the `local-max` rule.

    Args:
        manifest: of the bundle that scores; thresholds and radii come from it.
        stream: the broadcast's name, part of every id.
        half: part of every id.
    """

    def __init__(self, manifest: Manifest, stream: str, half: int = 1) -> None:
        self._stream = stream
        self._half = half
        self._labels = manifest.labels
        decisions = [manifest.decision[label] for label in manifest.labels]
        self._thresholds = np.array([d.threshold for d in decisions], np.float32)
        self._radii_us = np.array([round(d.radius_s * _US) for d in decisions], np.int64)
        self._reach_us = round(manifest.head.max_displacement_s * _US)
        self._look_ahead_s = manifest.head.look_ahead_s
        self._keep_us = 2 * (int(self._radii_us.max()) + self._reach_us) + 2 * _US
        self._rows: deque[_Row] = deque()
        self._epoch = -1

    def push(self, scores: Scores) -> list[Spot]:
        """Take one second's scores; return the spots that are now settled, in the order of their times."""
        done: list[Spot] = []
        if scores.epoch != self._epoch:
            done += self.flush()
            self._epoch = scores.epoch
        middle_us = scores.index * _US + _US // 2
        self._rows.append(_Row(scores, self._times_us(scores, middle_us), np.zeros(len(self._labels), bool)))
        done += self._settle(earliest_next_us=middle_us + _US - self._reach_us)
        while self._rows[0].scores.index * _US < middle_us - self._keep_us:
            self._rows.popleft()
        return done

    def flush(self) -> list[Spot]:
        """End the epoch: nothing can rival what is pending any more."""
        done = self._settle(earliest_next_us=None)
        self._rows.clear()
        self._epoch = -1
        return done

    def _times_us(self, scores: Scores, middle_us: int) -> INT64:
        """Return when each label's action is, by the displacement; never before the stream's first picture."""
        shift_us = np.round(scores.displacement_C.astype(np.float64) * 1000).astype(np.int64) * 1000
        return np.maximum(middle_us + np.clip(shift_us, -self._reach_us, self._reach_us), 0)

    def _settle(self, earliest_next_us: int | None) -> list[Spot]:
        """Return the spots among the candidates that no second still to come can reach any more."""
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
        return sorted(spots, key=lambda spot: (spot.media_time, self._labels.index(spot.label)))

    def _spot(self, c: int, row: "_Row") -> Spot:
        label, time_us, newest = self._labels[c], int(row.times_us[c]), self._rows[-1].scores.newest
        grid_us = _US - time_us % _US  # to the end of the second it happened in
        seen_us = max((newest + 1) * _US, time_us + grid_us)  # at a stream's end a displacement may point beyond it
        delay_us = seen_us - time_us
        look_ahead_us = min(round(self._look_ahead_s * _US), delay_us - grid_us)  # cut short at an epoch's end
        parts_us = {"grid": grid_us, "look_ahead": look_ahead_us, "hold": delay_us - grid_us - look_ahead_us}
        return Spot(
            id=spot_id(self._stream, self._half, row.scores.epoch, label, time_us),
            stream=self._stream,
            half=self._half,
            epoch=row.scores.epoch,
            label=label,
            media_time=time_us / _US,
            confidence=float(row.scores.scores_C[c]),
            emitted_at=seen_us / _US,
            latency={part: us / _US for part, us in parts_us.items()},
            flags=tuple(sorted(row.scores.flags)),
        )


@dataclass(slots=True, eq=False)
class _Row:
    """One second's candidates: when they are, how high, and which are decided."""

    scores: Scores
    times_us: INT64
    settled: NDArray[np.bool_]


def spot_id(stream: str, half: int, epoch: int, label: str, time_us: int) -> str:
    """Return the id of a spot: the same for the same stream, half, epoch, label and time, in every run."""
    return hashlib.sha256(f"{stream}\n{half}\n{epoch}\n{label}\n{time_us}".encode()).hexdigest()[:20]
