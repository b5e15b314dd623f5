"""SoccerNet's action-spotting Average-mAP, number for number, from arrays; and the same without its mistakes.

In: what happened (`Truth`) and what was predicted (`Predictions`), a half each (`training.data.results`). Out: a
`MapResult`, with the SoccerNet package's own keys. Promise: equal to `SoccerNet.Evaluation.ActionSpotting` 0.2.0 within
1e-12, quirks included; no torch.

The quirks, kept because published figures hold them, and named Q1 to Q10 where the code has them:

- Q1: time is a frame of a coarse grid (2 a second), truncated; a half lasts 120 minutes: what comes later lands on the
  last frame, and a negative position counts from the end.
- Q2: a frame holds one value per label; of several actions, or predictions, the last one written stays.
- Q3: a prediction exists if its confidence is 0 or more; a negative one can still erase an earlier one (Q2).
- Q4: a tolerance of δ seconds is the full width of the window: an error of ±δ/2 is allowed, in whole frames.
- Q5: actions choose, in time order, the most confident free prediction in reach (of equals the earlier); elsewhere
  predictions choose actions, in order of confidence.
- Q6: precision and recall are taken at 200 thresholds from 0 to 1; a confidence above 1 passes all of them.
- Q7: a prediction is visible if the nearest action of its label in the half is (the later action begins at the frame
  halfway, rounded down); where there is none it is unshown.
- Q8: average precision has 11 points, and a label that never happens has 0 and counts in the mean.
- Q9: the average over tolerances is a trapezoid: the first and the last weigh half.
- Q10: the unshown mean is multiplied by 17/13 (not its per-label values; not where there is one tolerance).

With `corrected=True` those are mended that make a figure depend on what it should not:

- Q1: a negative position lies on the first frame, as a late one lies on the last;
- Q2, Q3: of several predictions in a cell the most confident counts, in whatever order they are written, so that a
  negative confidence erases nothing;
- Q8: a label without an action is left out of the mean, and named (`MapResult.absent`); the visible and unshown means
  leave out the labels without a visible or an unshown action;
- Q10: the factor is gone.

The others stay, as without them it would be another metric: the grid, its truncation and its one action per cell (Q1,
Q2), the width of a tolerance (Q4), who chooses (Q5), the thresholds (Q6), the false alarms of a label that a half does
not have, which stand with the unshown (Q7), 11 points (Q8), the trapezoid (Q9).

Axis suffixes: C labels, V unshown and visible, K thresholds, T tolerances.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.data.results import FLOAT, INT, Predictions, Truth
from training.matching import THRESHOLDS, Tally, reach_frames

__all__ = ["TOLERANCES_S", "Averages", "Curve", "MapResult", "Predictions", "Truth", "average_map", "curves"]

TOLERANCES_S: dict[str, tuple[int, ...]] = {
    "tight": (1, 2, 3, 4, 5),
    "loose": tuple(range(5, 65, 5)),
    **{f"at{tolerance}": (tolerance,) for tolerance in (1, 2, 3, 4, 5)},
}

_RECALL_LEVELS = np.arange(11) / 10  # Q8
_UNSHOWN_FACTOR = (17, 13)  # Q10


@dataclass(frozen=True, slots=True)
class Averages:
    """Average precision averaged over the tolerances, of each label and of all."""

    per_label: tuple[float, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class MapResult:
    """SoccerNet's Average-mAP with its parts, all values from 0 to 1 (the unshown mean up to 17/13, Q10).

    Attributes:
        metric: a key of `TOLERANCES_S`.
        labels: what the per-label values belong to.
        overall: over all actions.
        visible: over the actions that the broadcast showed.
        unshown: over those it did not show.
        actions: number of actions per label, as counted by the metric (Q2).
        visible_actions: how many of them were shown.
        corrected: whether the mistakes are mended (see the module).
    """

    metric: str
    labels: tuple[str, ...]
    overall: Averages
    visible: Averages
    unshown: Averages
    actions: tuple[int, ...]
    visible_actions: tuple[int, ...]
    corrected: bool = False

    @property
    def absent(self) -> tuple[str, ...]:
        """The labels that never happen."""
        return tuple(label for label, count in zip(self.labels, self.actions, strict=True) if not count)

    @property
    def occurring_mean(self) -> float:
        """The mean over the labels that happen at least once; SoccerNet's own counts the others as 0 (Q8)."""
        values = [value for value, count in zip(self.overall.per_label, self.actions, strict=True) if count]
        return sum(values) / len(values) if values else 0.0

    def as_soccernet(self, version: int = 2) -> dict[str, float | list[float] | None]:
        """Return the result under the SoccerNet package's keys, and `a_mAP_occurring`.

        Args:
            version: 1 for SoccerNet-v1's labels, which do not say what was shown: the package then has None there.
        """
        result: dict[str, float | list[float] | None] = {}
        for suffix, part in (("", self.overall), ("_visible", self.visible), ("_unshown", self.unshown)):
            known = version != 1 or not suffix
            result[f"a_mAP{suffix}"] = part.mean if known else None
            result[f"a_mAP_per_class{suffix}"] = list(part.per_label) if known else None
        return result | {"a_mAP_occurring": self.occurring_mean}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall of each label at each threshold, at one tolerance.

    Attributes:
        thresholds_K: 200 confidences from 0 to 1.
        precision_CK: share of the predictions from the threshold up that are hits; 0 where there are none.
        recall_CK: share of the actions that they hit; 0 where there are none.
    """

    thresholds_K: FLOAT
    precision_CK: FLOAT
    recall_CK: FLOAT


def average_map(
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    metric: str = "tight",
    labels: Sequence[str] = SOCCERNET_LABELS,
    framerate: int = 2,
    corrected: bool = False,
) -> MapResult:
    """Return SoccerNet's Average-mAP over all halves together.

    Args:
        truths: the actions, a half each.
        predictions: `predictions[i]` belongs to the half of `truths[i]`; a half without any has empty arrays.
        metric: "tight", "loose" or "at1" … "at5" (`TOLERANCES_S`; full widths, Q4).
        labels: the C labels that `labels_N` points into.
        framerate: frames a second of the metric's grid, >= 1; SoccerNet always uses 2, whatever the features' rate.
        corrected: mend the mistakes (see the module); published figures are not.

    Raises:
        UsageError: there is no such metric.
        ValueError: the two differ in length, a label index is outside of `labels`, a position lies more than 120
            minutes before the start (unless corrected), or a confidence is NaN.
    """
    if metric not in TOLERANCES_S:
        raise UsageError(f"There is no metric {metric!r}; choose one of {', '.join(TOLERANCES_S)}.")
    tally = _tally(truths, predictions, TOLERANCES_S[metric], len(labels), framerate, corrected)
    overall, visible, unshown = averages_of(tally, corrected)
    actions_CV = tally.actions_CV
    return MapResult(
        metric=metric,
        labels=tuple(labels),
        overall=overall,
        visible=visible,
        unshown=unshown,
        actions=tuple(actions_CV.sum(axis=1).tolist()),
        visible_actions=tuple(actions_CV[:, 1].tolist()),
        corrected=corrected,
    )


def curves(
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    tolerance_s: int,
    labels: Sequence[str] = SOCCERNET_LABELS,
    framerate: int = 2,
    corrected: bool = False,
) -> tuple[Curve, Curve, Curve]:
    """Return the curves that average precision is taken from: over all, the visible and the unshown actions.

    Args:
        truths: as for `average_map`, like all others but
        predictions: as there.
        tolerance_s: full width, seconds, >= 1 (Q4).
        labels: as there.
        framerate: as there.
        corrected: as there.

    Raises:
        ValueError: as for `average_map`, or the tolerance is below 1.
    """
    if tolerance_s < 1:
        raise ValueError(f"tolerance_s is {tolerance_s}; at least 1 is needed")
    tally = _tally(truths, predictions, (tolerance_s,), len(labels), framerate, corrected)
    thresholds_K = np.linspace(0, 1, THRESHOLDS)
    overall, visible, unshown = (Curve(thresholds_K, p[0], r[0]) for p, r, _ in _parts(tally))
    return overall, visible, unshown


def _tally(
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    tolerances_s: Sequence[int],
    labels: int,
    framerate: int,
    corrected: bool,
) -> Tally:
    """Return the counts over all halves, at each tolerance."""
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} halves of truth, but {len(predictions)} of predictions")
    if framerate < 1:
        raise ValueError(f"framerate is {framerate}; at least 1 is needed")
    reaches = [reach_frames(tolerance, framerate) for tolerance in tolerances_s]
    tally = Tally(labels, framerate, reaches, corrected)
    tally.add(truths, predictions)
    return tally


def _parts(tally: Tally) -> Iterable[tuple[FLOAT, FLOAT, INT]]:
    """Yield precision and recall (T, C, K), and actions (C,), over all, the visible and the unshown actions."""
    hits_TCVK, predictions_CVK = _from_threshold_up(tally.hits_TCVK), _from_threshold_up(tally.predictions_CVK)
    for chosen in ([0, 1], [1], [0]):
        hits_TCK = hits_TCVK[:, :, chosen].sum(axis=2)
        actions_C = tally.actions_CV[:, chosen].sum(axis=1)
        precision_TCK = _ratio(hits_TCK, predictions_CVK[:, chosen].sum(axis=1))
        yield precision_TCK, _ratio(hits_TCK, actions_C[:, None]), actions_C


def averages_of(tally: Tally, corrected: bool) -> tuple[Averages, Averages, Averages]:
    """Return the averages over all, the visible and the unshown actions."""
    parts = []
    for precision_TCK, recall_TCK, actions_C in _parts(tally):
        per_label_C = over_tolerances(_average_precision(precision_TCK, recall_TCK))
        counted_C = per_label_C[actions_C > 0] if corrected else per_label_C  # Q8
        mean = float(counted_C.mean()) if counted_C.size else 0.0
        parts.append(Averages(tuple(per_label_C.tolist()), mean))
    overall, visible, unshown = parts
    if len(tally.reaches) > 1 and not corrected:
        times, by = _UNSHOWN_FACTOR
        unshown = Averages(unshown.per_label, unshown.mean * times / by)
    return overall, visible, unshown


def _from_threshold_up(counts_K: INT) -> INT:
    return counts_K[..., ::-1].cumsum(axis=-1)[..., ::-1]


def _ratio(part: INT, whole: INT) -> FLOAT:
    return np.divide(part, whole, out=np.zeros(part.shape), where=np.broadcast_to(whole, part.shape) > 0)


def _average_precision(precision_TCK: FLOAT, recall_TCK: FLOAT) -> FLOAT:
    """Return the 11-point average precision (T, C) (Q8)."""
    total_TC = np.zeros(precision_TCK.shape[:-1])
    for level in _RECALL_LEVELS:
        total_TC += np.where(recall_TCK >= level, precision_TCK, 0.0).max(axis=-1)
    return total_TC / len(_RECALL_LEVELS)


def over_tolerances(precision_TC: FLOAT) -> FLOAT:
    """Return each label's average over the tolerances (Q9)."""
    if len(precision_TC) == 1:
        return np.asarray(precision_TC[0])
    return np.asarray(((precision_TC[:-1] + precision_TC[1:]) / 2).sum(axis=0) / (len(precision_TC) - 1))
