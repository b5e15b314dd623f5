"""Accuracy under a deadline: SoccerNet's Average-mAP of what had been said, confirmed, in time.

In: what happened (`Truth`) and when it was said (`Said`), a half each. Out: A(D), the Average-mAP where a spot counts
only if its confirmed word was said no later than D seconds after its action and still stood then. Promise: the metric
is `training.metric`'s, unchanged, and D = ∞ gives its very figure for what stood at the end; no torch.

For each tolerance δ a spot is judged from its reference: the nearest action of its label within ±δ/2 (of two as near
the earlier), or, where there is none, its own position. At the deadline D the view V(δ, D) holds the spots that were
said by reference + D, inclusive, and not retracted by then. So a late spot is a missed action and no false alarm, a
duplicate is a false alarm as ever, and a false alarm costs nothing from the moment it is retracted. A(D) need not rise
with D: late false alarms come in as well. The strict variant A⁻(D) keeps each late spot as a false alarm.

Axis suffixes: N spots, C labels, T tolerances, D deadlines, G actions, W actions in reach of a spot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engines.labels import SOCCERNET_LABELS
from training.data.results import BOOL, FLOAT, INT, Predictions, Truth
from training.data.words import Said
from training.matching import Grid, Tally, match, reach_frames
from training.metric import TOLERANCES_S, Averages, average_map, averages_of, over_tolerances

__all__ = [
    "DEADLINES_S",
    "RIGHT_S",
    "Averages",
    "DeadlineCurve",
    "Found",
    "Recalls",
    "Said",
    "deadline_curve",
    "deadline_map",
    "find",
    "references_ms",
    "right",
    "view",
]

DEADLINES_S = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 16.0, 32.0, 64.0, math.inf)
RIGHT_S = 5
"""The tolerance, full width, at which a spot is called right where one figure is wanted: the widest of tight."""

_OCTAVES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_FRAMERATE = 2  # of the metric's grid


def references_ms(truth: Truth, said: Said, tolerance_s: int, labels: Sequence[str] = SOCCERNET_LABELS) -> INT:
    """Return (N,) the time that each spot's delay counts from.

    It is that of the nearest action of the spot's label within the metric's reach, of two as near the earlier; where
    there is none, the spot's own position.

    Args:
        truth: the actions of a half.
        said: its spots.
        tolerance_s: full width, seconds.
        labels: what `labels_N` points into.
    """
    reach = reach_frames(tolerance_s, _FRAMERATE)
    grid = Grid.of(truth, said.chosen(np.arange(len(said.labels_N))), len(labels), _FRAMERATE, reach, corrected=False)
    cells_G = grid.cells(truth.positions_ms_N, truth.labels_N)
    order = np.lexsort((truth.positions_ms_N, cells_G))
    cells_G, times_G = cells_G[order], truth.positions_ms_N[order]
    cells_N = grid.cells(said.positions_ms_N, said.labels_N)
    first_N = np.searchsorted(cells_G, cells_N - reach)
    count_N = np.searchsorted(cells_G, cells_N + reach, side="right") - first_N
    reference_N = said.positions_ms_N.copy()
    near = np.flatnonzero(count_N)
    if near.size:
        around_W = np.arange(count_N[near].max())
        times_NW = times_G[np.minimum(first_N[near, None] + around_W, len(times_G) - 1)]
        away_NW = np.abs(times_NW - said.positions_ms_N[near, None])
        nearest = np.where(around_W < count_N[near, None], away_NW, np.iinfo(np.int64).max).argmin(axis=1)
        reference_N[near] = times_NW[np.arange(len(near)), nearest]
    return reference_N


def view(
    truth: Truth, said: Said, tolerance_s: int, deadline_s: float, labels: Sequence[str] = SOCCERNET_LABELS
) -> Predictions:
    """Return V(δ, D): the spots of a half that had been said by the deadline, and stood.

    Args:
        truth: the actions of the half.
        said: its spots.
        tolerance_s: δ, full width, seconds.
        deadline_s: D, seconds, >= 0; `math.inf` for what stood at the end.
        labels: what `labels_N` points into.
    """
    reference_N = references_ms(truth, said, tolerance_s, labels)
    (in_time_N,), (stood_N,) = _by_deadline(said, reference_N, [deadline_s])
    return said.chosen(in_time_N & stood_N)


def deadline_map(
    truths: Sequence[Truth],
    saids: Sequence[Said],
    deadline_s: float,
    metric: str = "tight",
    labels: Sequence[str] = SOCCERNET_LABELS,
    strict: bool = False,
) -> Averages:
    """Return A(D), or A⁻(D), over all halves together: of each label, and their mean.

    Args:
        truths: the actions, a half each.
        saids: `saids[i]` belongs to the half of `truths[i]`; a half without any has empty arrays.
        deadline_s: D, seconds, >= 0; `math.inf` gives `average_map`'s figure of what stood at the end.
        metric: a key of `TOLERANCES_S`; each tolerance has its own view, and the trapezoid is taken over them.
        labels: the C labels that `labels_N` points into.
        strict: keep each late spot as a false alarm, whatever became of it.

    Raises:
        ValueError: the two differ in length, a deadline is negative, and as `training.metric.average_map`.
    """
    return _deadline_maps(truths, saids, (deadline_s,), metric, labels)[strict][0]


@dataclass(frozen=True, eq=False)
class DeadlineCurve:
    """A(D) of one metric, all values from 0 to 1.

    Attributes:
        metric: a key of `TOLERANCES_S`.
        labels: what the per-label values belong to.
        actions: number of actions per label, as counted by the metric.
        deadlines_s: rising; the last is ∞.
        averages: A(D) at each.
        strict: A⁻(D) at each.
    """

    metric: str
    labels: tuple[str, ...]
    actions: tuple[int, ...]
    deadlines_s: tuple[float, ...]
    averages: tuple[Averages, ...]
    strict: tuple[Averages, ...]

    @cached_property
    def means(self) -> tuple[float, ...]:
        """A(D) over all labels, those that never happen included."""
        return tuple(averages.mean for averages in self.averages)

    @cached_property
    def occurring_means(self) -> tuple[float, ...]:
        """A(D) over the labels that happen at least once."""
        happening = [c for c, count in enumerate(self.actions) if count]
        return tuple(float(np.mean([a.per_label[c] for c in happening])) if happening else 0.0 for a in self.averages)

    @property
    def shares(self) -> tuple[float | None, ...]:
        """A(D) / A(∞); None where A(∞) is 0."""
        return tuple(mean / self.means[-1] if self.means[-1] else None for mean in self.means)

    @property
    def losses(self) -> tuple[float, ...]:
        """LatencyLoss: A(∞) − A(D)."""
        return tuple(self.means[-1] - mean for mean in self.means)

    def share_at(self, deadline_s: float) -> float | None:
        """Return A(D) / A(∞) at one of the deadlines; None where A(∞) is 0."""
        return self.shares[self.deadlines_s.index(deadline_s)]

    def least_deadline_s(self, share: float) -> float | None:
        """Return D50, D90, …: the least of the deadlines with A(D) >= share · A(∞); None where A(∞) is 0."""
        enough = (d for d, mean in zip(self.deadlines_s, self.means, strict=True) if mean >= share * self.means[-1])
        return next(enough) if self.means[-1] else None

    @property
    def area(self) -> float | None:
        """DAUC: the mean of A(D) / A(∞) over log D from 1 to 64 s; 1 if all is said within 1 s."""
        shares = [self.share_at(deadline_s) for deadline_s in _OCTAVES_S]
        known = [share for share in shares if share is not None]
        return float(np.trapezoid(known)) / (len(_OCTAVES_S) - 1) if known else None


def deadline_curve(
    truths: Sequence[Truth], saids: Sequence[Said], metric: str = "tight", labels: Sequence[str] = SOCCERNET_LABELS
) -> DeadlineCurve:
    """Return A(D) and A⁻(D) at `DEADLINES_S`, over all halves together.

    Args:
        truths: as for `deadline_map`, like the others.
        saids: as there.
        metric: as there.
        labels: as there.

    Raises:
        ValueError: as there.
    """
    in_time, strict = _deadline_maps(truths, saids, DEADLINES_S, metric, labels)
    return DeadlineCurve(metric, tuple(labels), _actions(truths, labels), DEADLINES_S, tuple(in_time), tuple(strict))


@dataclass(frozen=True, slots=True)
class Recalls:
    """The share of the actions that were found in time: of each label, and of all actions; 0 where there are none."""

    per_label: tuple[float, ...]
    overall: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The spots of all halves that are right at one tolerance, once all is said.

    Attributes:
        labels_N: int, index into the labels.
        delays_ms_N: int, from the reference, the nearest action, to the confirmed word; below 0 if it came first.
        actions_C: int, actions as counted by the metric.
    """

    labels_N: INT
    delays_ms_N: INT
    actions_C: INT

    def recall(self, deadline_s: float) -> Recalls:
        """Return R(δ, D): the share of the actions found by a spot that was said within the deadline.

        Who finds what is matched once, on what stood at the end, so R never falls as D rises, and R(δ, ∞) is the
        metric's own recall.
        """
        in_time_N = self.delays_ms_N <= _milliseconds(deadline_s)
        found_C = np.bincount(self.labels_N[in_time_N], minlength=len(self.actions_C))
        per_label_C = found_C / np.maximum(self.actions_C, 1)
        return Recalls(tuple(per_label_C.tolist()), float(found_C.sum() / max(self.actions_C.sum(), 1)))


