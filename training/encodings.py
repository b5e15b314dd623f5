"""CALF's encodings: a half's actions as time shifts, a chunk's actions as anchors, and the anchors back as scores.

In: actions as rows and labels. Out: arrays. Promise: equal to the original's `preprocessing.py`, number for number; no
torch.

An action's *shift* at a row is that row minus the action's row: 0 at the action, negative before it, positive after
it. Four context bounds K1 < K2 < 0 < K3 < K4 for each label say what lies far before an action (shift < K1), shortly
before it, just after it (0 to K3), after it, and far after it (from K4).

Shapes: B chunks, L rows of a chunk, T rows of a half, E actions, N positions, C labels, A anchors (CALF's output
slots), S = 2 + C values of an anchor.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.errors import UsageError

INT64 = NDArray[np.int64]
FLOAT32 = NDArray[np.float32]
FLOAT64 = NDArray[np.float64]

IGNORED = -1.0
"""Shift of rows that must cost nothing: it lies shortly before an action, where no output is wrong."""

NOTHING = -1.0
"""Score of rows and labels without a spot."""

Bounds = tuple[float, float, float, float]

K_SECONDS: Mapping[str, Bounds] = {
    "Penalty": (-100, -50, 50, 100),
    "Kick-off": (-98, -49, 49, 98),
    "Goal": (-20, -10, 60, 90),
    "Substitution": (-40, -20, 10, 20),
    "Offside": (-96, -48, 48, 96),
    "Shots on target": (-5, -3, 3, 5),
    "Shots off target": (-8, -4, 4, 8),
    "Clearance": (-93, -46, 46, 93),
    "Ball out of play": (-99, -50, 50, 99),
    "Throw-in": (-31, -15, 15, 31),
    "Foul": (-75, -37, 37, 75),
    "Indirect free-kick": (-10, -5, 5, 10),
    "Direct free-kick": (-97, -49, 49, 97),
    "Corner": (-75, -38, 38, 75),
    "Yellow card": (-20, -10, 10, 20),
    "Red card": (-84, -42, 42, 84),
    "Yellow->red card": (-18, -9, 9, 18),
}
"""Context bounds K1 to K4 of SoccerNet-v2's labels, seconds. Source: SoccerNetv2-DevKit, CALF, `config/classes.py`."""

K_SECONDS_V1: Mapping[str, Bounds] = {
    "soccer": (-20, -10, 60, 90),
    "card": (-20, -10, 10, 20),
    "subs": (-40, -20, 10, 20),
}
"""The same for SoccerNet-v1's labels, in the order of CALF's weights. Source: the Keras code, `utils/constants.py`."""


def k_rows(labels: Sequence[str], rate: float, scale: float = 1.0) -> FLOAT64:
    """Return the context bounds of some labels in rows, float64 (4, C).

    Args:
        labels: of SoccerNet-v2 or SoccerNet-v1.
        rate: rows a second, > 0.
        scale: every bound is multiplied by it; below 1 the loss looks less far.

    Raises:
        UsageError: a label has no bounds, or rate and scale leave no row shortly before an action (K2 > -1), so that
            `IGNORED` rows would cost something.
    """
    known = {**K_SECONDS, **K_SECONDS_V1}
    for label in labels:
        if label not in known:
            raise UsageError(f"CALF's context bounds of {label!r} are not known; known are {', '.join(known)}.")
    bounds = np.array([known[label] for label in labels], np.float64).reshape(-1, 4).T * rate * scale
    for label, k2 in zip(labels, bounds[1], strict=True):
        if not k2 <= IGNORED:
            raise UsageError(
                f"{label}: at {rate:g} rows a second and a scale of {scale:g} CALF's context is shorter than a row; "
                "raise one of them."
            )
    return bounds


