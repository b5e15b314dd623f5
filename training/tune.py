"""What a bundle decides with, chosen on the validation split alone: see `choice`; and the calibration of its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engines.bundle import Decision, Manifest, read_manifest, write_manifest
from engines.head import Scores
from training.calibrate import UNCHANGED, Calibration, calibrate, calibrate_graph, confidences, fit_calibration
from training.choice import (
    Halves,
    Track,
    Wish,
    choose_provisional,
    choose_settings,
    choose_thresholds,
    decided,
    untracked,
)
from training.ranked import ENOUGH, Ranked, rank
from training.reliability import Reliability
from training.scoring import FLOOR, Recorded

Calibrations = Sequence[Mapping[str, Calibration]]
"""Each label's calibration at each look-ahead, rising."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        decision: of each label; thresholds are of calibrated confidences.
        calibrations: how scores become confidences, at each look-ahead; empty: they stay as they are.
        reliabilities: what the calibration changed, at each look-ahead.
        notes: what is worth knowing, in sentences.
    """

    decision: Mapping[str, Decision]
    calibrations: tuple[Mapping[str, Calibration], ...] = ()
    reliabilities: tuple[Reliability, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> "Choice":
        """Return what a bundle was made with."""
        early = range(len(manifest.head.early_look_ahead_s)) if manifest.early_calibration else ()
        tables = [{label: c[i] for label, c in manifest.early_calibration.items()} for i in early]
        tables += [dict(manifest.calibration)] if manifest.calibration else []
        calibrations = ({label: Calibration(**values) for label, values in table.items()} for table in tables)
        return cls(manifest.decision, tuple(calibrations))


def choose(manifest: Manifest, halves: Halves, wish: Wish | None = None, track: Track = untracked) -> Choice:
    """Return what is best on some halves, by the decider that will run.

    Args:
        manifest: of a bundle that is not calibrated.
        halves: the validation split, as the bundle scores it.
        wish: what is asked for.
        track: shows how far it is.

    Raises:
        BundleError: the deadline is smaller than any look-ahead allows.
    """
    wish, labels = wish or Wish(), manifest.labels
    manifest = manifest.model_copy(update={"decision": choose_settings(manifest, halves, wish, track)})
    reliabilities = tuple(_reliability(manifest, halves, a, wish.calibrated) for a in manifest.look_aheads_s)
    calibrations = tuple(c for _, c in reliabilities) if wish.calibrated else ()
    halves = calibrated(manifest, halves, calibrations)
    floors = {label: _floor(manifest, label, calibrations) for label in labels}
    thresholds, lacking = choose_thresholds(_updated(manifest, "threshold", floors), halves, wish, track)
    manifest = _updated(manifest, "threshold", thresholds)
    notes = []
    if lacking:
        notes.append(
            f"{', '.join(lacking)}: no threshold makes {wish.precision:.0%} of the spots right; the best one is taken."
        )
    if wish.provisional_precision is not None:
        early = choose_provisional(manifest, halves, wish.provisional_precision, track)
        manifest = _updated(manifest, "provisional_threshold", early)
    return Choice(manifest.decision, calibrations, tuple(r for r, _ in reliabilities), tuple(notes))


def calibrated(manifest: Manifest, halves: Halves, calibrations: Calibrations) -> Halves:
    """Return what a calibrated bundle would say of the same halves."""
    if not calibrations:
        return halves
    tables = {
        round(ahead_s * manifest.rate): np.array([table[label] for label in manifest.labels])
        for ahead_s, table in zip(manifest.look_aheads_s, calibrations, strict=True)
    }

    def of(scores: Scores) -> Scores:
        scores_C = confidences(scores.scores_C.astype(np.float64), tables[scores.look_ahead])
        return replace(scores, scores_C=scores_C.astype(np.float32))

    return [Recorded(half.actions, [of(scores) for scores in half.scores]) for half in halves]


def decide(path: Path, manifest: Manifest, choice: Choice) -> Manifest:
    """Put a choice into a bundle whose head is not calibrated: into graph and manifest; return the manifest."""
    calibration: dict[str, object] = {}
    if choice.calibrations:
        *early, last = choice.calibrations
        tables = [[table[label] for label in manifest.labels] for table in early]
        calibrate_graph(path / manifest.head.file, [last[label] for label in manifest.labels], tables)
        calibration["calibration"] = {label: c._asdict() for label, c in last.items()}
        if early:
            calibration["early_calibration"] = {
                label: tuple(table[label]._asdict() for table in early) for label in manifest.labels
            }
    errors = {f"{r.look_ahead_s:g}": {**_errors(r), **r.errors} for r in choice.reliabilities}
    provenance = {**manifest.provenance, "calibration_error": errors} if errors else manifest.provenance
    manifest = manifest.model_copy(update={"decision": choice.decision, "provenance": provenance, **calibration})
    write_manifest(path, manifest)
    return read_manifest(path)[0]


def calibration_errors(manifest: Manifest, halves: Halves) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the expected calibration error of each look-ahead's spots, before and after the bundle's calibration.

    Args:
        manifest: of the calibrated bundle.
        halves: as it scores them.
    """
    choice, found = Choice.of(manifest), {}
    tables = choice.calibrations or (dict.fromkeys(manifest.labels, UNCHANGED),) * len(manifest.look_aheads_s)
    for look_ahead_s, table in zip(manifest.look_aheads_s, tables, strict=True):
        floors = {label: float(calibrate(np.array(FLOOR), table[label])) for label in manifest.labels}
        after = _ranked(_updated(manifest, "threshold", floors), halves, look_ahead_s)
        before = {label: f.calibrated(table[label].inverse) for label, f in after.items()}
        found[f"{look_ahead_s:g}"] = _errors(Reliability(look_ahead_s, before, after))
    return found


