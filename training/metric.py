"""SoccerNet's action-spotting Average-mAP, number for number, from arrays.

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

Axis suffixes: N actions or predictions, C labels, V unshown and visible, K thresholds, T tolerances, G actions of a
block of halves, P predictions in reach of any of them, W those in reach of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.data.results import FLOAT, HALF_S, INT, Predictions, Truth

__all__ = ["TOLERANCES_S", "Averages", "MapResult", "Predictions", "Truth", "average_map"]

TOLERANCES_S: dict[str, tuple[int, ...]] = {
    "tight": (1, 2, 3, 4, 5),
    "loose": tuple(range(5, 65, 5)),
    **{f"at{tolerance}": (tolerance,) for tolerance in (1, 2, 3, 4, 5)},
}

_K = 200  # Q6: threshold k is k · _STEP, which is np.linspace(0, 1, 200) bit for bit
_STEP = 1 / (_K - 1)
_RECALL_LEVELS = np.arange(11) / 10  # Q8
_UNSHOWN_FACTOR = (17, 13)  # Q10
_HALVES_AT_ONCE = 64  # bounds memory; more would not be faster
INT32 = NDArray[np.int32]
_Value = TypeVar("_Value", np.bool_, np.float64)


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
    """

    metric: str
    labels: tuple[str, ...]
    overall: Averages
    visible: Averages
    unshown: Averages
    actions: tuple[int, ...]
    visible_actions: tuple[int, ...]

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


