"""What a head said of whole halves, before anything is decided: its spots, and what the metric says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.actions import Action
from engines.nms import local_maxima
from training.metric import MapResult, Predictions, Truth, average_map

FLOOR = 0.01
"""Every spot above this counts in the ranking, whatever the bundle's own thresholds."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A network's output on one half of T rows.

    Attributes:
        actions: what happened in it.
        scores_TC: float32 in [0, 1].
        times_TC: int64, microseconds of media time, by the displacement.
    """

    actions: Sequence[Action]
    scores_TC: np.ndarray
    times_TC: np.ndarray


def spots_of(
    scored: Scored, labels: Sequence[str], radii_s: Mapping[str, float], thresholds: Mapping[str, float]
) -> list[tuple[str, float, float]]:
    """Return (label, media time in seconds, confidence) of every spot, by the local-max rule."""
    spots = []
    for c, label in enumerate(labels):
        times, scores = scored.times_TC[:, c], scored.scores_TC[:, c]
        stands = local_maxima(times, scores, round(radii_s[label] * 1e6)) & (scores >= thresholds[label])
        spots += [(label, float(times[i] / 1e6), float(scores[i])) for i in np.flatnonzero(stands)]
    return spots


def measure(
    scored: Sequence[Scored], labels: Sequence[str], radii_s: Mapping[str, float], metric: str = "tight"
) -> MapResult:
    """Return the metric over all spots above FLOOR."""
    floor = dict.fromkeys(labels, FLOOR)
    truths = [Truth.of(s.actions, labels) for s in scored]
    return average_map(
        truths, [Predictions.of(spots_of(s, labels, radii_s, floor), labels) for s in scored], metric, labels
    )