def _errors(found: Reliability) -> dict[str, tuple[float, float]]:
    return {"all": found.error, "above 0.1": found.upper_error}


def _updated(manifest: Manifest, field: str, values: Mapping[str, object]) -> Manifest:
    """Return the manifest with another value of a field of each label's decision."""
    decision = {label: d.model_copy(update={field: values[label]}) for label, d in manifest.decision.items()}
    return manifest.model_copy(update={"decision": decision})


def _floor(manifest: Manifest, label: str, calibrations: Calibrations) -> float:
    """Return the confidence that FLOOR becomes at the look-ahead that confirms a label."""
    if not calibrations:
        return FLOOR
    own_s = manifest.decision[label].look_ahead_s
    at = -1 if own_s is None else manifest.look_aheads_s.index(own_s)
    return float(calibrate(np.array(FLOOR), calibrations[at][label]))


def _reliability(
    manifest: Manifest, halves: Halves, look_ahead_s: float, fitted: bool
) -> tuple[Reliability, dict[str, Calibration]]:
    """Return each label's calibration of one look-ahead's spots, and what it changes."""
    ranked = _ranked(manifest, halves, look_ahead_s)
    found = fit(ranked) if fitted else dict.fromkeys(ranked, UNCHANGED)
    after = {label: f.calibrated(found[label]) for label, f in ranked.items()}
    return Reliability(look_ahead_s, ranked, after), found


def _ranked(manifest: Manifest, halves: Halves, look_ahead_s: float) -> dict[str, Ranked]:
    """Return each label's spots at one look-ahead; no deadline cuts them short: a confidence means the same at all."""
    own_s = look_ahead_s if len(manifest.look_aheads_s) > 1 else None
    manifest = manifest.with_decision(look_ahead_s=own_s, deadline_s=None, provisional_threshold=None)
    return rank(decided(manifest, halves), [half.actions for half in halves], manifest.labels)


def fit(ranked: Mapping[str, Ranked]) -> dict[str, Calibration]:
    """Return each label's calibration; labels with fewer than ENOUGH actions share that of all labels together."""
    together = fit_calibration(
        np.concatenate([f.confidences for f in ranked.values()]), np.concatenate([f.right for f in ranked.values()])
    )
    return {
        label: fit_calibration(f.confidences, f.right) if f.actions >= ENOUGH else together
        for label, f in ranked.items()
    }
