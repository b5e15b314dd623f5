"""Actions and predictions on the metric's grid: who is matched to whom, and how many pass each threshold.

In: `Truth` and `Predictions`, a half each. Out: counts (`Tally`) for `training.metric`, or one half's matches
(`match`). The quirks Q1 to Q7 live here, named as in `training.metric`.

Axis suffixes: N actions or predictions, C labels, V unshown and visible, K thresholds, T tolerances, G actions of a
block of halves, P predictions in reach of any of them, W those in reach of one, M predictions that count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engines.labels import SOCCERNET_LABELS
from training.data.results import BOOL, FLOAT, HALF_S, INT, Predictions, Truth

THRESHOLDS = 200  # Q6: threshold k is k · _STEP, which is np.linspace(0, 1, 200) bit for bit
_STEP = 1 / (THRESHOLDS - 1)
_IN_REACH = 1 << 30  # flag on a bin; bins stay far below
_WHOLE = (1, 2, 4, 8)  # rates at which whole numbers give the original's frames: powers of two that divide 1000
_HALVES_AT_ONCE = 64  # bounds memory; more would not be faster
INT32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """What became of the predictions of one half that count: one a cell, its confidence 0 or more.

    Attributes:
        rows_M: int, index into the half's predictions.
        hits_M: bool, true where an action took it.
        visible_M: bool, true where the nearest action of its label is visible (Q7).
    """

    rows_M: INT
    hits_M: BOOL
    visible_M: BOOL


def match(
    truth: Truth,
    predictions: Predictions,
    tolerance_s: int,
    labels: Sequence[str] = SOCCERNET_LABELS,
    framerate: int = 2,
    corrected: bool = False,
) -> Matched:
    """Return which predictions of a half the metric takes for right at one tolerance (full width, Q4).

    Raises:
        ValueError: as `training.metric.average_map`.
    """
    reach = reach_frames(tolerance_s, framerate)
    grid = Grid.of(truth, predictions, len(labels), framerate, reach, corrected)
    actions_G, classes_G = grid.actions(truth)
    rows_M = np.sort(grid.kept(predictions))
    kept = _rows(predictions, rows_M)
    cells_M = grid.cells(kept.positions_ms_N, kept.labels_N)
    first_bins_M = grid.first_bins(actions_G, classes_G)[cells_M]
    near = np.flatnonzero(first_bins_M >= _IN_REACH)
    near = near[np.argsort(cells_M[near])]
    hits_M = np.zeros(len(rows_M), bool)
    if near.size:
        hits_M[near[_hits(actions_G, cells_M[near], kept.confidences_N[near], [reach])[0]]] = True
    return Matched(rows_M, hits_M, (first_bins_M & ~_IN_REACH) // THRESHOLDS % 2 > 0)


def reach_frames(tolerance_s: int, framerate: int) -> int:
    """Return how many frames an error may have (Q4)."""
    return tolerance_s * framerate // 2


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one half, numbered label by label, frame by frame.

    The cells of two labels (or halves) are further apart than any tolerance reaches, so that one search over all
    cells never finds a neighbour's.

    Attributes:
        labels: number of labels.
        framerate: frames a second.
        reach: frames that the widest tolerance reaches.
        frames: frames of a label, no more than the half needs.
        strays: whether anything lies outside of the 120 minutes, so that all must be looked at.
        corrected: see `training.metric`.
    """

    labels: int
    framerate: int
    reach: int
    frames: int
    strays: bool
    corrected: bool

    @classmethod
    def of(
        cls, truth: Truth, predictions: Predictions, labels: int, framerate: int, reach: int, corrected: bool
    ) -> Self:
        """Return the grid of a half."""
        # Read as unsigned, a negative time is a huge one: a single pass finds strays on both sides.
        latest_ms = max(_unsigned_max(part.positions_ms_N) for part in (truth, predictions))
        strays = latest_ms >= HALF_S * 1000
        frames = HALF_S * framerate if strays else int(framerate * (latest_ms / 1000)) + 1
        return cls(labels, framerate, reach, frames, strays, corrected)

    @property
    def stride(self) -> int:
        """Return the distance between the first cells of two labels."""
        return self.frames + self.reach

    @property
    def size(self) -> int:
        """Return the number of cells of all labels."""
        return self.labels * self.stride

    def cells(self, positions_ms_N: INT, labels_N: INT) -> INT:
        """Return the cell of each place (Q1)."""
        if _unsigned_max(labels_N) >= self.labels and len(labels_N):
            raise ValueError(f"a label index is not in 0 … {self.labels - 1}")
        if self.framerate in _WHOLE and not self.strays:
            frames_N = positions_ms_N // (1000 // self.framerate)
        else:
            # The order of operations is the original's: at 25 fps another one moves some frames by one.
            times = positions_ms_N / 1000
            times *= self.framerate
            frames_N = self._inside(times) if self.strays else times.astype(np.int64)
        frames_N += labels_N * self.stride
        return frames_N

    def _inside(self, times_N: FLOAT) -> INT:
        frames_N = np.minimum(times_N, self.frames - 1).astype(np.int64)
        if self.corrected:
            return np.maximum(frames_N, 0)
        if frames_N.min(initial=0) < -self.frames:
            raise ValueError(f"a position lies more than {HALF_S} s before the half's start")
        frames_N[frames_N < 0] += self.frames
        return frames_N

    def actions(self, truth: Truth) -> tuple[INT, INT]:
        """Return the cells of a half's actions, rising, and their classes: label and visibility (Q2)."""
        cells_N = self.cells(truth.positions_ms_N, truth.labels_N)
        kept = _last_in_cell(cells_N)
        kept = kept[np.argsort(cells_N[kept])]
        actions_G = cells_N[kept]
        return actions_G, actions_G // self.stride * 2 + truth.visible_N[kept]

    def kept(self, predictions: Predictions) -> INT:
        """Return the rows of the predictions that count (Q2, Q3)."""
        cells_N = self.cells(predictions.positions_ms_N, predictions.labels_N)
        scores_N = _checked(predictions.confidences_N)
        rows = _best_in_cell(cells_N, scores_N) if self.corrected else _last_in_cell(cells_N)
        return rows[scores_N[rows] >= 0]

    def first_bins(self, actions_G: INT, classes_G: INT) -> INT32:
        """Return for each cell the first bin of its class, flagged where an action is in reach.

        The class is the cell's label, and the visibility of the nearest action of that label (Q7).
        """
        labels_G = classes_G // 2
        starts_G = labels_G * self.stride
        follows = np.flatnonzero(labels_G[1:] == labels_G[:-1]) + 1
        starts_G[follows] = (actions_G[follows - 1] + actions_G[follows]) // 2
        # Each label's own start stands as unshown; an action that begins there too comes after it and prevails.
        labels_C = np.arange(self.labels)
        starts = np.concatenate([labels_C * self.stride, starts_G])
        order = np.argsort(starts, kind="stable")
        classes = np.concatenate([2 * labels_C, classes_G])[order]
        bins = np.repeat((classes * THRESHOLDS).astype(np.int32), np.diff(starts[order], append=self.size))
        around = np.arange(-self.reach, self.reach + 1)
        bins[np.maximum(actions_G[:, None] + around, 0)] |= _IN_REACH
        return bins


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """One half on its grid: its actions, those predictions that an action can reach, and how many there are in all."""

    size: int  # cells of the grid
    actions_G: INT  # cells
    cells_P: INT
    scores_P: FLOAT
    bins_P: INT32
    counts: INT  # predictions in each bin


