"""Suppression rules on a whole recording: what the online deciders are tested against, and what training measures with.

Shapes: T rows, C labels.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

INT64 = NDArray[np.int64]
_Score = TypeVar("_Score", np.float32, np.float64)


def local_maxima(times_T: INT64, scores_T: NDArray[np.float32], radius_us: int) -> NDArray[np.bool_]:
    """Return which candidates of one label stand as the highest within the NMS radius.

    Args:
        times_T: microseconds; need not be sorted (displacement may cross).
        scores_T: score of each candidate.
        radius_us: candidates with |dt| <= radius_us compete.

    Returns:
        bool (T,). Rule: local maximum; of equal scores the earlier time stands, of equal times the earlier row.

    Source: E2E-Spot's local-max rule. Differs: equal peaks do not both stand.
    """
    keep = np.ones(len(times_T), bool)
    order = np.argsort(times_T, kind="stable")
    times, scores = times_T[order], scores_T[order]
    first = np.searchsorted(times, times - radius_us, "left")
    last = np.searchsorted(times, times + radius_us, "right")
    for i in range(len(order)):
        before, after = scores[first[i] : i], scores[i + 1 : last[i]]
        keep[order[i]] = not ((before >= scores[i]).any() or (after > scores[i]).any())
    return keep


def greedy(
    scores_T: NDArray[_Score], window_rows: int, threshold: float, min_window: int = 0
) -> tuple[INT64, NDArray[_Score]]:
    """Return the rows that stand by the originals' greedy rule, in the order they are found, and their scores.

    The highest score stands and suppresses the rows of its window; of those left the highest stands; and so on down
    to the threshold. The window is lopsided: from ⌈w/2⌉ rows before to ⌊w/2⌋ - 1 after. Of equal scores the first.

    Args:
        scores_T: one label's scores of a whole half; -1 where there is none, as CALF writes it.
        window_rows: w >= 0, rows. Below 2 nothing but the row itself is suppressed.
        threshold: lowest score that can stand; 0 is CALF's form, which makes no choice.
        min_window: a row is found, but does not stand, if no more than this many rows of its window (itself among
            them) reach the threshold and are still free.

    Returns:
        int64 (N,) and the scores (N,), best first.

    Raises:
        ValueError: window_rows is negative.

    Source: `NMS` of CALF, `get_spot_from_NMS` of NetVLAD++ and, with min_window, of HMTAS. Differs: a window below 2,
    or a threshold of -1 and below, ends here; the originals then find the same row for ever.
    """
    before, after = reach_rows(window_rows)
    width = before + after
    margin, suppressed = bytes(width), bytes(width)
    free = bytearray(margin[:before] + (scores_T >= threshold).tobytes() + margin)  # at [before + row]
    found = []
    for row in _best_first(scores_T, np.frombuffer(free, np.bool_)[before : before + len(scores_T)]):
        if free[before + row]:
            if not min_window or free.count(1, row, row + width) > min_window:
                found.append(row)
            free[row : row + width] = suppressed
    rows = np.array(found, np.int64)
    return rows, scores_T[rows]


def reach_rows(window_rows: int) -> tuple[int, int]:
    """Return how many rows before a peak its window begins, and how many after it ends; the end itself is outside.

    Args:
        window_rows: w, as the originals give it.

    Raises:
        ValueError: it is negative.
    """
    if window_rows < 0:
        raise ValueError(f"window_rows is {window_rows}; at least 0 is needed")
    return ((window_rows + 1) // 2, window_rows // 2) if window_rows > 1 else (0, 1)


def _best_first(scores_T: NDArray[_Score], free_T: NDArray[np.bool_]) -> Iterator[int]:
    """Yield the free rows by falling score, the first of equals first; leave out what is taken in the meantime.

    The best eighth comes first: few rows outlive it, so that most need never be sorted.
    """
    rest = np.flatnonzero(free_T)
    while rest.size:
        scores, eighth = scores_T[rest], (rest.size + 7) // 8
        is_best = scores >= np.partition(scores, -eighth)[-eighth]
        best = rest[is_best]
        yield from best[np.argsort(-scores[is_best], kind="stable")].tolist()
        rest = rest[~is_best]
        rest = rest[free_T[rest]]
