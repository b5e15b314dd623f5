"""The SoccerNet metric: against the original's own numbers, a slow second implementation, and by hand."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals

from engines.actions import Action
from engines.errors import UsageError
from training.data.results import HALVES, read_predictions, read_truth
from training.matching import Grid, match
from training.metric import TOLERANCES_S, MapResult, Predictions, Truth, average_map, curves

LABELS = ("Goal", "Foul", "Corner")

Happened = tuple[str, float, bool]
Predicted = tuple[str, float, float]


def truth_of(*actions: Happened) -> Truth:
    return Truth.of([Action(label, 1, time_s, visible) for label, time_s, visible in actions], LABELS)


def score(actions: Sequence[Happened], predicted: Sequence[Predicted], metric: str = "at1") -> MapResult:
    return average_map([truth_of(*actions)], [Predictions.of(predicted, LABELS)], metric, LABELS)


def goal_ap(actions: Sequence[Happened], predicted: Sequence[Predicted], metric: str = "at1") -> float:
    return score(actions, predicted, metric).overall.per_label[0]


# The original's numbers


def differences(got: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> Iterator[str]:
    for key, value in wanted.items():
        if value is None or got[key] is None:
            alike = value is got[key]
        else:
            alike = np.shape(value) == np.shape(got[key]) and np.allclose(got[key], value, rtol=0, atol=tolerance)
        if not alike:
            yield f"{key}: {got[key]}, not {value}"


def halves_of(case: dict[str, Any], folder: Path, games: Sequence[str]) -> tuple[list[Truth], list[Predictions]]:
    params, labels = case["params"], list(case["params"]["event_dictionary"])
    truths, predictions = [], []
    for game in games:
        content = case["games"][game]
        (folder / "labels.json").write_text(json.dumps({"annotations": content["annotations"]}))
        (folder / "results.json").write_text(json.dumps({"predictions": content["predictions"]}))
        truth, _ = read_truth(folder / "labels.json", labels, params["version"])
        found, _ = read_predictions(folder / "results.json", labels)
        truths += [truth[half] for half in HALVES]
        predictions += [found[half] for half in HALVES]
    return truths, predictions


def test_every_case_of_the_original_is_reproduced(originals: Originals, tmp_path: Path) -> None:
    cases = originals.json("metric_cases")
    wrong = []
    for name, case in cases.items():
        params, labels = case["params"], list(case["params"]["event_dictionary"])
        truths, predictions = halves_of(case, tmp_path, list(case["games"]))
        for metric, wanted in case["results"].items():
            result = average_map(truths, predictions, metric, labels, params["framerate"])
            got = result.as_soccernet(params["version"])
            wrong += [f"{name}, {metric}: {text}" for text in differences(got, wanted, 1e-12)]
    assert not wrong, "\n".join(wrong)
    assert len(cases) == (40 if originals.whole else 17)


@pytest.mark.parametrize("tolerance_s", [1, 2, 5, 20, 60])
def test_matches_of_a_half_are_the_originals(originals: Originals, tolerance_s: int) -> None:
    arrays = originals.arrays("metric_arrays")
    cases = [name.removesuffix("_target") for name in arrays if name.endswith("_target")]
    assert cases
    for name in cases:
        target, detection = arrays[f"{name}_target"], arrays[f"{name}_detection"]
        happened, said = np.flatnonzero(target), np.flatnonzero(detection >= 0)
        truth = Truth(happened * 500, 0 * happened, target[happened] > 0)
        predictions = Predictions(said * 500, 0 * said, detection[said])
        matched = match(truth, predictions, tolerance_s, LABELS)
        got = np.stack([predictions.confidences_N[matched.rows_M], matched.hits_M, 2 * matched.visible_M - 1], axis=1)
        assert got.tolist() == arrays[f"{name}_d{2 * tolerance_s}_rows"].tolist()
        counts = average_map([truth], [predictions], "at1", LABELS)
        shown = counts.visible_actions[0]
        assert [shown, counts.actions[0] - shown] == arrays[f"{name}_d{2 * tolerance_s}_n"].tolist()


def test_every_frame_is_as_visible_as_its_nearest_action(originals: Originals) -> None:
    arrays = originals.arrays("metric_arrays")
    for name in [name.removesuffix("_closest") for name in arrays if name.endswith("_closest")]:
        target, frames = arrays[f"{name}_target"], np.arange(len(arrays[f"{name}_target"]))
        happened = np.flatnonzero(target)
        truth = Truth(happened * 500, 0 * happened, target[happened] > 0)
        everywhere = Predictions(frames * 500, 0 * frames, np.full(len(frames), 0.5))
        visible = match(truth, everywhere, 1, LABELS).visible_M
        assert visible.tolist() == (arrays[f"{name}_closest"] > 0).tolist()


def test_curves_are_the_originals(originals: Originals, tmp_path: Path) -> None:
    if not originals.whole:
        pytest.skip("the copies hold no curves")
    arrays = originals.arrays("metric_arrays")
    case = originals.json("metric_cases")["random_3games"]
    truths, predictions = halves_of(case, tmp_path, list(case["games"])[:1])
    found = curves(truths, predictions, int(arrays["curve_delta"]) // 2, list(case["params"]["event_dictionary"]))
    for curve, part in zip(found, ("", "_visible", "_unshown"), strict=True):
        for label in range(17):
            # the original sorts each label's points by recall, in no certain order where they are equal
            got = sorted(zip(curve.recall_CK[label], curve.precision_CK[label], strict=True))
            columns = (arrays[f"curve_{what}{part}"][:, label].tolist() for what in ("recall", "precision"))
            assert np.array(got) == pytest.approx(np.array(sorted(zip(*columns, strict=True))), abs=1e-6)


def timing_data(step_frames: int) -> tuple[list[Truth], list[Predictions]]:
    """Return the 20 games described in the fixtures' README."""
    rng = np.random.default_rng(20)
    frames, labels = (axis.ravel() for axis in np.meshgrid(np.arange(0, 5520, step_frames), range(17), indexing="ij"))
    truths, predictions = [], []
    for _ in range(40):
        actions = {}
        for _ in range(110):
            visible = bool(rng.random() < 0.78)
            frame, label = int(rng.integers(0, 5520)), int(rng.integers(0, 17))
            actions[frame, label] = visible
        places = np.array(list(actions))
        truths.append(Truth(places[:, 0] * 500, places[:, 1], np.array(list(actions.values()))))
        confidences = rng.beta(1, 6, (len(range(0, 5520, step_frames)), 17))
        predictions.append(Predictions(frames * 500, labels, confidences.ravel()))
    return truths, predictions


