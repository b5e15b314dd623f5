"""The slow loops of the original code, told anew, against ours: one table, one run.

    python benchmarks/original_loops.py [--quick]

Each of the first functions does what its source does, in the same order and as literally as can be: a step for every
frame, class, action or threshold. They are here to be timed; tests hold them against the originals' own numbers.
CPU time of one thread, the best of some runs. What each row measures stands in its function below.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engines.labels import SOCCERNET_LABELS
from engines.nms import greedy
from training.data.results import Predictions, Truth
from training.encodings import k_rows, time_shifts
from training.metric import average_map
from training.windows import training_targets

FLOAT = NDArray[np.float64]
INT = NDArray[np.int64]
Curves = tuple[FLOAT, FLOAT]

ROWS = 5400  # a half of 45 minutes at 2 rows a second
LABELS = 17
GRID = 120 * 60 * 2  # the metric's frames of a half


def suppressed(scores_TC: FLOAT, window: int) -> FLOAT:
    """Return scores with all but the spots set to -1. Source: CALF, `NMS`."""
    found_TC, left_TC = np.full(scores_TC.shape, -1.0), scores_TC.copy()
    for c in range(scores_TC.shape[1]):
        while np.max(left_TC[:, c]) >= 0:
            value, row = np.max(left_TC[:, c]), int(np.argmax(left_TC[:, c]))
            found_TC[row, c] = value
            left_TC[max(int(row - window / 2), 0) : min(row + int(window / 2), len(left_TC)), c] = -1
    return found_TC


def shifts(onehot_TC: FLOAT, k_4C: FLOAT) -> FLOAT:
    """Return the time-shift encoding of a half. Source: CALF, `preprocessing.py: oneHotToShifts`."""
    rows = onehot_TC.shape[0]
    shifts_TC = np.zeros(onehot_TC.shape)
    for c in range(onehot_TC.shape[1]):
        k1, k2, k3, k4 = k_4C[:, c]
        events = np.where(onehot_TC[:, c] == 1)[0]
        if len(events) == 0:
            shifts_TC[:, c] = k1
        elif len(events) == 1:
            shifts_TC[:, c] = np.arange(rows) - events[0]
        else:
            padded = [-k4, *events.tolist(), rows - k1]
            last = 0
            for t in range(rows):
                while last + 1 < len(padded) - 1 and padded[last + 1] <= t:
                    last += 1
                shifts_TC[t, c] = _nearer(t - padded[last], t - padded[last + 1], k1, k2, k3, k4)
    return shifts_TC


def _nearer(since: float, until: float, k1: float, k2: float, k3: float, k4: float) -> float:
    if since < k3:
        return since
    if since < k4:
        if until <= k1:
            return since
        return since if (since - k3) / (k4 - k3) < (k2 - until) / (k2 - k1) else until
    return until


def window_labels(actions_N2: INT, rows: int, length: int) -> FLOAT:
    """Return the labels of a half's training windows. Source: HMTAS, `dataset.py`."""
    labels_WC = np.zeros((rows - 1, 1 + LABELS))
    for window in range(rows - 1):
        labels_WC[window, 0] = 1
    for row, label in actions_N2:
        if row >= rows - 1:
            continue
        for window in range(max(row - length + 1, 0), row + 1):
            labels_WC[window, 0] = 0
            labels_WC[window, 1 + label] = 1
    return labels_WC