def find(
    truths: Sequence[Truth],
    saids: Sequence[Said],
    tolerance_s: int = RIGHT_S,
    labels: Sequence[str] = SOCCERNET_LABELS,
) -> Found:
    """Return the right spots of all halves.

    Args:
        truths: as for `deadline_map`, like all others but
        saids: as there.
        tolerance_s: δ, full width, seconds.
        labels: as there.

    Raises:
        ValueError: as there.
    """
    found_labels, delays = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for truth, said in zip(truths, saids, strict=True):
        right_N = right(truth, said, tolerance_s, labels)
        reference_N = references_ms(truth, said, tolerance_s, labels)
        found_labels.append(said.labels_N[right_N])
        delays.append((said.said_ms_N - reference_N)[right_N])
    actions_C = np.array(_actions(truths, labels), np.int64)
    return Found(np.concatenate(found_labels), np.concatenate(delays), actions_C)


def right(truth: Truth, said: Said, tolerance_s: int = RIGHT_S, labels: Sequence[str] = SOCCERNET_LABELS) -> BOOL:
    """Return (N,) which spots of a half the metric takes for right among those that stood at the end."""
    matched = match(truth, said.final, tolerance_s, labels)
    right_N = np.zeros(len(said.labels_N), bool)
    right_N[np.flatnonzero(said.stands_N)[matched.rows_M[matched.hits_M]]] = True
    return right_N


