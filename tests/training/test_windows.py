from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals

from engines.labels import SOCCERNET_LABELS
from training import windows

ROWS, LENGTHS = st.integers(0, 40), st.integers(1, 9)
ACTIONS = st.lists(st.tuples(st.integers(0, 45), st.integers(0, 2)), max_size=12)


def test_windows_are_the_originals(originals: Originals) -> None:
    for case, wanted in originals.json("hmtas_windows").items():
        rows, length = (int(part[1:]) for part in case.split("_"))
        train, valid, test = (
            make(rows, length)
            for make in (windows.training_windows, windows.validation_windows, windows.scoring_windows)
        )
        assert len(train) == wanted["train_windows"]
        assert train[0].tolist() == wanted["train_first"]
        assert train[-1].tolist() == wanted["train_last"]
        assert len(valid) == wanted["valid_windows"]
        assert valid[-1].tolist() == wanted["valid_last"]
        assert len(test) == wanted["test_windows"]
        assert test[0].tolist() == wanted["test_first"]
        assert test[-1].tolist() == wanted["test_last"]
        batches = windows.scored_batches(len(test))
        assert [list(batch) for batch in batches] == wanted["test_batches"]
        assert batches[-1][1] == wanted["scored"]


def halves_of(annotations: list[list[str]]) -> list[list[tuple[int, int]]]:
    """Return each half's actions as (row, label), from SoccerNet's game times."""
    halves: list[list[tuple[int, int]]] = [[], []]
    for time, label in annotations:
        half, minutes, seconds = int(time[0]), int(time[4:6]), int(time[7:9])
        halves[half - 1].append((60 * minutes + seconds, SOCCERNET_LABELS.index(label)))
    return halves


def test_training_targets_are_the_originals(originals: Originals) -> None:
    stored: dict[str, Any] = originals.json("hmtas_labels")
    rows = stored["N_baidu"]
    for length in (2, 3, 5):
        wanted = stored[f"train_L{length}"]
        targets = np.concatenate(
            [windows.training_targets(half, rows, length) for half in halves_of(stored["annotations"])]
        )
        assert len(targets) == wanted["n"]
        assert np.argwhere(targets[:, 1:]).tolist() == wanted["label_nonzero"]
        assert np.flatnonzero(targets[:, 0] == 0).tolist() == wanted["background_windows"]
        seen = windows.training_windows(rows, length)
        assert seen[0].tolist() == wanted["first_baidu"]
        assert seen[-1].tolist() == wanted["last_baidu_half1"]


@given(ROWS, LENGTHS)
def test_all_windows_but_the_last_rows_are_there_and_stay_within_the_half(rows: int, length: int) -> None:
    for make in (windows.training_windows, windows.scoring_windows):
        assert make(rows, length).shape == (max(rows - 1, 0), length)
    for make in (windows.training_windows, windows.scoring_windows, windows.validation_windows):
        seen = make(rows, length)
        assert ((seen >= 0) & (seen < max(rows, 1))).all()
        assert np.isin(np.diff(seen, axis=1), (0, 1)).all()


@given(ROWS, LENGTHS)
def test_the_scored_row_stands_where_the_look_ahead_says(rows: int, length: int) -> None:
    seen = windows.scoring_windows(rows, length)
    assert seen[:, length - 1 - windows.look_ahead_rows(length)].tolist() == list(range(max(rows - 1, 0)))


def test_look_ahead_of_the_thesis_and_the_pooling_family() -> None:
    assert {length: windows.look_ahead_rows(length) for length in (2, 3, 4, 5, 7, 30)} == {
        2: 0,
        3: 1,
        4: 1,
        5: 2,
        7: 3,
        30: 14,
    }


@given(ACTIONS, ROWS, LENGTHS)
def test_a_training_window_is_positive_for_the_actions_within_it(
    actions: list[tuple[int, int]], rows: int, length: int
) -> None:
    targets = windows.training_targets(actions, rows, length, labels=3)
    kept = [(row, label) for row, label in actions if row < rows - 1]
    for window, found in enumerate(targets):
        inside = {label for row, label in kept if window <= row < window + length}
        assert set(np.flatnonzero(found[1:]).tolist()) == inside
        assert found[0] == (not inside)


@given(ACTIONS, ROWS, LENGTHS)
def test_a_validation_window_is_positive_for_the_actions_within_it(
    actions: list[tuple[int, int]], rows: int, length: int
) -> None:
    targets = windows.validation_targets(actions, rows, length, labels=3)
    assert len(targets) == len(windows.validation_windows(rows, length))
    for window, found in enumerate(targets):
        inside = {label for row, label in actions if row // length == window}
        assert set(np.flatnonzero(found[1:]).tolist()) == inside
        assert found[0] == (not inside)


def test_side_by_side_a_half_of_5400_pooling_rows_has_180_windows_and_none_begins_at_the_last_row() -> None:
    assert windows.validation_windows(5400, 30)[-1].tolist() == list(range(5370, 5400))
    assert len(windows.validation_windows(5401, 30)) == 180
    assert windows.validation_windows(5402, 30)[-1].tolist() == [5400] + 29 * [5401]
    assert not windows.validation_targets([(5401, 0)], 5401, 30)[:, 1:].any()


def test_a_last_batch_of_one_window_is_empty() -> None:
    assert windows.scored_batches(257) == [(0, 256), (256, 256)]
    assert windows.scored_batches(0) == []


@pytest.mark.parametrize("action", [(-1, 0), (0, -1), (0, 17)])
def test_actions_that_cannot_be_are_refused(action: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not in 0 … 16"):
        windows.training_targets([action], 10, 3)


def test_halves_and_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows in windows of 0"):
        windows.scoring_windows(10, 0)