def test_twenty_dense_games_give_the_originals_figures(originals: Originals) -> None:
    for wanted in originals.json("metric_timing"):
        truths, predictions = timing_data(wanted["step_frames"])
        metric = {12: "loose", 5: "tight", 1: "at1"}[len(wanted["deltas_s"])]
        result = average_map(truths, predictions, metric)
        assert sum(result.actions) == wanted["gt"]
        assert result.overall.per_label == pytest.approx(wanted["per_class"], abs=1e-12, rel=0)
        for part, key in (
            (result.overall, "a_mAP"),
            (result.visible, "a_mAP_visible"),
            (result.unshown, "a_mAP_unshown"),
        ):
            assert part.mean == pytest.approx(wanted[key], abs=1e-12, rel=0)


# A second implementation, slow and literal


def slow_frames(time_ms: int, framerate: int) -> int:
    frames = 7200 * framerate
    frame = min(int(framerate * (time_ms / 1000)), frames - 1)
    return frame % frames


def slow_hits(actions: dict[int, int], scores: dict[int, float], delta: int) -> set[int]:
    used: set[int] = set()
    for action in sorted(actions):
        near = [f for f in sorted(scores) if abs(f - action) <= delta / 2 and f not in used]
        if near:
            used.add(max(near, key=lambda f: scores[f]))
    return used


