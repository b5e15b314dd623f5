"""How soon words come, and how far those hold that come before the final one.

In: what happened (`Truth`) and what was said when (`History`), a half each. Out: delays of the right spots, and the
figures of provisional words. Percentiles are observed values (the inverse of the distribution), so that p95 is a delay
that 95 % of the spots kept. What was taken from no spot at all is None.

Axis suffixes: N spots, C labels, M spots that were provisional first, K those of them that were confirmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Self

import numpy as np

from engines.labels import SOCCERNET_LABELS
from training.data.results import BOOL, INT, Truth
from training.data.words import NEVER, History
from training.deadlines import RIGHT_S, Found, right

BUCKETS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, inf)
"""Provisional words are counted by their delay, each with the first of these that it does not exceed."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Percentiles of durations, in seconds."""

    count: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    max_s: float | None

    @classmethod
    def of(cls, durations_ms_N: INT) -> Self:
        """Return the percentiles of such durations."""
        if not len(durations_ms_N):
            return cls(0, None, None, None, None)
        p50, p95, p99, last = np.percentile(durations_ms_N, [50, 95, 99, 100], method="inverted_cdf").tolist()
        return cls(len(durations_ms_N), p50 / 1000, p95 / 1000, p99 / 1000, last / 1000)


def say_delays(found: Found) -> tuple[Delays, tuple[Delays, ...]]:
    """Return the delays, action to confirmed word, of all right spots, and of each label's."""
    per_label = (found.delays_ms_N[found.labels_N == c] for c in range(len(found.actions_C)))
    return Delays.of(found.delays_ms_N), tuple(Delays.of(delays_ms) for delays_ms in per_label)


@dataclass(frozen=True, slots=True)
class Precision:
    """How many spots there were, and which share of them ended confirmed and right."""

    count: int
    share: float | None

    @classmethod
    def of(cls, right_M: BOOL) -> Self:
        """Return the precision of spots of which these are right."""
        return cls(len(right_M), _share(right_M))


@dataclass(frozen=True, slots=True)
class ProvisionalFigures:
    """What provisional words are worth.

    Attributes:
        precision: of all spots that were provisional first.
        by_delay: the same by `BUCKETS_S`, of the first provisional word after the position that it gave.
        retracted: share of them retracted without having been confirmed.
        lead: how long before its confirmed word a spot's first provisional one was said.
        drift: how far the confirmed position is from the first provisional one.
    """

    precision: Precision
    by_delay: tuple[Precision, ...]
    retracted: float | None
    lead: Delays
    drift: Delays


@dataclass(frozen=True, slots=True)
class WordFigures:
    """How words behave.

    Attributes:
        confirmed: number of confirmed spots.
        retracted: share of them that were taken back; touchline never does.
        revisions: mean number of words up to the confirmed one.
        provisional: None where every spot was confirmed by its first word.
    """

    confirmed: int
    retracted: float | None
    revisions: float | None
    provisional: ProvisionalFigures | None


def word_figures(
    truths: Sequence[Truth],
    histories: Sequence[History],
    tolerance_s: int = RIGHT_S,
    labels: Sequence[str] = SOCCERNET_LABELS,
) -> WordFigures:
    """Return how the words of all halves behave.

    Args:
        truths: the actions, a half each.
        histories: `histories[i]` belongs to the half of `truths[i]`.
        tolerance_s: full width, seconds, at which a spot is right.
        labels: what `labels_N` points into.
    """
    revisions_N = np.concatenate([_NONE, *(history.revisions_N for history in histories)])
    taken_back_N = np.concatenate([_NONE > 0, *(~history.said.stands_N for history in histories)])
    drafts = [_drafts(t, h, tolerance_s, labels) for t, h in zip(truths, histories, strict=True)]
    return WordFigures(
        confirmed=len(revisions_N),
        retracted=_share(taken_back_N),
        revisions=float(revisions_N.mean()) if revisions_N.size else None,
        provisional=_provisional_figures(drafts) if any(len(d.right_M) for d in drafts) else None,
    )


class _Drafts(NamedTuple):
    """The M spots of a half that were provisional first, and the K of them that were confirmed."""

    right_M: BOOL
    retracted_M: BOOL
    delays_ms_M: INT
    leads_ms_K: INT
    drifts_ms_K: INT


def _drafts(truth: Truth, history: History, tolerance_s: int, labels: Sequence[str]) -> _Drafts:
    said, first = history.said, history.provisional
    confirmed_K = np.flatnonzero(first.spots_M != NEVER)
    spots_K = first.spots_M[confirmed_K]
    right_M = np.zeros(len(first.spots_M), bool)
    right_M[confirmed_K] = right(truth, said, tolerance_s, labels)[spots_K]
    return _Drafts(
        right_M,
        first.retracted_M,
        first.said_ms_M - first.positions_ms_M,
        said.said_ms_N[spots_K] - first.said_ms_M[confirmed_K],
        np.abs(said.positions_ms_N[spots_K] - first.positions_ms_M[confirmed_K]),
    )


def _provisional_figures(halves: Sequence[_Drafts]) -> ProvisionalFigures:
    right_M, retracted_M, delays_ms_M, leads_ms, drifts_ms = (np.concatenate(c) for c in zip(*halves, strict=True))
    buckets = np.searchsorted(1000 * np.array(BUCKETS_S), delays_ms_M)
    return ProvisionalFigures(
        precision=Precision.of(right_M),
        by_delay=tuple(Precision.of(right_M[buckets == i]) for i in range(len(BUCKETS_S))),
        retracted=_share(retracted_M),
        lead=Delays.of(leads_ms),
        drift=Delays.of(drifts_ms),
    )


def _share(chosen_N: BOOL) -> float | None:
    return float(chosen_N.mean()) if chosen_N.size else None


_NONE = np.zeros(0, np.int64)