class Tally:
    """Counts over all halves.

    Predictions and hits (per tolerance) are counted in bins: label, unshown or visible, last threshold passed.
    """

    def __init__(self, labels: int, framerate: int, reaches: Sequence[int], corrected: bool) -> None:
        self.framerate, self.reaches, self.corrected = framerate, reaches, corrected
        self.actions_CV: INT = np.zeros((labels, 2), np.int64)
        self.predictions_CVK: INT = np.zeros((labels, 2, THRESHOLDS), np.int64)
        self.hits_TCVK: INT = np.zeros((len(reaches), labels, 2, THRESHOLDS), np.int64)

    def add(self, truths: Sequence[Truth], predictions: Sequence[Predictions]) -> None:
        """Count some halves."""
        for start in range(0, len(truths), _HALVES_AT_ONCE):
            block = slice(start, start + _HALVES_AT_ONCE)
            self._match([self._count(t, p) for t, p in zip(truths[block], predictions[block], strict=True)])

    def _count(self, truth: Truth, predictions: Predictions) -> _Half:
        """Count the actions and predictions of a half, and return what is to be matched."""
        labels = len(self.actions_CV)
        grid = Grid.of(truth, predictions, labels, self.framerate, self.reaches[-1], self.corrected)
        actions_G, classes_G = grid.actions(truth)
        first_bins = grid.first_bins(actions_G, classes_G)
        half, shared = _binned(grid, actions_G, first_bins, predictions)
        if shared:
            half, _ = _binned(grid, actions_G, first_bins, _rows(predictions, grid.kept(predictions)))
        self.actions_CV += np.bincount(classes_G, minlength=self.actions_CV.size).reshape(-1, 2)
        self.predictions_CVK += half.counts.reshape(self.predictions_CVK.shape)
        return half

    def _match(self, halves: Sequence[_Half]) -> None:
        """Match predictions to actions, and count the hits."""
        starts = np.cumsum([0, *(half.size for half in halves)])[:-1]
        actions_G = np.concatenate([half.actions_G + start for half, start in zip(halves, starts, strict=True)])
        cells_P = np.concatenate([half.cells_P + start for half, start in zip(halves, starts, strict=True)])
        scores_P = np.concatenate([half.scores_P for half in halves])
        bins_P = np.concatenate([half.bins_P for half in halves])
        if not cells_P.size:
            return
        hits = _hits(actions_G, cells_P, scores_P, self.reaches)
        for hits_CVK, hits_N in zip(self.hits_TCVK, hits, strict=True):
            hits_CVK += np.bincount(bins_P[hits_N], minlength=hits_CVK.size).reshape(hits_CVK.shape)