def slow_visible(frame: int, actions: dict[int, int]) -> int:
    order = sorted(actions)
    started = [b for a, b in pairwise(order) if (a + b) // 2 <= frame]
    return actions[started[-1] if started else order[0]] if order else -1


def slow_ap(rows: list[tuple[float, bool]], actions: int) -> float:
    points = []
    for threshold in np.linspace(0, 1, 200):
        passed = [hit for value, hit in rows if value >= threshold]
        if passed and actions:
            points.append((sum(passed) / actions, sum(passed) / len(passed)))
    return sum(max((p for r, p in points if r >= level), default=0.0) for level in np.arange(11) / 10) / 11


def slow_goal_aps(
    halves: Sequence[tuple[list[tuple[int, bool]], list[tuple[int, float]]]], tolerance_s: int, framerate: int
) -> list[float]:
    """Return AP, visible AP and unshown AP of a label, from (position, visible) and (position, confidence)."""
    rows: list[tuple[float, bool, int]] = []
    values: list[int] = []
    for happened, predicted in halves:
        actions = {slow_frames(ms, framerate): 1 if visible else -1 for ms, visible in happened}
        scores = {slow_frames(ms, framerate): value for ms, value in predicted}
        scores = {frame: value for frame, value in scores.items() if value >= 0}
        hits = slow_hits(actions, scores, tolerance_s * framerate)
        rows += [(value, frame in hits, slow_visible(frame, actions)) for frame, value in scores.items()]
        values += actions.values()
    return [
        slow_ap([(value, hit) for value, hit, visible in rows if visible in kept], sum(v in kept for v in values))
        for kept in ((1, -1), (1,), (-1,))
    ]


TIMES_MS = st.integers(-3_000, 20_000) | st.integers(7_190_000, 7_210_000)
CONFIDENCES = st.sampled_from([-0.5, 0.0, 0.3, 0.5, 1.0, 1.5, *np.linspace(0, 1, 200)[[1, 57, 120, 198]]]) | st.floats(
    0, 1
)
HALF = st.tuples(
    st.lists(st.tuples(TIMES_MS, st.booleans()), max_size=12),
    st.lists(st.tuples(TIMES_MS, CONFIDENCES), max_size=25),
)


@given(st.lists(HALF, min_size=1, max_size=3), st.sampled_from([1, 2, 3]), st.integers(1, 5))
def test_equals_the_literal_reading_of_the_rules(
    halves: list[tuple[list[tuple[int, bool]], list[tuple[int, float]]]], framerate: int, tolerance_s: int
) -> None:
    truths = [
        Truth(np.array([ms for ms, _ in a], int), np.zeros(len(a), int), np.array([v for _, v in a], bool))
        for a, _ in halves
    ]
    predictions = [
        Predictions(np.array([ms for ms, _ in p], int), np.zeros(len(p), int), np.array([c for _, c in p], float))
        for _, p in halves
    ]
    result = average_map(truths, predictions, f"at{tolerance_s}", LABELS, framerate)
    got = [part.per_label[0] for part in (result.overall, result.visible, result.unshown)]
    assert got == pytest.approx(slow_goal_aps(halves, tolerance_s, framerate), abs=1e-12)


# Rules, one by one


@pytest.mark.parametrize("metric", TOLERANCES_S)
def test_perfect_predictions_score_one(metric: str) -> None:
    actions = [("Goal", 10.0, True), ("Foul", 20.2, False), ("Corner", 30.9, True)]
    result = score(actions, [(label, time_s, 0.9) for label, time_s, _ in actions], metric)
    assert result.overall.per_label == pytest.approx((1, 1, 1))
    assert result.visible.per_label == pytest.approx((1, 0, 1))
    assert result.unshown.per_label == pytest.approx((0, 1, 0))


@pytest.mark.parametrize(
    ("error_s", "tight"), [(0.0, 1), (0.5, 1), (1.0, 0.875), (1.5, 0.625), (2.0, 0.375), (2.5, 0.125), (3.0, 0)]
)
def test_tolerance_is_a_full_width_and_the_outer_ones_weigh_half(error_s: float, tight: float) -> None:
    assert goal_ap([("Goal", 100.0, True)], [("Goal", 100.0 + error_s, 0.9)], "tight") == pytest.approx(tight)


def test_times_are_truncated_to_half_seconds() -> None:
    assert goal_ap([("Goal", 100.0, True)], [("Goal", 100.999, 0.9)]) == 1
    assert goal_ap([("Goal", 100.499, True)], [("Goal", 101.0, 0.9)]) == 0


def test_last_prediction_in_a_cell_wins() -> None:
    alarm = ("Goal", 50.0, 0.5)
    sure_last = [alarm, ("Goal", 100.0, 0.1), ("Goal", 100.3, 0.9)]
    sure_first = [alarm, ("Goal", 100.3, 0.9), ("Goal", 100.0, 0.1)]
    assert goal_ap([("Goal", 100.0, True)], sure_last) == 1
    assert goal_ap([("Goal", 100.0, True)], sure_first) == pytest.approx(0.5)


def test_last_action_in_a_cell_wins() -> None:
    result = score([("Goal", 100.0, True), ("Goal", 100.2, False)], [("Goal", 100.0, 0.9)])
    assert (result.actions[0], result.visible_actions[0]) == (1, 0)
    assert (result.visible.per_label[0], result.unshown.per_label[0]) == (0, 1)


def test_negative_confidence_is_no_prediction_and_erases_an_earlier_one() -> None:
    action = [("Goal", 100.0, True)]
    assert goal_ap(action, [("Goal", 100.0, -0.1)]) == 0
    assert goal_ap(action, [("Goal", 100.0, 0.9), ("Goal", 100.0, -0.1)]) == 0
    assert goal_ap(action, [("Goal", 100.0, 0.0)]) == 1


def test_confidence_above_one_passes_every_threshold() -> None:
    actions = [("Goal", 100.0, True), ("Goal", 200.0, True)]
    assert goal_ap(actions, [("Goal", 100.0, 7.0), ("Goal", 150.0, 0.99), ("Goal", 200.0, float("inf"))]) == 1


def test_actions_choose_in_time_order_and_may_leave_a_later_one_without() -> None:
    actions = [("Goal", 100.0, True), ("Goal", 103.0, True)]
    shared_one, own_one = ("Goal", 101.5, 0.9), ("Goal", 98.5, 0.5)
    assert goal_ap(actions, [shared_one, own_one], "at5") == pytest.approx(6 / 11)


def test_of_equally_confident_predictions_the_earlier_is_taken() -> None:
    actions = [("Goal", 100.0, True), ("Goal", 103.0, True)]
    assert goal_ap(actions, [("Goal", 98.5, 0.9), ("Goal", 101.5, 0.9)], "at5") == 1


def test_one_of_two_predictions_of_an_action_is_a_false_alarm() -> None:
    actions = [("Goal", 100.0, True), ("Goal", 200.0, True)]
    predicted = [("Goal", 100.0, 0.9), ("Goal", 100.5, 0.8), ("Goal", 200.0, 0.7)]
    assert goal_ap(actions, predicted) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_false_alarm_in_a_half_without_the_label_counts_as_unshown() -> None:
    truths = [truth_of(("Goal", 100.0, True), ("Goal", 300.0, False)), truth_of()]
    predictions = [
        Predictions.of([("Goal", 100.0, 0.6), ("Goal", 300.0, 0.6)], LABELS),
        Predictions.of([("Goal", 500.0, 0.9)], LABELS),
    ]
    result = average_map(truths, predictions, "at1", LABELS)
    assert result.visible.per_label[0] == 1
    assert result.unshown.per_label[0] == pytest.approx(0.5)


def test_unshown_mean_alone_is_scaled_and_only_over_several_tolerances() -> None:
    actions = [(label, 100.0, False) for label in LABELS]
    predicted = [(label, 100.0, 0.9) for label in LABELS]
    tight, single = score(actions, predicted, "tight"), score(actions, predicted, "at3")
    assert tight.unshown.per_label == pytest.approx((1, 1, 1))
    assert tight.unshown.mean == pytest.approx(17 / 13)
    assert tight.overall.mean == single.unshown.mean == pytest.approx(1)


def test_label_that_never_happens_lowers_the_mean_but_not_the_occurring_mean() -> None:
    result = score([("Goal", 100.0, True)], [("Goal", 100.0, 0.9), ("Foul", 100.0, 0.9)])
    assert result.overall.mean == pytest.approx(1 / 3)
    assert result.occurring_mean == 1
    assert result.as_soccernet()["a_mAP_occurring"] == 1


def test_late_times_land_on_the_last_frame_and_negative_ones_count_from_the_end() -> None:
    assert goal_ap([("Goal", 7300.0, True)], [("Goal", 9999.0, 0.9)]) == 1
    assert goal_ap([("Goal", 7198.5, True)], [("Goal", -1.5, 0.9)]) == 1
    assert goal_ap([("Goal", 1.5, True)], [("Goal", -1.5, 0.9)]) == 0


def test_labels_and_halves_are_never_matched_across_their_borders() -> None:
    end, start = truth_of(("Goal", 7199.9, True)), truth_of(("Corner", 7199.9, True))
    nothing = Predictions.of([], LABELS)
    foul, goal = Predictions.of([("Foul", 0.0, 0.9)], LABELS), Predictions.of([("Goal", 0.0, 0.9)], LABELS)
    assert average_map([end], [foul], "loose", LABELS).overall.mean == 0
    assert average_map([start, truth_of()], [nothing, goal], "loose", LABELS).overall.mean == 0


def test_nothing_at_all_scores_zero() -> None:
    assert average_map([], [], "tight").overall.mean == 0
    assert score([], []).occurring_mean == 0
    assert score([("Goal", 1.0, True)], []).overall.mean == 0


def test_actions_and_spots_of_other_labels_are_left_out() -> None:
    result = score([("Goal", 100.0, True), ("Offside", 100.0, True)], [("Goal", 100.0, 0.9), ("Offside", 100.0, 1.0)])
    assert (result.actions, result.overall.per_label) == ((1, 0, 0), (1, 0, 0))


def test_version_1_says_nothing_of_visibility() -> None:
    result = score([("Goal", 100.0, True)], [("Goal", 100.0, 0.9)])
    assert {key for key, value in result.as_soccernet(version=1).items() if value is None} == {
        "a_mAP_visible",
        "a_mAP_per_class_visible",
        "a_mAP_unshown",
        "a_mAP_per_class_unshown",
    }


SPOTS = st.lists(
    st.tuples(st.sampled_from(LABELS), st.integers(0, 60), st.floats(0, 1)), unique_by=lambda s: s[:2], max_size=30
)


@given(SPOTS, SPOTS, st.randoms(use_true_random=False))
def test_order_of_predictions_in_different_cells_does_not_matter(
    actions: list[tuple[str, int, float]], predicted: list[tuple[str, int, float]], random: Any
) -> None:
    truth = [(label, float(time_s), value < 0.7) for label, time_s, value in actions]
    shuffled = random.sample(predicted, len(predicted))
    assert score(truth, predicted, "tight") == score(truth, shuffled, "tight")


@given(SPOTS, SPOTS)
def test_repeating_every_half_changes_no_average(
    actions: list[tuple[str, int, float]], predicted: list[tuple[str, int, float]]
) -> None:
    truth = truth_of(*((label, float(time_s), value < 0.7) for label, time_s, value in actions))
    predictions = Predictions.of(predicted, LABELS)
    once = average_map([truth], [predictions], "tight", LABELS)
    often = average_map([truth] * 70, [predictions] * 70, "tight", LABELS)
    assert often.overall == once.overall
    assert often.actions == tuple(70 * count for count in once.actions)


def test_a_confidence_passes_each_threshold_that_it_reaches_and_no_other() -> None:
    thresholds = np.linspace(0, 1, 200)[1:]
    labels = [f"label for threshold {k}" for k in range(1, 200)]
    index = np.arange(len(labels))
    times = np.concatenate([np.full(len(labels), 100_000), np.full(len(labels), 200_000)])
    truth = Truth(times[: len(labels)], index, np.ones(len(labels), bool))
    reached, missed = thresholds, np.nextafter(thresholds, 0)
    for hit, false_alarm, wanted in ((reached, missed, 1.0), (reached, reached, 0.5), (missed, reached, 0.5)):
        predictions = Predictions(times, np.tile(index, 2), np.concatenate([hit, false_alarm]))
        result = average_map([truth], [predictions], "at1", labels)
        assert set(result.overall.per_label) == {wanted}


def test_float32_confidences_are_not_rounded_at_the_thresholds() -> None:
    singles: Any = np.linspace(0, 1, 200).astype(np.float32)
    places, label = np.arange(0, 200 * 500, 500), np.zeros(200, int)
    truth = Truth(places[::3], label[::3], label[::3] == 0)
    got, wanted = (Predictions(places, label, values) for values in (singles, singles.astype(float)))
    assert average_map([truth], [got]) == average_map([truth], [wanted])


@pytest.mark.parametrize("framerate", [1, 2, 3, 4, 8, 25])
def test_frames_are_those_of_the_originals_arithmetic(framerate: int) -> None:
    times_ms = np.concatenate([np.arange(200_000), np.arange(0, 7_200_000, 997), np.arange(0, 7_200_000, 125) - 1])[:-1]
    times_ms = np.maximum(times_ms, 0)
    nothing = Predictions(times_ms[:0], times_ms[:0], times_ms[:0] / 1)
    truth = Truth(times_ms, 0 * times_ms, times_ms >= 0)
    grid = Grid.of(truth, nothing, 1, framerate, 0, False)
    assert grid.cells(times_ms, 0 * times_ms).tolist() == [int(framerate * (ms / 1000)) for ms in times_ms.tolist()]


# Corrected


def corrected(actions: Sequence[Happened], predicted: Sequence[Predicted], metric: str = "at1") -> MapResult:
    return average_map([truth_of(*actions)], [Predictions.of(predicted, LABELS)], metric, LABELS, corrected=True)


def test_corrected_best_prediction_in_a_cell_wins_in_any_order() -> None:
    action, alarm = [("Goal", 100.0, True)], ("Goal", 50.0, 0.5)
    sure, unsure, none = ("Goal", 100.0, 0.9), ("Goal", 100.3, 0.1), ("Goal", 100.2, -0.1)
    for order in ([alarm, sure, unsure, none], [none, unsure, sure, alarm], [unsure, alarm, none, sure]):
        assert corrected(action, order).overall.per_label[0] == 1


def test_corrected_labels_without_an_action_are_named_and_not_in_the_mean() -> None:
    actions = [("Goal", 100.0, True), ("Goal", 200.0, False), ("Corner", 300.0, True)]
    predicted = [("Goal", 100.0, 0.9), ("Goal", 200.0, 0.9), ("Foul", 10.0, 0.9)]
    result = corrected(actions, predicted, "tight")
    assert result.absent == ("Foul",)
    assert result.corrected
    assert result.overall.mean == result.occurring_mean == pytest.approx(1 / 2)
    assert result.visible.mean == pytest.approx(1 / 2)
    assert result.unshown.mean == pytest.approx(1)


def test_corrected_negative_positions_lie_on_the_first_frame() -> None:
    early = [("Goal", -5.0, 0.9)]
    assert corrected([("Goal", 0.0, True)], early).overall.per_label[0] == 1
    assert corrected([("Goal", 7195.0, True)], early).overall.per_label[0] == 0
    assert goal_ap([("Goal", 7195.0, True)], early) == 1


def test_corrected_nothing_at_all_scores_zero() -> None:
    result = corrected([], [])
    assert (result.overall.mean, result.unshown.mean, result.absent) == (0, 0, LABELS)


@given(SPOTS, SPOTS)
def test_corrected_differs_only_in_means_where_cells_hold_one_prediction(
    actions: list[tuple[str, int, float]], predicted: list[tuple[str, int, float]]
) -> None:
    truth = [(label, float(time_s), value < 0.7) for label, time_s, value in actions]
    plain, mended = score(truth, predicted, "tight"), corrected(truth, predicted, "tight")
    for part in ("overall", "visible", "unshown"):
        assert getattr(mended, part).per_label == getattr(plain, part).per_label
    assert mended.overall.mean == pytest.approx(plain.occurring_mean, abs=1e-12)


# Curves and matches


def test_curves_end_in_the_precision_and_recall_of_all_predictions() -> None:
    predicted = [("Goal", 100.0, 0.9), ("Goal", 500.0, 0.4)]
    truths = [truth_of(("Goal", 100.0, True), ("Goal", 300.0, False))]
    overall, visible, unshown = curves(truths, [Predictions.of(predicted, LABELS)], 5, LABELS)
    assert (overall.precision_CK[0, 0], overall.recall_CK[0, 0]) == (0.5, 0.5)
    sure = int(np.searchsorted(overall.thresholds_K, 0.6))
    assert (overall.precision_CK[0, sure], overall.recall_CK[0, sure]) == (1, 0.5)
    assert (visible.recall_CK[0, 0], unshown.recall_CK[0, 0]) == (1, 0)


def test_matches_leave_out_what_does_not_count() -> None:
    predicted = [("Goal", 100.0, 0.9), ("Goal", 100.0, 0.8), ("Foul", 5.0, -1.0), ("Goal", 101.0, 0.7)]
    truth, predictions = truth_of(("Goal", 100.0, True)), Predictions.of(predicted, LABELS)
    plain = match(truth, predictions, 5, LABELS)
    assert (plain.rows_M.tolist(), plain.hits_M.tolist()) == ([1, 3], [True, False])
    assert match(truth, predictions, 5, LABELS, corrected=True).rows_M.tolist() == [0, 3]


def test_a_tolerance_below_one_second_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance_s is 0"):
        curves([], [], 0)


def test_unknown_metric_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(UsageError, match="no metric 'at9'; choose one of tight, loose, at1"):
        average_map([], [], "at9")


@pytest.mark.parametrize(
    ("position_ms", "label", "confidence", "said"),
    [
        (-8_000_000, 0, 0.5, "before the half"),
        (0, 17, 0.5, "label index"),
        (0, -1, 0.5, "label index"),
        (0, 0, np.nan, "NaN"),
    ],
)
def test_impossible_predictions_are_refused(position_ms: int, label: int, confidence: float, said: str) -> None:
    predictions = Predictions(np.array([position_ms]), np.array([label]), np.array([confidence]))
    with pytest.raises(ValueError, match=said):
        average_map([Truth.of([])], [predictions])


def test_unequal_numbers_of_halves_and_a_rate_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="1 halves of truth, but 0"):
        average_map([Truth.of([])], [])
    with pytest.raises(ValueError, match="framerate is 0"):
        average_map([], [], framerate=0)


def test_metric_needs_neither_torch_nor_the_video_decoder(root: Path) -> None:
    code = "import sys, training.metric; print([m for m in ('torch', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