def _actions(truths: Sequence[Truth], labels: Sequence[str]) -> tuple[int, ...]:
    """Return how many actions of each label the metric counts."""
    return average_map(truths, [Predictions.of([])] * len(truths), labels=labels).actions


def _deadline_maps(
    truths: Sequence[Truth], saids: Sequence[Said], deadlines_s: Sequence[float], metric: str, labels: Sequence[str]
) -> tuple[list[Averages], list[Averages]]:
    """Return A(D) and A⁻(D) at each deadline."""
    if len(truths) != len(saids):
        raise ValueError(f"{len(truths)} halves of truth, but {len(saids)} of spots")
    by_tolerance = [_precisions(truths, saids, t, deadlines_s, labels) for t in TOLERANCES_S[metric]]
    in_time, strict = (
        [_mean(row_C) for row_C in over_tolerances(np.array(ps))] for ps in zip(*by_tolerance, strict=True)
    )
    return in_time, strict


def _precisions(
    truths: Sequence[Truth],
    saids: Sequence[Said],
    tolerance_s: int,
    deadlines_s: Sequence[float],
    labels: Sequence[str],
) -> tuple[FLOAT, FLOAT]:
    """Return the average precision (D, C) at one tolerance, without and with the late spots as false alarms.

    All deadlines are judged at once, each with labels of its own, which the metric never matches across.
    """
    deadlines, classes = len(deadlines_s), len(labels)
    views, late = [], []
    for truth, said in zip(truths, saids, strict=True):
        reference_N = references_ms(truth, said, tolerance_s, labels)
        in_time_DN, stood_DN = _by_deadline(said, reference_N, deadlines_s)
        views.append(_by_labels(said, in_time_DN & stood_DN, classes))
        late.append(_by_labels(said, ~in_time_DN, classes))
    tally = Tally(deadlines * classes, _FRAMERATE, [reach_frames(tolerance_s, _FRAMERATE)], corrected=False)
    tally.add([_repeated(truth, deadlines, classes) for truth in truths], views)
    in_time_DC = _per_label(tally).reshape(deadlines, classes)
    tally.add([Truth.of([])] * len(late), late)  # where nothing happens, all are false alarms
    return in_time_DC, _per_label(tally).reshape(deadlines, classes)


def _by_labels(said: Said, chosen_DN: BOOL, classes: int) -> Predictions:
    """Return the spots chosen at each deadline, under labels of its own."""
    deadline, rows = np.divmod(np.flatnonzero(chosen_DN), max(chosen_DN.shape[1], 1))
    found = said.chosen(rows)
    return Predictions(found.positions_ms_N, found.labels_N + classes * deadline, found.confidences_N)


def _repeated(truth: Truth, deadlines: int, classes: int) -> Truth:
    """Return the actions once for each deadline, under labels of its own."""
    labels_DG = truth.labels_N + classes * np.arange(deadlines)[:, None]
    return Truth(np.tile(truth.positions_ms_N, deadlines), labels_DG.ravel(), np.tile(truth.visible_N, deadlines))


def _per_label(tally: Tally) -> FLOAT:
    overall, _, _ = averages_of(tally, corrected=False)
    return np.array(overall.per_label)


def _mean(per_label_C: FLOAT) -> Averages:
    return Averages(tuple(per_label_C.tolist()), float(per_label_C.mean()))


def _by_deadline(said: Said, reference_N: INT, deadlines_s: Sequence[float]) -> tuple[BOOL, BOOL]:
    """Return (D, N) which spots had been said by each deadline, and which had not been retracted by then."""
    by_DN = reference_N + np.array([_milliseconds(deadline_s) for deadline_s in deadlines_s])[:, None]
    return said.said_ms_N <= by_DN, said.stands_N | (said.retracted_ms_N > by_DN)


def _milliseconds(deadline_s: float) -> float:
    if not deadline_s >= 0:  # so written, NaN is caught too
        raise ValueError(f"the deadline is {deadline_s}; seconds of at least 0 are needed")
    return deadline_s if deadline_s == math.inf else float(round(deadline_s * 1000))
