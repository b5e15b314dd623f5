"""Which rows a window sees and what it is labelled: the index arithmetic of the window models, HMTAS and pooling.

In: the number of rows of a half, the window length, actions as (row, label). Out: index arrays, and targets with
background in column 0. Rows come once a second for HMTAS and twice for the pooling family; an action's row is its whole
second times that. Promise: equal to the originals, quirks included; no torch.

The quirks, named where the code has them:

- W1: no window starts at the half's last row, so N rows have N - 1 windows and the last row has no score.
- W2: windows reach past both ends by repeating the first and the last row.
- W3: actions in rows without a window are left out: the last row's, and what lies beyond the features.
- W4: HMTAS scores in batches of 256 windows and leaves out the last batch's last window: N - 2 of N rows have a score.

Source: `feats2clip`, `SoccerNetClips*` and `testSpotting` of HMTAS (arturxe2/TFM-Artur-Xarles: Model/dataset.py,
train.py) and of NetVLAD++ (SilvioGiancola/SoccerNetv2-DevKit: TemporallyAwarePooling/src). The thesis mentions none of
the quirks, nor that a training window is positive wherever in it the action lies.

Axis suffixes: N rows of a half or actions, L rows of a window, W windows, C labels, D width, 2 the pair (row, label).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engines.labels import SOCCERNET_LABELS

INT64 = NDArray[np.int64]
FLOAT32 = NDArray[np.float32]

SCORING_BATCH = 256
"""Windows that the originals score at a time."""


def look_ahead_rows(length: int) -> int:
    """Return how many rows of a window lie after the one its score is for: of L rows, int(L/2) lie before it."""
    return length - 1 - length // 2


def training_windows(rows: int, length: int) -> INT64:
    """Return the rows (W, L) of HMTAS's training windows: one from every row on, N - 1 in all (W1, W2).

    Args:
        rows: N, rows of the half, >= 0.
        length: L, >= 1.

    Raises:
        ValueError: a number is too small.
    """
    return _windows(rows, length, stride=1, before=0)


def validation_windows(rows: int, length: int) -> INT64:
    """Return the rows (W, L) of windows side by side: HMTAS validates, the pooling family also trains on them.

    The last one reaches past the end (W2), and if it would begin at the last row there is none (W1). Arguments and
    errors as in `training_windows`.
    """
    return _windows(rows, length, stride=length, before=0)


def scoring_windows(rows: int, length: int) -> INT64:
    """Return the rows (W, L) of the windows that are scored: window t is for row t, of which int(L/2) rows come first.

    There are N - 1 (W1), and both ends repeat rows (W2). Arguments and errors as in `training_windows`.
    """
    return _windows(rows, length, stride=1, before=length - 1 - look_ahead_rows(length))


def _windows(rows: int, length: int, stride: int, before: int) -> INT64:
    if rows < 0 or length < 1:
        raise ValueError(f"{rows} rows in windows of {length}; at least 0 and 1 are needed")
    starts_W = np.arange(0, rows - 1, stride, dtype=np.int64)  # W1
    rows_WL: INT64 = np.clip(starts_W[:, None] + np.arange(-before, length - before), 0, rows - 1)  # W2
    return rows_WL


def scored_batches(windows: int, batch: int = SCORING_BATCH) -> list[tuple[int, int]]:
    """Return the batches [start, end) of windows that HMTAS's code scores at test: not the last window (W4).

    A last batch of one window comes out empty. The pooling family scores all windows, in batches of the same size.
    """
    starts = range(0, windows, batch)
    return [(start, start + batch if start + batch < windows else windows - 1) for start in starts]


def training_targets(actions_N2: ArrayLike, rows: int, length: int, labels: int = len(SOCCERNET_LABELS)) -> FLOAT32:
    """Return the targets (W, 1 + C) of `training_windows`: positive for every action in one of the window's rows.

    With a length of 1, all but column 0 is what the ensemble's learned fusion is trained on (`models/ensemble.py`).

    Args:
        actions_N2: (row, label) of each action, integers; rows without a window are left out (W3).
        rows: N, rows of the half, >= 0.
        length: L, >= 1.
        labels: C, how many labels there are.

    Raises:
        ValueError: a number is too small, a row is negative, or a label is not in 0 … C - 1.
    """
    windows_W = len(training_windows(rows, length))
    rows_N, labels_N = _actions(actions_N2, windows_W, labels)
    windows_NL = np.maximum(rows_N[:, None] - np.arange(length), 0)
    return _targets(windows_NL, labels_N[:, None], windows_W, labels)


def validation_targets(actions_N2: ArrayLike, rows: int, length: int, labels: int = len(SOCCERNET_LABELS)) -> FLOAT32:
    """Return the targets (W, 1 + C) of `validation_windows`: an action is the window's in whose rows it lies.

    Arguments and errors as in `training_targets`; an action beyond the last window is left out (W3).
    """
    windows_W = len(validation_windows(rows, length))
    rows_N, labels_N = _actions(actions_N2, windows_W * length, labels)
    return _targets(rows_N // length, labels_N, windows_W, labels)


def _actions(actions_N2: ArrayLike, rows: int, labels: int) -> tuple[INT64, INT64]:
    """Return rows and labels of the actions that lie in the first `rows` rows (W3)."""
    actions = np.asarray(actions_N2, np.int64).reshape(-1, 2)
    if (actions < 0).any() or (actions[:, 1] >= labels).any():
        raise ValueError(f"an action's row is negative, or its label is not in 0 … {labels - 1}")
    actions = actions[actions[:, 0] < rows]
    return actions[:, 0], actions[:, 1]


def _targets(windows: INT64, labels: INT64, count: int, columns: int) -> FLOAT32:
    """Return targets that are positive where windows and labels, broadcast, say so; elsewhere there is background."""
    targets_WC = np.zeros((count, 1 + columns), np.float32)
    targets_WC[:, 0] = 1
    targets_WC[windows, 1 + labels] = 1
    targets_WC[windows, 0] = 0
    return targets_WC
