"""What a bundle decides with, chosen on the validation split alone: NMS radius, calibration and threshold per label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engines.bundle import Decision, Manifest, read_manifest, write_manifest
from training.calibrate import UNCHANGED, Calibration, calibrate, calibrate_graph, fit_calibration
from training.scoring import FLOOR, Scored, measure, spots_of

RADII_S = (1.0, 1.5, 2.0, 3.0)
"""Radii to choose from where the head places its actions (displacement)."""
WIDE_RADII_S = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
"""Radii to choose from for heads that score whole windows, whose peaks are as wide as these."""
TOLERANCE_S = 2.5
"""A spot this near to an action of its label is right, when thresholds are chosen."""
ENOUGH = 8
"""A label with fewer actions on the split shares threshold and calibration with all labels together."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen on the validation split, per label.

    Attributes:
        thresholds: of calibrated confidences.
        radii_s: NMS radius.
        calibration: how scores become confidences; labels that are missing are left as they are.
        errors: expected calibration error of all labels' spots, before and after.
    """

    thresholds: Mapping[str, float]
    radii_s: Mapping[str, float]
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    errors: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A label's spots, best first, and whether each is right."""

    confidences: np.ndarray
    right: np.ndarray
    actions: int


def choose(
    scored: Sequence[Scored],
    labels: Sequence[str],
    radii_s: Sequence[float] = RADII_S,
    *,
    calibrated: bool = False,
) -> Choice:
    """Return the radius with the best tight Average-mAP, and thresholds with the best F1 under that radius.

    Args:
        scored: the validation split.
        labels: order of the scores' columns.
        radii_s: to choose from.
        calibrated: also fit a calibration, and choose thresholds of the calibrated confidences.
    """

    def tight(radius_s: float) -> float:
        return measure(scored, labels, dict.fromkeys(labels, radius_s)).overall.mean

    radii: dict[str, float] = dict.fromkeys(labels, max(radii_s, key=tight))
    ranked = {label: rank(scored, labels, label, radii) for label in labels}
    calibration, errors = _calibration(ranked) if calibrated else ({}, None)
    ranked = {label: _calibrated(found, calibration.get(label, UNCHANGED)) for label, found in ranked.items()}
    common = best_threshold(list(ranked.values()))
    thresholds = {
        label: best_threshold([found]) if found.actions >= ENOUGH else common for label, found in ranked.items()
    }
    return Choice(thresholds, radii, calibration, errors)


def decide(path: Path, manifest: Manifest, choice: Choice) -> Manifest:
    """Put a choice into a bundle whose head is not calibrated: into graph and manifest; return the manifest."""
    if choice.calibration:
        calibrate_graph(path / manifest.head.file, [choice.calibration[label] for label in manifest.labels])
    decision = {
        label: Decision(threshold=choice.thresholds[label], radius_s=choice.radii_s[label]) for label in manifest.labels
    }
    manifest = manifest.model_copy(
        update={
            "decision": decision,
            "calibration": {label: c._asdict() for label, c in choice.calibration.items()},
            "provenance": {**manifest.provenance, "calibration_error": choice.errors},
        }
    )
    write_manifest(path, manifest)
    return read_manifest(path)[0]


def _calibration(ranked: Mapping[str, Ranked]) -> tuple[dict[str, Calibration], tuple[float, float]]:
    """Return each label's calibration, and the expected calibration error before and after."""
    together = fit_calibration(
        np.concatenate([f.confidences for f in ranked.values()]), np.concatenate([f.right for f in ranked.values()])
    )
    found = {
        label: fit_calibration(f.confidences, f.right) if f.actions >= ENOUGH else together
        for label, f in ranked.items()
    }
    before = expected_calibration_error(list(ranked.values()))
    after = expected_calibration_error([_calibrated(f, found[label]) for label, f in ranked.items()])
    return found, (round(before, 4), round(after, 4))


def _calibrated(found: Ranked, calibration: Calibration) -> Ranked:
    return Ranked(calibrate(found.confidences, calibration), found.right, found.actions)


def expected_calibration_error(found: Sequence[Ranked], bins: int = 10) -> float:
    """Return how far confidences are from the share of right spots, on average over equally wide bins of confidence."""
    confidences = np.concatenate([f.confidences for f in found])
    right = np.concatenate([f.right for f in found])
    if not len(confidences):
        return 0.0
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)
    gaps = [abs(confidences[bin_of == b].sum() - right[bin_of == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(confidences))


def rank(scored: Sequence[Scored], labels: Sequence[str], label: str, radii_s: Mapping[str, float]) -> Ranked:
    """Return a label's spots over all halves; each action makes the most confident spot near it right."""
    confidences, right, actions = [], [], 0
    floor = dict.fromkeys(labels, FLOOR)
    for one in scored:
        spots = sorted(
            ((t, p) for name, t, p in spots_of(one, labels, radii_s, floor) if name == label), key=lambda s: -s[1]
        )
        free = [a.time_s for a in one.actions if a.label == label]
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
    below = confidences[order[best + 1]] if best + 1 < len(order) else min(FLOOR, low)
    return round(float((low + below) / 2), 4)
