import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.encodings import (
    K_SECONDS_V1,
    NOTHING,
    decode_spotting,
    event_rows,
    k_rows,
    spotting_targets,
    time_shifts,
)

LABELS = {17: SOCCERNET_LABELS, 3: tuple(K_SECONDS_V1)}
K17 = k_rows(SOCCERNET_LABELS, 2)


@pytest.mark.parametrize("count", [17, 3])
def test_the_context_bounds_are_the_originals(originals: Originals, count: int) -> None:
    wanted = originals.arrays("calf_encodings")[f"K{count}_frames"]
    assert np.array_equal(k_rows(LABELS[count], 2), wanted)


@pytest.mark.parametrize("count", [17, 3])
def test_the_time_shifts_are_the_originals(originals: Originals, count: int) -> None:
    stored = originals.arrays("calf_encodings")
    cases = json.loads(str(stored["cases_json"]))
    compared = 0
    for case, frames in cases.items():
        if (name := f"tse{count}__{case}") in stored:
            events = np.array([(frame, label) for frame in frames for label in range(count)], np.int64).reshape(-1, 2)
            assert np.array_equal(time_shifts(events, 600, k_rows(LABELS[count], 2)), stored[name]), case
            compared += 1
    assert compared == len(cases) or not originals.whole


@given(st.sets(st.integers(0, 399), max_size=6), st.integers(0, 399))
def test_a_shift_is_the_distance_to_the_last_or_to_the_next_action(frames: set[int], row: int) -> None:
    shifts = time_shifts(np.array([(f, 2) for f in sorted(frames)], np.int64).reshape(-1, 2), 400, K17)
    goal = shifts[row, 2]
    if not frames:
        assert goal == K17[0, 2]
    else:
        last, upcoming = [row - f for f in frames if f <= row], [row - f for f in frames if f > row]
        beyond = 400 - K17[0, 2]  # where the original puts one more action
        allowed = {max(upcoming, default=row - beyond)} | ({min(last)} if last else set())
        assert goal in allowed
    assert set(np.flatnonzero(shifts[:, 2] == 0)) == frames


def test_actions_are_put_on_whole_seconds_within_the_half_each_once() -> None:
    positions = np.array([2500, 2000, 700, 9_999_999])
    rows = event_rows(positions, np.array([3, 3, 5, 0]), rate=2, rows=100)
    assert rows.tolist() == [[0, 5], [4, 3], [99, 0]]


def test_more_actions_than_anchors_leave_the_first_as_in_the_original(originals: Originals) -> None:
    stored = originals.arrays("calf_encodings")
    shifts = time_shifts(stored["yolo_many_onehot_frames"], 240, K17)
    assert np.array_equal(spotting_targets(shifts[None], 15)[0], stored["yolo_many"])


def test_a_perfect_answer_is_decoded_one_row_early_and_rounding_would_mend_it() -> None:
    events = np.stack([np.arange(240), np.arange(240) % 17], 1)
    shifts = np.full((240, 240, 17), -5, np.float32)
    shifts[np.arange(240), events[:, 0], events[:, 1]] = 0
    targets = spotting_targets(shifts, 1)
    chunk, row, label = np.nonzero(decode_spotting(targets, 240) == 1)
    assert np.array_equal(chunk, np.arange(240))
    assert np.array_equal(row, np.maximum(events[:, 0] - 1, 0))
    assert np.array_equal(label, events[:, 1])
    assert np.array_equal(np.round(targets[:, 0, 1] * 240), events[:, 0])


def test_of_anchors_in_one_place_the_last_stays_even_if_it_is_less_sure() -> None:
    anchors = np.array([[[0.9, 0.5, 1, 0], [0.2, 0.5, 1, 0], [0.4, 1.0, 0, 1]]], np.float32)
    scores = decode_spotting(anchors, 11)
    assert scores[0, 5, 0] == np.float32(0.2)
    assert scores[0, 10, 1] == np.float32(0.4)
    assert (scores == NOTHING).sum() == 11 * 2 - 2


def test_a_label_without_context_bounds_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="'Dribble' are not known"):
        k_rows(("Goal", "Dribble"), 2)


def test_context_bounds_scale_until_they_are_shorter_than_a_row() -> None:
    assert np.array_equal(k_rows(("Goal",), 2, scale=0.5)[:, 0], [-20, -10, 60, 90])
    with pytest.raises(UsageError, match="Shots on target: at 1 rows a second"):
        k_rows(SOCCERNET_LABELS, 1, scale=0.25)


@pytest.mark.parametrize("module", ["training.encodings", "training.chunks"])
def test_encodings_and_chunks_load_no_torch(root: Path, module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