def closest(target_TC: FLOAT) -> FLOAT:
    """Return, for each frame, the nearest action's 1 or -1. Source: SoccerNet, `ActionSpotting.py: evaluate`."""
    closest_TC = np.full(target_TC.shape, -1.0)
    for c in range(target_TC.shape[1]):
        events = np.where(target_TC[:, c] != 0)[0].tolist()
        if events:
            around = [-events[0], *events, 2 * len(target_TC)]
            for i in range(1, len(around) - 1):
                start = max(0, (around[i - 1] + around[i]) // 2)
                stop = min(len(target_TC), (around[i] + around[i + 1]) // 2)
                closest_TC[start:stop, c] = target_TC[around[i], c]
    return closest_TC


def half_scores(target_T: FLOAT, closest_T: FLOAT, detection_T: FLOAT, delta: int) -> tuple[FLOAT, int, int]:
    """Return confidence, hit and visibility of one label's predictions, and the numbers of visible and unshown actions.

    Source: SoccerNet, `ActionSpotting.py: compute_class_scores`.
    """
    actions = np.where(target_T != 0)[0]
    frames = np.where(detection_T >= 0)[0]
    scores = detection_T[frames]
    rows_M3 = np.zeros((len(frames), 3))
    rows_M3[:, 0], rows_M3[:, 2] = scores, closest_T[frames]
    used: list[int] = []
    for action in actions:
        best, chosen = -1.0, None
        for i, (frame, score) in enumerate(zip(frames, scores, strict=True)):
            if frame < action - delta:
                continue
            if frame > action + delta:
                break
            if abs(frame - action) <= delta / 2 and score > best and frame not in used:
                best, chosen = score, i
        if chosen is not None:
            rows_M3[chosen, 1] = 1
            used.append(frames[chosen])
    return rows_M3, int(np.sum(target_T > 0)), int(np.sum(target_T < 0))


def precision_recall(
    targets: Sequence[FLOAT], closests: Sequence[FLOAT], detections: Sequence[FLOAT], delta: int
) -> tuple[Curves, Curves, Curves]:
    """Return precision and recall (K, C), sorted by recall, over all, the visible and the unshown actions.

    Source: SoccerNet, `ActionSpotting.py: compute_precision_recall_curve`.
    """
    labels, thresholds = targets[0].shape[1], np.linspace(0, 1, 200)
    found: list[Curves] = [(np.zeros((200, labels)), np.zeros((200, labels))) for _ in range(3)]
    for c in range(labels):
        rows_M3, visible, unshown = np.zeros((1, 3)), 0, 0
        rows_M3[0, 0] = -1
        for target, near, detection in zip(targets, closests, detections, strict=True):
            more, v, u = half_scores(target[:, c], near[:, c], detection[:, c], delta)
            rows_M3, visible, unshown = np.append(rows_M3, more, axis=0), visible + v, unshown + u
        shown, hidden = rows_M3.copy(), rows_M3.copy()
        shown[shown[:, 2] <= 0.5, 0] = hidden[hidden[:, 2] >= -0.5, 0] = -1
        kinds = ((visible + unshown, rows_M3), (visible, shown), (unshown, hidden))
        for (precision, recall), (actions, some) in zip(found, kinds, strict=True):
            for k, threshold in enumerate(thresholds):
                passed = np.where(some[:, 0] >= threshold)[0]
                hits = np.sum(some[passed, 1])
                precision[k, c] = hits / len(passed) if len(passed) else 0.0
                recall[k, c] = hits / actions if actions else 0.0
            order = np.argsort(recall[:, c])
            precision[:, c], recall[:, c] = precision[order, c], recall[order, c]
    return found[0], found[1], found[2]


def eleven_points(precision_KC: FLOAT, recall_KC: FLOAT) -> list[float]:
    """Return each label's average precision. Source: SoccerNet, `ActionSpotting.py: compute_mAP`."""
    values = []
    for c in range(precision_KC.shape[1]):
        points = []
        for level in np.arange(11) / 10:
            reached = np.where(recall_KC[:, c] >= level)[0]
            points.append(np.max(precision_KC[reached, c]) if len(reached) else 0.0)
        values.append(float(np.mean(points)))
    return values


def average_maps(
    targets: Sequence[FLOAT],
    closests: Sequence[FLOAT],
    detections: Sequence[FLOAT],
    framerate: int,
    deltas_s: Sequence[int],
) -> tuple[list[float], list[float], list[float]]:
    """Return each label's average over the tolerances: all, visible, unshown.

    Source: SoccerNet, `ActionSpotting.py: average_mAP`, without the factor on the last mean.
    """
    by_delta = []
    for delta in deltas_s:
        parts = precision_recall(targets, closests, detections, delta * framerate)
        by_delta.append([eleven_points(*part) for part in parts])
    averages = []
    for part in range(3):
        values = np.array([parts[part] for parts in by_delta])
        if len(values) == 1:
            averages.append(values[0].tolist())
        else:
            areas = [(values[i] + values[i + 1]) / 2 for i in range(len(values) - 1)]
            averages.append((np.sum(areas, axis=0) / len(areas)).tolist())
    return averages[0], averages[1], averages[2]


# What is timed: pairs of an original and ours on the same data


Pair = tuple[str, Callable[[], object], Callable[[], object]]


def some_actions(seed: int, count: int = 110) -> INT:
    """Return (row, label) of a half's actions, no two alike."""
    rng = np.random.default_rng(seed)
    return np.unique(np.stack([rng.integers(0, ROWS, count), rng.integers(0, LABELS, count)], axis=1), axis=0)


def nms_of_a_half() -> Pair:
    """CALF's suppression on a half with a score in every row of every label; window 20 s."""
    scores_TC = np.random.default_rng(1).beta(1, 6, (ROWS, LABELS))
    return (
        f"NMS of a half, {ROWS} × {LABELS} scores",
        lambda: suppressed(scores_TC, 40),
        lambda: [greedy(scores_TC[:, c], 40, 0.0) for c in range(LABELS)],
    )


def encoding_of_a_half() -> Pair:
    """CALF's time-shift encoding of a half of 110 actions; ours from the same list of actions."""
    actions_E2, k_4C = some_actions(2), k_rows(SOCCERNET_LABELS, 2)
    onehot_TC = np.zeros((ROWS, LABELS))
    onehot_TC[actions_E2[:, 0], actions_E2[:, 1]] = 1
    return (
        f"time-shift encoding of a half, {ROWS} rows",
        lambda: shifts(onehot_TC, k_4C),
        lambda: time_shifts(actions_E2, ROWS, k_4C),
    )


def window_labels_of_a_half() -> Pair:
    """HMTAS's labels of the training windows of a half, a row a second, L = 3."""
    actions_N2 = some_actions(3) // np.array([2, 1])
    return (
        f"window labels of a half, {ROWS // 2} windows of 3 s",
        lambda: window_labels(actions_N2, ROWS // 2, 3),
        lambda: training_targets(actions_N2, ROWS // 2, 3),
    )


def metric_of_matches(matches: int, step_frames: int, metric: str, deltas_s: Sequence[int]) -> Pair:
    """The metric on matches with a prediction of every label every few frames; the original begins with its arrays."""
    truths, predictions = dense_halves(2 * matches, step_frames)
    arrays = list(grids(truths, predictions))
    targets, closests, detections = ([half[i] for half in arrays] for i in range(3))
    count = sum(len(p.labels_N) for p in predictions)
    return (
        f"metric {metric}, {matches} matches, {count:,} predictions",
        lambda: average_maps(targets, closests, detections, 2, deltas_s),
        lambda: average_map(truths, predictions, metric),
    )


def dense_halves(halves: int, step_frames: int) -> tuple[list[Truth], list[Predictions]]:
    """Return halves of 110 actions, with a prediction of every label every `step_frames` of 92 minutes at 2 a second.

    The recipe is that of `metric_timing.json` in the shared fixtures.
    """
    rng = np.random.default_rng(20)
    frames, labels = (axis.ravel() for axis in np.meshgrid(np.arange(0, 5520, step_frames), range(17), indexing="ij"))
    truths, predictions = [], []
    for _ in range(halves):
        actions = {}
        for _ in range(110):
            visible = bool(rng.random() < 0.78)
            frame, label = int(rng.integers(0, 5520)), int(rng.integers(0, 17))
            actions[frame, label] = visible
        places = np.array(list(actions))
        truths.append(Truth(places[:, 0] * 500, places[:, 1], np.array(list(actions.values()))))
        predictions.append(Predictions(frames * 500, labels, rng.beta(1, 6, (len(frames) // 17, 17)).ravel()))
    return truths, predictions


def grids(truths: Sequence[Truth], predictions: Sequence[Predictions]) -> Iterator[tuple[FLOAT, FLOAT, FLOAT]]:
    """Yield the original's three arrays of each half, on frames of half a second."""
    for truth, found in zip(truths, predictions, strict=True):
        target, detection = np.zeros((GRID, LABELS)), np.full((GRID, LABELS), -1.0)
        target[truth.positions_ms_N // 500, truth.labels_N] = np.where(truth.visible_N, 1, -1)
        detection[found.positions_ms_N // 500, found.labels_N] = found.confidences_N
        yield target, closest(target), detection


def cpu_s(work: Callable[[], object], runs: int) -> float:
    """Return the least CPU time of some runs, in seconds."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the metric on one match, and fewer runs")
    quick = parser.parse_args().quick
    matches = 1 if quick else 10
    pairs = [
        nms_of_a_half(),
        encoding_of_a_half(),
        window_labels_of_a_half(),
        metric_of_matches(matches, 30, "tight", (1, 2, 3, 4, 5)),
        metric_of_matches(matches, 1, "at1", (1,)),
    ]
    table = Table(title="The originals' loops and ours, CPU time")
    for column in ("what", "original", "ours", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, original, ours in pairs:
        slow, fast = cpu_s(original, 1 if "metric" in name else 3), cpu_s(ours, 5 if quick else 20)
        table.add_row(name, f"{1000 * slow:,.1f} ms", f"{1000 * fast:,.2f} ms", f"{slow / fast:,.0f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()
