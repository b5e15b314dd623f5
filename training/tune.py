"""What a bundle decides with, chosen on the validation split alone: NMS radius and threshold per label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.export import Choice
from training.measure import FLOOR
from training.scoring import Scored, measure, spots_of

RADII_S = (1.0, 1.5, 2.0, 3.0)
TOLERANCE_S = 2.5
"""A spot this near to an action of its label is right, when thresholds are chosen."""
ENOUGH = 8
"""A label with fewer actions on the split takes the threshold that is best for all labels together."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A label's spots, best first, and whether each is right."""

    confidences: np.ndarray
    right: np.ndarray
    actions: int


def choose(scored: Sequence[Scored], labels: Sequence[str]) -> Choice:
    """Return the radius with the best tight Average-mAP, and thresholds with the best F1 under that radius."""

    def tight(radius_s: float) -> float:
        return measure(scored, labels, dict.fromkeys(labels, radius_s)).overall.mean

    radii: dict[str, float] = dict.fromkeys(labels, max(RADII_S, key=tight))
    ranked = {label: rank(scored, labels, label, radii) for label in labels}
    common = best_threshold(list(ranked.values()))
    thresholds = {
        label: best_threshold([found]) if found.actions >= ENOUGH else common for label, found in ranked.items()
    }
    return Choice(thresholds=thresholds, radii_s=radii)


def rank(scored: Sequence[Scored], labels: Sequence[str], label: str, radii_s: Mapping[str, float]) -> Ranked:
    """Return a label's spots over all halves; each action makes the most confident spot near it right."""
    confidences, right, actions = [], [], 0
    floor = dict.fromkeys(labels, FLOOR)
    for one in scored:
        spots = sorted(
            ((t, p) for name, t, p in spots_of(one, labels, radii_s, floor) if name == label), key=lambda s: -s[1]
        )
        free = [a.time_s for a in one.half.actions if a.label == label]
        actions += len(free)
        for time_s, confidence in spots:
            near = min(free, key=lambda t: abs(t - time_s), default=None)
            hit = near is not None and abs(near - time_s) <= TOLERANCE_S
            if hit and near is not None:
                free.remove(near)
            confidences.append(confidence)
            right.append(hit)
    order = np.argsort(-np.array(confidences, float), kind="stable")
    return Ranked(np.array(confidences, float)[order], np.array(right, bool)[order], actions)


def best_threshold(found: Sequence[Ranked]) -> float:
    """Return the threshold with the best F1 over some labels together, midway to the next lower confidence."""
    confidences = np.concatenate([f.confidences for f in found])
    right = np.concatenate([f.right for f in found])
    actions = sum(f.actions for f in found)
    if not len(confidences) or not actions:
        return 0.5
    order = np.argsort(-confidences, kind="stable")
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + actions)
    best = int(np.argmax(f1))
    low = confidences[order[best]]
    below = confidences[order[best + 1]] if best + 1 < len(order) else FLOOR
    return round(float((low + below) / 2), 4)
