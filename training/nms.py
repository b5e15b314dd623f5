"""Other systems' suppression rules, for judging published scores the way their authors did.

In: one label's scores of a whole half, a row each; RMS-Net's rules take spots. Out: which rows stand, and with what
score, as float64. None of them can run live as it is: each may need the whole half. What CALF, NetVLAD++ and HMTAS use
is `engines.nms.greedy`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.nms import INT64

FLOAT64 = NDArray[np.float64]
SCORES = NDArray[np.float32] | FLOAT64
Found = tuple[INT64, FLOAT64]
RawSpot = Mapping[str, str]
"""A prediction as it stands in a `results_spotting.json`."""

_LEAST_LINEAR = 1e-5


def astra_soft(scores_T: SCORES, window_rows: int, threshold: float, power: float = 2.0) -> Found:
    """Return what stands when the highest score lowers its neighbours instead of removing them, best first.

    A row d rows off is multiplied by (d / (w/2))^power; what falls below the threshold is gone. An odd window reaches
    one row further back than w/2, where the factor is above 1 and raises the score.

    Args:
        scores_T: one label's scores.
        window_rows: w >= 2; ASTRA's are 10 to 28 at two rows a second, by label.
        threshold: lowest score that can stand, > 0: at 0 the row itself would stand for ever.
        power: 2 is ASTRA's own; 1 (linear) and ½ are its alternatives.

    Raises:
        ValueError: window_rows or threshold is too low.

    Source: `get_spot_from_SNMS` of ASTRA, `train.py`.
    """
    if window_rows < 2 or threshold <= 0:
        raise ValueError(f"window_rows is {window_rows}, at least 2 is needed; threshold is {threshold}, not over 0")

    def decay(scores: FLOAT64, distances: INT64) -> FLOAT64:
        lowered = scores * (distances / (window_rows / 2)) ** power
        return np.where(lowered < threshold, -1.0, lowered)

    return _in_turn(scores_T, threshold, (window_rows + 1) // 2, window_rows // 2, decay)


def spivak_suppress(scores_T: SCORES, window_rows: float) -> Found:
    """Return what stands by the greedy rule with a symmetric window, |d| <= ⌊w/2⌋, down to 0, in order of rows.

    Source: `ScoreDecaySuppress` of spivak (Yahoo), `models/non_maximum_suppression.py`.
    """
    reach = math.floor(window_rows / 2)
    return _by_row(_in_turn(scores_T, 0.0, reach, reach, lambda scores, _: np.full_like(scores, -1.0)))


def spivak_linear(scores_T: SCORES, window_rows: float, min_weight: float = 0.0, expansion: float = 1.0) -> Found:
    """Return what stands when the highest score lowers its neighbours in proportion to distance, in order of rows.

    Args:
        scores_T: one label's scores.
        window_rows: w > 0, as for `spivak_suppress`.
        min_weight: factor next to the highest score, from 0 to 1; it rises to 1 at the radius r.
        expansion: r = expansion · w/2.

    Source: `ScoreDecayLinear` of spivak (Yahoo), `models/non_maximum_suppression.py`.
    """
    radius = expansion * window_rows / 2

    def decay(scores: FLOAT64, distances: INT64) -> FLOAT64:
        return scores * np.clip(min_weight + (1 - min_weight) * (distances / radius), 0.0, 1.0)

    reach = math.ceil(radius)
    return _by_row(_in_turn(scores_T, _LEAST_LINEAR, reach, reach, decay))


def spot_nms(scores_T: SCORES, reach_rows: int) -> Found:
    """Return the rows that no other within |d| <= reach_rows exceeds; equal ones all stand, in order of rows.

    In one pass: a row that falls still brings others down.

    Source: `non_maximum_supression` of E2E-Spot, `util/eval.py`.
    """
    padded = np.pad(np.asarray(scores_T, np.float64), reach_rows, constant_values=-np.inf)
    highest_T = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach_rows + 1).max(axis=1)
    rows = np.flatnonzero(scores_T >= highest_T)
    return rows, np.asarray(scores_T[rows], np.float64)


def gauss_peaks(scores_T: SCORES, sigma_rows: float = 3.0, height: float = 0.2, distance_rows: int = 15) -> Found:
    """Return the peaks of the smoothed scores, with their smoothed values, in order of rows.

    Defaults are for 25 rows a second.

    Source: `post_processing` of ball-action-spotting, `src/utils.py`.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.signal import find_peaks

    smooth_T = gaussian_filter(np.asarray(scores_T, np.float64), sigma_rows)
    rows, about = find_peaks(smooth_T, height=height, distance=distance_rows)
    return rows.astype(np.int64), about["peak_heights"]


def rmsnet_standard(spots: Sequence[RawSpot], radius_ms: int = 2000) -> list[RawSpot]:
    """Return the spots that stand: best first within each label, less than the radius from none that stands.

    Source: `standard_nms` of RMS-Net, `utils.py`, which orders confidences as text: right only while all are written
    alike ("1e-05" comes before "0.9").
    """
    kept: list[RawSpot] = []
    for spot in sorted(spots, key=lambda s: (s["label"], s["confidence"]), reverse=True):
        rivals = [k for k in kept if (k["half"], k["label"]) == (spot["half"], spot["label"])]
        if all(abs(int(spot["position"]) - int(rival["position"])) >= radius_ms for rival in rivals):
            kept.append(spot)
    return kept


def rmsnet_new(spots: Sequence[RawSpot], radius_ms: int = 2000) -> list[RawSpot]:
    """Return the spots that stand when each is held only against the last one kept, in the order given.

    Of two neighbours of one label, less than the radius apart, the more confident stands. A spot of another label
    between them separates them, and a second half that starts is early enough to meet the first half's last spot.

    Source: `nms` of RMS-Net, `utils.py`.
    """
    kept: list[RawSpot] = []
    for spot in spots:
        last = kept[-1] if kept else None
        meets = last is not None and last["label"] == spot["label"]
        if last is None or not meets or int(spot["position"]) - int(last["position"]) >= radius_ms:
            kept.append(spot)
        elif float(spot["confidence"]) > float(last["confidence"]):
            kept[-1] = spot
    return kept


def _in_turn(
    scores_T: SCORES, lowest: float, before: int, after: int, decay: Callable[[FLOAT64, INT64], FLOAT64]
) -> Found:
    """Return the rows found by taking the highest score, of equals the first, and lowering its neighbours, in turn.

    Args:
        scores_T: one label's scores.
        lowest: ends it: no score reaches this any more.
        before: rows lowered before the one found.
        after: rows lowered after it.
        decay: new scores of the neighbours, from theirs and their distances in rows.
    """
    left_T = np.array(scores_T, np.float64)
    rows, values = [], []
    while left_T.size and left_T[row := int(left_T.argmax())] >= lowest:
        rows.append(row)
        values.append(float(left_T[row]))
        near = np.arange(max(row - before, 0), min(row + after + 1, len(left_T)))
        left_T[near] = decay(left_T[near], np.abs(near - row))
        left_T[row] = -1.0
    return np.array(rows, np.int64), np.array(values, np.float64)


def _by_row(found: Found) -> Found:
    order = np.argsort(found[0])
    return found[0][order], found[1][order]