def _binned(grid: Grid, actions_G: INT, first_bins: INT32, predictions: Predictions) -> tuple[_Half, bool]:
    """Return a half with its predictions counted, and whether any two of them share a cell: then the count is wrong."""
    cells_M = grid.cells(predictions.positions_ms_N, predictions.labels_N)
    taken = np.zeros(grid.size, bool)
    taken[cells_M] = np.ones(len(cells_M), bool)  # in two thirds of the time of "= True"
    shared = int(np.count_nonzero(taken)) < len(cells_M)
    scores_M = np.asarray(predictions.confidences_N, np.float64)
    if not scores_M.min(initial=0) >= 0:  # so written, NaN is caught too
        scores_M = _checked(scores_M)
        cells_M, scores_M = cells_M[scores_M >= 0], scores_M[scores_M >= 0]
    bins_M = _thresholds_passed(scores_M)
    bins_M += first_bins.take(cells_M, mode="clip")  # all are inside; not to check is faster
    near = np.flatnonzero(bins_M >= _IN_REACH)
    bins_M[near] -= _IN_REACH
    counts = np.bincount(bins_M, minlength=grid.labels * 2 * THRESHOLDS)
    near = near[np.argsort(cells_M[near])]
    return _Half(grid.size, actions_G, cells_M[near], scores_M[near], bins_M[near], counts), shared


def _rows(predictions: Predictions, rows: INT) -> Predictions:
    """Return some of the predictions."""
    p = predictions
    return Predictions(p.positions_ms_N[rows], p.labels_N[rows], np.asarray(p.confidences_N, np.float64)[rows])


def _checked(confidences_N: FLOAT) -> FLOAT:
    """Return confidences as float64, since float32 would round at the thresholds."""
    scores_N = np.asarray(confidences_N, np.float64)
    if np.isnan(scores_N.max(initial=0)):
        raise ValueError("a confidence is NaN")
    return scores_N


def _unsigned_max(values_N: INT) -> int:
    """Return the highest value, where a negative one counts as huge; 0 if there is none."""
    return int(np.asarray(values_N, np.int64).view(np.uint64).max(initial=0))


def _last_in_cell(cells_N: INT) -> INT:
    """Return the row written last into each occupied cell (Q2)."""
    _, last = np.unique(cells_N[::-1], return_index=True)
    return len(cells_N) - 1 - last


def _best_in_cell(cells_N: INT, scores_N: FLOAT) -> INT:
    """Return the row with the highest score of each occupied cell; of equals, the last."""
    order = np.lexsort((scores_N, cells_N))
    return order[np.flatnonzero(np.diff(cells_N[order], append=-1))]


def _thresholds_passed(scores_N: FLOAT) -> INT32:
    """Return the index of the last threshold that each score, >= 0, reaches (Q6)."""
    if scores_N.max(initial=0) > 1:
        scores_N = np.minimum(scores_N, 1.0)
    # Rounded up by a hair, the quotient is never too low, and too high by one at most.
    passed_N = scores_N * ((THRESHOLDS - 1) * (1 + 1e-12))
    bins_N = passed_N.astype(np.int32)
    np.floor(passed_N, out=passed_N)
    passed_N *= _STEP
    bins_N -= scores_N < passed_N
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