def event_rows(positions_ms_N: INT64, labels_N: INT64, rate: float, rows: int) -> INT64:
    """Return actions as rows of a half, int64 (E, 2): row and label, sorted, each pair once.

    Time is cut to whole seconds, as in the labels' `gameTime`, and what comes after the last row is put on it.

    Args:
        positions_ms_N: milliseconds since the half's start, >= 0.
        labels_N: index into the labels.
        rate: rows a second.
        rows: T, rows of the half.

    Source: SoccerNetv2-DevKit, CALF, `dataset.py`. Differs: minutes above 99 count in full.
    """
    at = np.minimum((positions_ms_N // 1000 * rate).astype(np.int64), rows - 1)
    return np.unique(np.stack([at, labels_N], 1), axis=0)


def time_shifts(events_E2: INT64, rows: int, k_4C: FLOAT64) -> FLOAT32:
    """Return the time-shift encoding of a half, float32 (T, C), in rows.

    Args:
        events_E2: row and label of every action, in any order; rows in [0, T).
        rows: T, rows of the half.
        k_4C: context bounds in rows (`k_rows`).

    Returns:
        For each label: K1 everywhere if nothing happens; the shift to the only action; of several, the shift to the
        last or to the next one, whichever is nearer in its own context.

    Source: `preprocessing.py: oneHotToShifts`. Differs: vectorised.
    """
    shifts = np.empty((rows, k_4C.shape[1]), np.float32)
    for label in range(k_4C.shape[1]):
        frames = np.unique(events_E2[events_E2[:, 1] == label, 0])
        shifts[:, label] = _label_shifts(frames, rows, k_4C[:, label])
    return shifts


def _label_shifts(frames_E: INT64, rows: int, k_4: FLOAT64) -> FLOAT64:
    k1, k2, k3, k4 = map(float, k_4)
    t = np.arange(rows, dtype=np.float64)
    if len(frames_E) == 0:
        return np.full(rows, k1)
    if len(frames_E) == 1:
        return t - float(frames_E[0])
    # beyond the first and the last action there is one more, too far to matter
    frames = np.concatenate([[-k4], frames_E, [rows - k1]])
    last = np.searchsorted(frames, t, "right") - 1
    since, until = t - frames[last], t - frames[last + 1]  # until < 0
    nearer = (since - k3) / (k4 - k3) < (k2 - until) / (k2 - k1)
    shifts: FLOAT64 = np.where((since < k3) | ((since < k4) & ((until <= k1) | nearer)), since, until)
    return shifts


def spotting_targets(shifts_BLC: FLOAT32, anchors: int) -> FLOAT32:
    """Return what the anchors of each chunk should say, float32 (B, A, 2 + C).

    Args:
        shifts_BLC: shifts of the chunks; every 0 is an action, so that rows set to `IGNORED` hold none.
        anchors: A; of more actions than that, the first A in order of row and label are told.

    Returns:
        One anchor an action: 1, row / L, and the label as one-hot; the anchors that are left over are all 0.

    Source: `preprocessing.py: getTimestampTargets`. Differs: no message where actions are left out.
    """
    chunks, rows, labels = shifts_BLC.shape
    targets = np.zeros((chunks, anchors, 2 + labels), np.float32)
    chunk, row, label = np.nonzero(shifts_BLC == 0)
    slot = np.arange(len(chunk)) - np.searchsorted(chunk, chunk)
    chunk, row, label, slot = (x[slot < anchors] for x in (chunk, row, label, slot))
    targets[chunk, slot, 0] = 1
    targets[chunk, slot, 1] = row / rows
    targets[chunk, slot, 2 + label] = 1
    return targets


def decode_spotting(spotting_BAS: FLOAT32, rows: int, *, exact: bool = False) -> FLOAT32:
    """Return the anchors as a score for each row and label, float32 (B, L, C); `NOTHING` where there is no anchor.

    Each anchor's confidence goes to its likeliest label, at row floor(time · (L - 1)); of several anchors in one place
    the last one stays. This is not the inverse of `spotting_targets`, which tells row t as t / L: an anchor that
    answers exactly as told comes out one row early (t - 1 for every t >= 1). The inverse is round(time · L); CALF's
    published figures were not made with it.

    Args:
        spotting_BAS: CALF's second output; times in [0, 1].
        rows: L, rows of a chunk.
        exact: place anchors by the inverse.

    Source: `preprocessing.py: timestamps2long`.
    """
    chunks, anchors, values = spotting_BAS.shape
    scores = np.full((chunks, rows, values - 2), NOTHING, np.float32)
    times = spotting_BAS[..., 1]
    places = np.minimum(np.round(times * rows), rows - 1) if exact else np.floor(times * (rows - 1))
    row = places.astype(np.int64)
    label = spotting_BAS[..., 2:].argmax(-1)
    for anchor in range(anchors):  # in order, so that a later one overwrites
        scores[np.arange(chunks), row[:, anchor], label[:, anchor]] = spotting_BAS[:, anchor, 0]
    return scores
