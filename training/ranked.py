"""Confirmed spots against what happened: which are right, and what each threshold would give of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engines.actions import Action
from engines.decider import Spot
from training.calibrate import FLOAT, Calibration, calibrate
from training.data.results import BOOL
from training.scoring import FLOOR

TOLERANCE_S = 2.5
"""A spot this near to an action of its label is right, when thresholds are chosen."""
ENOUGH = 8
"""A label with fewer actions on the split shares what is chosen for all labels together."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A label's spots, best first.

    Attributes:
        confidences: of each.
        right: whether each is right.
        actions: how many actions of the label there were.
    """

    confidences: FLOAT
    right: BOOL
    actions: int

    def calibrated(self, calibration: Calibration) -> "Ranked":
        """Return the same spots with calibrated confidences."""
        return Ranked(calibrate(self.confidences, calibration), self.right, self.actions)


class Point(NamedTuple):
    """What a threshold gives: how many spots are said, and how many of them are right."""

    threshold: float
    said: int
    right: int

    @property
    def precision(self) -> float:
        """The share of the spots that are right; 0 of none."""
        return self.right / self.said if self.said else 0.0


def verdicts(words: Sequence[Spot], actions: Sequence[Action]) -> list[tuple[Spot, bool]]:
    """Return a half's confirmed spots, best first, and whether each is right.

    An action makes the most confident spot near it right, and no other.
    """
    free = defaultdict(list)
    for action in actions:
        free[action.label].append(action.time_s)
    found = []
    for spot in sorted((w for w in words if w.state == "confirmed"), key=lambda w: (-w.confidence, w.media_time)):
        near = min(free[spot.label], key=lambda t: abs(t - spot.media_time), default=None)
        right = near is not None and abs(near - spot.media_time) <= TOLERANCE_S
        if right and near is not None:
            free[spot.label].remove(near)
        found.append((spot, right))
    return found


def rank(
    words: Sequence[Sequence[Spot]], actions: Sequence[Sequence[Action]], labels: Sequence[str]
) -> dict[str, Ranked]:
    """Return each label's spots over all halves.

    Args:
        words: a half each.
        actions: `actions[i]` happened in the half of `words[i]`.
        labels: to rank.
    """
    judged = [verdict for some, happened in zip(words, actions, strict=True) for verdict in verdicts(some, happened)]
    judged.sort(key=lambda verdict: -verdict[0].confidence)
    found = {}
    for label in labels:
        own = [(spot.confidence, right) for spot, right in judged if spot.label == label]
        count = sum(a.label == label for half in actions for a in half)
        found[label] = Ranked(np.array([c for c, _ in own], float), np.array([r for _, r in own], bool), count)
    return found


def points(found: Sequence[Ranked]) -> list[Point]:
    """Return what every threshold gives of some labels together, the highest first.

    Each lies midway to the next lower confidence; a rule that settles without a deadline says the same spots whatever
    the threshold, but for those below it.
    """
    confidences = np.concatenate([f.confidences for f in found])
    order = np.argsort(-confidences, kind="stable")
    confidences, hits = confidences[order], np.cumsum(np.concatenate([f.right for f in found])[order])
    if not len(order):
        return []
    below = np.append(confidences[1:], min(FLOOR, confidences[-1]))
    ends = [*np.flatnonzero(below[:-1] < confidences[:-1]).tolist(), len(order) - 1]
    return [Point(_between(float(below[i]), float(confidences[i])), i + 1, int(hits[i])) for i in ends]


def _between(below: float, low: float) -> float:
    middle = float(f"{(low + below) / 2:.4g}")
    return middle if below < middle <= low else low


def best_f1(given: Sequence[Point], actions: int) -> float:
    """Return the threshold with the best F1; one half where there is nothing to choose by."""
    if not given or not actions:
        return 0.5
    return max(given, key=lambda p: (2 * p.right / (p.said + actions), p.threshold)).threshold


def at_precision(given: Sequence[Point], precision: float) -> Point | None:
    """Return the smallest threshold from which at least such a share of the spots is right; None: there is none."""
    reached = [p for p in given if p.said and p.precision >= precision]
    return min(reached, key=lambda p: p.threshold, default=None)


def shared(found: Mapping[str, Ranked]) -> list[str]:
    """Return the labels that have too few actions for a choice of their own."""
    return [label for label, f in found.items() if f.actions < ENOUGH]
