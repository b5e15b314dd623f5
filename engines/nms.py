"""Suppression rules on a whole recording: what the online deciders are tested against, and what training measures with.

Shapes: T rows, C labels.
"""

import numpy as np
from numpy.typing import NDArray

INT64 = NDArray[np.int64]


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