def average_map(
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    metric: str = "tight",
    labels: Sequence[str] = SOCCERNET_LABELS,
    framerate: int = 2,
) -> MapResult:
    """Return SoccerNet's Average-mAP over all halves together.

    Args:
        truths: the actions, a half each.
        predictions: `predictions[i]` belongs to the half of `truths[i]`; a half without any has empty arrays.
        metric: "tight", "loose" or "at1" … "at5" (`TOLERANCES_S`; full widths, Q4).
        labels: the C labels that `labels_N` points into.
        framerate: frames a second of the metric's grid, >= 1; SoccerNet always uses 2, whatever the features' rate.

    Raises:
        UsageError: there is no such metric.
        ValueError: the two differ in length, a label index is outside of `labels`, a position lies more than 120
            minutes before the start, or a confidence is NaN.
    """
    if metric not in TOLERANCES_S:
        raise UsageError(f"There is no metric {metric!r}; choose one of {', '.join(TOLERANCES_S)}.")
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} halves of truth, but {len(predictions)} of predictions")
    if framerate < 1:
        raise ValueError(f"framerate is {framerate}; at least 1 is needed")
    reaches = [tolerance * framerate // 2 for tolerance in TOLERANCES_S[metric]]  # Q4
    tally = _Tally(_Grid(len(labels), framerate, reach=reaches[-1]), reaches)
    for start in range(0, len(truths), _HALVES_AT_ONCE):
        block = slice(start, start + _HALVES_AT_ONCE)
        tally.match([tally.count(t, p) for t, p in zip(truths[block], predictions[block], strict=True)])
    overall, visible, unshown = _averages(tally)
    actions_CV = tally.actions_CV
    return MapResult(
        metric=metric,
        labels=tuple(labels),
        overall=overall,
        visible=visible,
        unshown=unshown,
        actions=tuple(actions_CV.sum(axis=1).tolist()),
        visible_actions=tuple(actions_CV[:, 1].tolist()),
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells of a half, numbered label by label, frame by frame.

    The cells of two labels (or halves) are further apart than any tolerance reaches, so that one search over all
    cells never finds a neighbour's.
    """

    labels: int
    framerate: int
    reach: int

    @property
    def frames(self) -> int:
        return HALF_S * self.framerate

    @property
    def stride(self) -> int:
        return self.frames + self.reach

    @property
    def size(self) -> int:
        return self.labels * self.stride

    def cells(self, positions_ms_N: INT, labels_N: INT) -> INT:
        """Return the cell of each place (Q1)."""
        if not positions_ms_N.size:
            return np.zeros(0, np.int64)
        # The order of operations is the original's: at 25 fps another one moves some frames by one.
        frames = positions_ms_N / 1000
        frames *= self.framerate
        frames_N = np.minimum(frames, self.frames - 1, out=frames).astype(np.int64)
        if frames_N.min() < 0:
            if frames_N.min() < -self.frames:
                raise ValueError(f"a position lies more than {HALF_S} s before the half's start")
            frames_N[frames_N < 0] += self.frames
        if labels_N.min() < 0 or labels_N.max() >= self.labels:
            raise ValueError(f"a label index is not in 0 … {self.labels - 1}")
        frames_N += labels_N * self.stride
        return frames_N


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """One half on the grid: its actions, and those predictions that an action can reach."""

    actions_G: INT  # cells
    cells_P: INT
    scores_P: FLOAT
    bins_P: INT32


class _Tally:
    """Counts over all halves.

    Predictions and hits (per tolerance) are counted in bins: label, unshown or visible, last threshold passed.
    """

    def __init__(self, grid: _Grid, reaches: Sequence[int]) -> None:
        self.grid = grid
        self.reaches = reaches
        self.actions_CV: INT = np.zeros((grid.labels, 2), np.int64)
        self.predictions_CVK: INT = np.zeros((grid.labels, 2, _K), np.int64)
        self.hits_TCVK: INT = np.zeros((len(reaches), grid.labels, 2, _K), np.int64)

    def count(self, truth: Truth, predictions: Predictions) -> _Half:
        """Count the actions and predictions of a half, and return what is to be matched."""
        grid = self.grid
        actions_G, visible_G = _last_written(grid.cells(truth.positions_ms_N, truth.labels_N), truth.visible_N)
        order = np.argsort(actions_G)
        actions_G = actions_G[order]
        classes_G = actions_G // grid.stride * 2 + visible_G[order]
        cells_N, scores_N = _last_written(
            grid.cells(predictions.positions_ms_N, predictions.labels_N),
            np.asarray(predictions.confidences_N, np.float64),  # float32 would round at the thresholds
        )
        if not scores_N.min(initial=0) >= 0:  # so written, NaN is caught too
            cells_N, scores_N = _existing(cells_N, scores_N)
        bins_N = _thresholds_passed(scores_N)
        bins_N += _first_bins(actions_G, classes_G, grid)[cells_N]
        self.actions_CV += np.bincount(classes_G, minlength=self.actions_CV.size).reshape(-1, 2)
        self.predictions_CVK += np.bincount(bins_N, minlength=self.predictions_CVK.size).reshape(-1, 2, _K)
        in_reach = np.zeros(grid.size, bool)
        for cell in actions_G.tolist():
            in_reach[max(cell - grid.reach, 0) : cell + grid.reach + 1] = True
        near = np.flatnonzero(in_reach[cells_N])
        near = near[np.argsort(cells_N[near])]
        return _Half(actions_G, cells_N[near], scores_N[near], bins_N[near])

    def match(self, halves: Sequence[_Half]) -> None:
        """Match predictions to actions, and count the hits."""
        starts = [i * self.grid.size for i in range(len(halves))]
        actions_G = np.concatenate([half.actions_G + start for half, start in zip(halves, starts, strict=True)])
        cells_P = np.concatenate([half.cells_P + start for half, start in zip(halves, starts, strict=True)])
        scores_P = np.concatenate([half.scores_P for half in halves])
        bins_P = np.concatenate([half.bins_P for half in halves])
        if not cells_P.size:
            return
        hits = _hits(actions_G, cells_P, scores_P, self.reaches)
        for hits_CVK, hits_N in zip(self.hits_TCVK, hits, strict=True):
            hits_CVK += np.bincount(bins_P[hits_N], minlength=hits_CVK.size).reshape(hits_CVK.shape)


def _last_written(cells_N: INT, values_N: NDArray[_Value]) -> tuple[INT, NDArray[_Value]]:
    """Return the occupied cells, and the value written last into each (Q2)."""
    if len(cells_N):
        taken = np.zeros(int(cells_N.max()) + 1, bool)
        taken[cells_N] = True
        if np.count_nonzero(taken) < len(cells_N):
            cells_N, last = np.unique(cells_N[::-1], return_index=True)
            values_N = values_N[::-1][last]
    return cells_N, values_N


def _existing(cells_N: INT, scores_N: FLOAT) -> tuple[INT, FLOAT]:
    """Leave out the cells whose score is negative (Q3)."""
    if np.isnan(scores_N).any():
        raise ValueError("a confidence is NaN")
    return cells_N[scores_N >= 0], scores_N[scores_N >= 0]


def _first_bins(actions_G: INT, classes_G: INT, grid: _Grid) -> INT32:
    """Return for each cell the first bin of its class: its label, and the visibility of the nearest action (Q7)."""
    labels_G = classes_G // 2
    follows_G = np.diff(labels_G, prepend=-1) == 0
    halfway_G = (np.roll(actions_G, 1) + actions_G) // 2
    starts_G = np.where(follows_G, halfway_G, labels_G * grid.stride)
    # Each label's own start stands as unshown; where an action begins there too, the action comes after and prevails.
    labels_C = np.arange(grid.labels)
    starts = np.concatenate([labels_C * grid.stride, starts_G])
    order = np.argsort(starts, kind="stable")
    classes = np.concatenate([2 * labels_C, classes_G])[order]
    return np.repeat((classes * _K).astype(np.int32), np.diff(starts[order], append=grid.size))


def _thresholds_passed(scores_N: FLOAT) -> INT32:
    """Return the index of the last threshold that each score, >= 0, reaches (Q6)."""
    # Rounded up by a hair, the quotient is never too low, and too high by one at most.
    passed_N = np.minimum(scores_N, 1.0)
    passed_N *= (_K - 1) * (1 + 1e-12)
    bins_N = passed_N.astype(np.int32)
    np.floor(passed_N, out=passed_N)
    passed_N *= _STEP
    bins_N[scores_N < passed_N] -= 1
    return bins_N


def _hits(actions_G: INT, cells_P: INT, scores_P: FLOAT, reaches: Sequence[int]) -> list[INT]:
    """Return, for each reach in frames, rising, the predictions that are hits."""
    first_G = np.searchsorted(cells_P, actions_G - reaches[-1])
    end_G = np.searchsorted(cells_P, actions_G + reaches[-1], side="right")
    width = int((end_G - first_G).max(initial=0))
    # Past an action's own end lie cells out of its reach, or copies of the last one, which do no harm.
    near_GW = np.minimum(first_G[:, None] + np.arange(width), len(cells_P) - 1)
    distance_GW = np.abs(cells_P[near_GW] - actions_G[:, None])
    score_GW = scores_P[near_GW]
    holder_P = np.full(len(cells_P), len(actions_G))
    return [_assign(near_GW, np.where(distance_GW <= reach, score_GW, -1.0), holder_P) for reach in reaches]


def _assign(near_GW: INT, score_GW: FLOAT, holder_P: INT) -> INT:
    """Return the predictions chosen when each action, in time order, takes its best free one (Q5).

    Rather than one after another, all actions ask at once for their best prediction that no earlier action holds; it
    goes to the earliest that asks, and the others ask again. An action never wants back what it lost, so the outcome
    is the same, in as many rounds as the longest chain of displacements.

    Args:
        near_GW: the predictions around each action, in time order.
        score_GW: their scores; -1 where out of reach.
        holder_P: the action that holds each prediction; G = none, on entry and on return.
    """
    order_G = np.arange(len(near_GW))
    choice_G = np.full(len(near_GW), -1)
    asking = order_G if near_GW.size else order_G[:0]
    while asking.size:
        near = near_GW[asking]
        free = np.where(holder_P[near] > asking[:, None], score_GW[asking], -1.0)
        best = free.argmax(axis=1)
        row = np.arange(len(asking))
        found = free[row, best] >= 0
        choice_G[asking] = np.where(found, near[row, best], -1)
        np.minimum.at(holder_P, choice_G[asking[found]], asking[found])
        asking = np.flatnonzero((choice_G >= 0) & (holder_P[choice_G] != order_G))
    chosen = choice_G[choice_G >= 0]
    holder_P[chosen] = len(near_GW)
    return chosen


def _averages(tally: _Tally) -> tuple[Averages, Averages, Averages]:
    """Return the averages over all, the visible and the unshown actions."""
    hits_TCVK, predictions_CVK = _from_threshold_up(tally.hits_TCVK), _from_threshold_up(tally.predictions_CVK)
    parts = []
    for chosen in ([0, 1], [1], [0]):
        hits_TCK = hits_TCVK[:, :, chosen].sum(axis=2)
        precision_TCK = _ratio(hits_TCK, predictions_CVK[:, chosen].sum(axis=1))
        recall_TCK = _ratio(hits_TCK, tally.actions_CV[:, chosen].sum(axis=1)[:, None])
        parts.append(_over_tolerances(_average_precision(precision_TCK, recall_TCK)))
    overall, visible, unshown = parts
    if len(tally.reaches) > 1:
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


def _over_tolerances(precision_TC: FLOAT) -> Averages:
    """Return the average over the tolerances (Q9)."""
    per_label_C = precision_TC[0]
    if len(precision_TC) > 1:
        per_label_C = ((precision_TC[:-1] + precision_TC[1:]) / 2).sum(axis=0) / (len(precision_TC) - 1)
    return Averages(tuple(per_label_C.tolist()), float(per_label_C.mean()))
