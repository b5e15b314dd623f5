"""Suppression over whole halves: against the originals' own numbers, and a literal reading of the greedy rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from originals import Originals

from engines.nms import greedy
from training import nms

FLOAT64 = NDArray[np.float64]
Found = tuple[NDArray[np.int64], FLOAT64]

POWERS = {"linear": 1.0, "sqrt": 0.5, "pow2": 2.0}


def calf(scores: FLOAT64, delta: int) -> Found:
    """Return CALF's dense form, whose spots are found in order of rows."""
    rows, values = greedy(scores, delta, 0.0)
    dense = np.full(len(scores), -1.0)
    dense[rows] = values
    return np.flatnonzero(dense >= 0), dense[dense >= 0]


RULES: dict[str, Callable[..., Found]] = {
    "calf_NMS": calf,
    "netvladpp_get_spot": lambda scores, window, thresh: greedy(scores, window, thresh),
    "hmtas_get_spot": lambda scores, window, thresh, min_window: greedy(scores, window, thresh, min_window),
    "astra_soft": lambda scores, window, thresh, decay: nms.astra_soft(scores, window, thresh, POWERS[decay]),
    "spivak_suppress": lambda scores, window: nms.spivak_suppress(scores, window),
    "spivak_linear": lambda scores, window, min_weight, expansion: nms.spivak_linear(
        scores, window, min_weight, expansion
    ),
    "spot_nms": lambda scores, window: nms.spot_nms(scores, window),
    "gauss_peaks": lambda scores, sigma, height, distance: nms.gauss_peaks(scores, sigma, height, distance),
}


@pytest.mark.parametrize("algorithm", RULES)
def test_every_case_of_the_original_is_reproduced(originals: Originals, algorithm: str) -> None:
    fixture = originals.json("nms")
    cases = [case for case in fixture["cases"] if case["algorithm"] == algorithm]
    assert cases
    for case in cases:
        rows, values = RULES[algorithm](np.array(fixture["signals"][case["signal"]]), **case["params"])
        where = f"{case['signal']} {case['params']}"
        assert rows.tolist() == [row for row, _ in case["out"]], where
        assert values == pytest.approx([value for _, value in case["out"]], abs=1e-9, rel=0), where


def test_the_whole_fixture_holds_no_other_rule(originals: Originals) -> None:
    assert {case["algorithm"] for case in originals.json("nms")["cases"]} == set(RULES)


def test_rmsnets_two_rules_on_spots_are_reproduced(originals: Originals) -> None:
    fixture = originals.json("nms")
    assert nms.rmsnet_standard(fixture["rmsnet_in"], 2000) == fixture["rmsnet_standard_2000"]
    assert nms.rmsnet_new(fixture["rmsnet_in"], 2000) == fixture["rmsnet_new_2000"]


def test_calfs_half_is_suppressed_as_the_original_does(originals: Originals) -> None:
    arrays = originals.arrays("calf_stitching")
    lengths = [int(name[1:].removesuffix("_nms_idx")) for name in arrays if name.endswith("_nms_idx")]
    assert lengths
    for rows in lengths:
        dense = np.full((rows, 17), -1.0, np.float32)
        dense[tuple(arrays[f"N{rows}_long_idx"].T)] = arrays[f"N{rows}_long_val"]
        suppressed = np.full_like(dense, -1.0)
        for label in range(17):
            found, values = greedy(dense[:, label], 40, 0.0)
            suppressed[found, label] = values
        kept = np.argwhere(suppressed >= 0)
        assert kept.tolist() == arrays[f"N{rows}_nms_idx"].tolist()
        assert suppressed[tuple(kept.T)].tolist() == arrays[f"N{rows}_nms_val"].tolist()


def literal(scores: FLOAT64, window: int, threshold: float, min_window: int) -> list[int]:
    left, found = scores.copy(), []
    while len(left) and left.max() >= threshold:
        row = int(left.argmax())
        first, end = max(int(row - window / 2), 0), min(row + int(window / 2), len(left))
        if (left[first:end] >= threshold).sum() > min_window:
            found.append(row)
        left[first:end] = -1
    return found


LEVELS = st.sampled_from([0.0, 0.1, 0.2, 0.2, 0.5, 0.5, 0.9, 1.0]) | st.floats(0, 1)


@given(
    st.lists(LEVELS, max_size=120),
    st.integers(2, 30),
    st.sampled_from([-0.5, 0.0, 0.2, 0.5]),
    st.integers(0, 4),
)
def test_greedy_equals_the_literal_reading_of_the_rule(
    scores: list[float], window: int, threshold: float, min_window: int
) -> None:
    scores_T = np.array(scores, float)
    rows, values = greedy(scores_T, window, threshold, min_window)
    assert rows.tolist() == literal(scores_T, window, threshold, min_window)
    assert values.tolist() == scores_T[rows].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_greedy_equals_the_literal_reading_on_a_dense_half(seed: int, window: int) -> None:
    scores_T = np.random.default_rng(seed).beta(1, 6, 1500)
    assert greedy(scores_T, window, 0.0)[0].tolist() == literal(scores_T, window, 0.0, 0)


@pytest.mark.parametrize("window", [0, 1])
def test_greedy_ends_where_the_originals_never_do(window: int) -> None:
    scores_T = np.array([0.2, 0.9, 0.2, 0.5])
    assert greedy(scores_T, window, 0.2)[0].tolist() == [1, 3, 0, 2]
    assert greedy(scores_T, 2, -1.0)[0].tolist() == [1, 3]
    assert greedy(np.full(4, -1.0), 4, -1.0)[0].tolist() == [0, 2]


def test_the_window_is_lopsided() -> None:
    around = np.full(21, 0.5)
    around[10] = 0.9
    kept = {window: set(greedy(around, window, 0.6)[0].tolist()) for window in (7, 8)}
    assert kept == {7: {10}, 8: {10}}
    for window, reach in ((7, range(6, 13)), (8, range(6, 14))):
        neighbours = [row for row in range(21) if row != 10]
        alone = [
            greedy(np.where(np.isin(np.arange(21), [10, row]), around, -1.0), window, 0.0)[0] for row in neighbours
        ]
        assert [row for row, found in zip(neighbours, alone, strict=True) if len(found) == 1] == [
            row for row in reach if row != 10
        ]


def test_scores_keep_their_type() -> None:
    rows, values = greedy(np.array([0.1, 0.9], np.float32), 2, 0.0)
    assert [rows.dtype.name, values.dtype.name] == ["int64", "float32"]
    assert greedy(np.zeros(0, np.float32), 5, 0.0)[0].size == 0


def test_windows_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="window_rows is -1"):
        greedy(np.zeros(3), -1, 0.0)
    with pytest.raises(ValueError, match="window_rows is 1"):
        nms.astra_soft(np.zeros(3), 1, 0.5)
    with pytest.raises(ValueError, match="not over 0"):
        nms.astra_soft(np.zeros(3), 4, 0.0)


def test_rmsnet_new_meets_the_first_halfs_last_spot() -> None:
    first: dict[str, Any] = {"label": "Goal", "half": "1", "position": "9000", "confidence": "0.5"}
    second = first | {"half": "2", "position": "100", "confidence": "0.4"}
    assert nms.rmsnet_new([first, second]) == [first]
    assert nms.rmsnet_standard([first, second]) == [first, second]
