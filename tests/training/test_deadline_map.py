"""Accuracy under a deadline: the definition's own vectors, its properties, and a slow second implementation."""

import math
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.actions import Action
from training.data.results import Predictions, Truth
from training.data.words import NEVER, History, Provisional
from training.deadlines import (
    DEADLINES_S,
    Found,
    Said,
    deadline_curve,
    deadline_map,
    find,
    references_ms,
    right,
    view,
)
from training.delays import BUCKETS_S, Delays, Precision, say_delays, word_figures
from training.metric import TOLERANCES_S, average_map, curves

LABELS = ("Goal", "Foul", "Corner")
INF = math.inf

Spoken = tuple[float, float, float, float | None]
"""Position, confidence, when said and when retracted, of a goal; seconds."""


def goals(*times_s: float) -> Truth:
    return Truth.of([Action("Goal", 1, time_s, True) for time_s in times_s], LABELS)


def said(*spots: Spoken) -> Said:
    return Said.of(
        (round(1000 * p), 0, s, round(1000 * a), NEVER if r is None else round(1000 * r)) for p, s, a, r in spots
    )


def goal_ap(truth: Truth, spoken: Said, deadline_s: float, metric: str = "at3", strict: bool = False) -> float:
    return deadline_map([truth], [spoken], deadline_s, metric, LABELS, strict).per_label[0]


# The definition's worked example

TRUE = goals(100, 200, 300)
SPOTS = said(
    (100.4, 0.9, 103, None),
    (201.2, 0.8, 212, None),
    (299.0, 0.7, 301, None),
    (150.0, 0.6, 152, 155),
    (250.0, 0.5, 260, None),
    (101.0, 0.4, 104, None),
)
VIEWS: dict[int, dict[float, tuple[str, float]]] = {
    1: {1: ("", 0), 2: ("34", 0), 4: ("1346", 0.3636), 5: ("136", 0.3636), 12: ("12356", 0.3636)},
    3: {1: ("3", 0.3636), 2: ("34", 0.3636), 4: ("1346", 0.6364), 5: ("136", 0.6364), 12: ("12356", 1)},
}
VIEWS[5] = VIEWS[3]
for by_deadline in VIEWS.values():
    by_deadline[16] = by_deadline[INF] = by_deadline[12]


@pytest.mark.parametrize("tolerance_s", VIEWS)
@pytest.mark.parametrize("deadline_s", VIEWS[1])
def test_the_worked_example_comes_out(tolerance_s: int, deadline_s: float) -> None:
    spots, ap = VIEWS[tolerance_s][deadline_s]
    seen = view(TRUE, SPOTS, tolerance_s, deadline_s, LABELS)
    wanted = [int(spot) - 1 for spot in spots]
    assert seen.positions_ms_N.tolist() == SPOTS.positions_ms_N[wanted].tolist()
    found = deadline_map([TRUE], [SPOTS], deadline_s, f"at{tolerance_s}", LABELS)
    assert found.per_label == pytest.approx((ap, 0, 0), abs=5e-5)
    assert found.mean == pytest.approx(ap / len(LABELS), abs=5e-5)


# Properties, one by one


def test_a_deadline_is_kept_to_the_millisecond_and_inclusive() -> None:
    on_time, late = said((100.0, 0.9, 103.0, None)), said((100.0, 0.9, 103.001, None))
    assert (goal_ap(goals(100), on_time, 3), goal_ap(goals(100), late, 3)) == (1, 0)
    assert goal_ap(goals(100), late, 3.001) == 1


def test_a_late_spot_is_a_miss_and_no_false_alarm() -> None:
    truth, prompt = goals(100, 200), (100.0, 0.5, 101.0, None)
    late = (200.0, 0.9, 210.0, None)
    assert goal_ap(truth, said(prompt, late), 5) == goal_ap(truth, said(prompt), 5) == pytest.approx(6 / 11)


def test_strictly_a_late_spot_is_a_false_alarm_too() -> None:
    truth, feed = goals(100, 200), said((100.0, 0.5, 101.0, None), (200.0, 0.9, 210.0, None))
    assert goal_ap(truth, feed, 5, strict=True) == pytest.approx(3 / 11)
    assert goal_ap(truth, feed, INF, strict=True) == 1


def test_a_false_alarm_costs_until_it_is_retracted() -> None:
    truth, hit = goals(100), (100.0, 0.5, 101.0, None)
    taken_back = said(hit, (50.0, 0.9, 52.0, 60.0))
    assert [goal_ap(truth, taken_back, d) for d in (1, 2, 9.999, 10, INF)] == [1, 0.5, 0.5, 1, 1]


def test_a_right_spot_that_is_retracted_becomes_a_miss() -> None:
    feed = said((100.0, 0.9, 101.0, 120.0))
    assert [goal_ap(goals(100), feed, d) for d in (1, 19, 20, INF)] == [1, 1, 0, 0]


def test_a_duplicate_is_a_false_alarm_from_the_moment_it_is_said() -> None:
    truth, feed = goals(100, 200), said((100, 0.9, 101, None), (101, 0.8, 104, None), (200, 0.7, 201, None))
    assert goal_ap(truth, feed, 1) == 1
    assert goal_ap(truth, feed, 4) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_the_deadline_counts_from_the_action_not_from_where_the_spot_claims_to_be() -> None:
    moved = said((101.5, 0.9, 104.0, None))
    assert [goal_ap(goals(100), moved, d) for d in (2.5, 4)] == [0, 1]
    assert goal_ap(goals(100), moved, INF, "at1") == 0


def test_the_reference_is_the_nearest_action_of_the_label_and_of_equals_the_earlier() -> None:
    truth = Truth.of(
        [Action("Goal", 1, 100.0, True), Action("Goal", 1, 102.0, True), Action("Foul", 1, 101.0, True)], LABELS
    )
    feed = said((101.0, 0.9, 0, None), (101.2, 0.9, 0, None), (99.0, 0.9, 0, None), (104.2, 0.9, 0, None))
    assert references_ms(truth, feed, 3, LABELS).tolist() == [100_000, 102_000, 100_000, 104_200]


def test_reach_is_counted_in_the_metrics_frames_and_nearness_in_milliseconds() -> None:
    truth = goals(100.4, 101.6)  # frames 200 and 203
    feed = said((101.01, 0.9, 0, None))  # frame 202: nearer to the second by the clock as by the frame
    assert references_ms(truth, feed, 1, LABELS).tolist() == [101_600]
    assert references_ms(truth, said((100.99, 0.9, 0, None)), 2, LABELS).tolist() == [100_400]


def test_halves_do_not_lend_each_other_references() -> None:
    feed = said((100.0, 0.9, 103.0, None))
    found = deadline_map([goals(), goals(100)], [feed, said()], 5, "at3", LABELS)
    assert found.per_label == (0, 0, 0)


def test_each_tolerance_has_its_own_view() -> None:
    feed = said((298.5, 0.9, 302.0, None))  # said 3.5 s after its position, 2 s after the action
    by_tolerance = [goal_ap(goals(300), feed, 2, f"at{t}") for t in (1, 2, 3, 4, 5)]
    assert by_tolerance == [0, 0, 1, 1, 1]
    assert goal_ap(goals(300), feed, 2, "tight") == pytest.approx((0 / 2 + 0 + 1 + 1 + 1 / 2) / 4)


@pytest.mark.parametrize("deadline_s", [-1.0, math.nan])
def test_impossible_deadlines_are_refused(deadline_s: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        goal_ap(TRUE, SPOTS, deadline_s)
    with pytest.raises(ValueError, match="2 halves of truth, but 1"):
        deadline_map([TRUE, TRUE], [SPOTS], 1)


def test_no_torch_is_loaded(root: Path) -> None:
    code = "import sys, training.deadline_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# Generated feeds

TIMES_MS = st.integers(0, 12_000) | st.integers(7_195_000, 7_205_000)
SAID_S = st.sampled_from([0, 0.5, 1, 2, 2.5, 4, 10])
SPOT = st.tuples(
    TIMES_MS,
    st.integers(0, 1),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1),
    st.integers(-1000, 20_000) | SAID_S.map(lambda s: int(1000 * s)),
    st.none() | st.integers(0, 10_000),
)
TRUTHS = st.lists(st.tuples(TIMES_MS, st.integers(0, 1), st.booleans()), max_size=10)
HALVES = st.lists(st.tuples(TRUTHS, st.lists(SPOT, max_size=20)), min_size=1, max_size=3)
DEADLINES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5, 4.0, 10.0, 30.0])

Happened = Sequence[tuple[int, int, bool]]
Feed = Sequence[tuple[int, int, float, int, int | None]]
Feeds = list[tuple[Happened, Feed]]


def arrays(halves: Feeds) -> tuple[list[Truth], list[Said]]:
    truths, saids = [], []
    for happened, feed in halves:
        ms, labels, visible = (np.array([a[i] for a in happened], int) for i in range(3))
        truths.append(Truth(ms, labels, visible > 0))
        saids.append(
            Said.of((p, c, s, max(p + a, 0), NEVER if r is None else max(p + a, 0) + r) for p, c, s, a, r in feed)
        )
    return truths, saids


def slow_view(truth: Truth, spoken: Said, tolerance_s: int, deadline_s: float) -> Predictions:
    """Return V(δ, D), read literally from its definition."""
    kept = []
    for i in range(len(spoken.labels_N)):
        place, label = int(spoken.positions_ms_N[i]), spoken.labels_N[i]
        of_label = truth.positions_ms_N[truth.labels_N == label].tolist()
        near = [g for g in of_label if abs(min(place // 500, 14_399) - min(g // 500, 14_399)) <= tolerance_s]
        reference = min(near, key=lambda g: (abs(g - place), g)) if near else place
        by = reference + 1000 * deadline_s
        taken_back = spoken.retracted_ms_N[i]
        if spoken.said_ms_N[i] <= by and not (taken_back != NEVER and taken_back <= by):
            kept.append(i)
    return spoken.chosen(np.array(kept, int))


@given(HALVES, DEADLINES | st.just(INF), st.sampled_from([1, 2, 3, 5]))
def test_equals_the_literal_reading_of_the_definition(halves: Feeds, deadline_s: float, tolerance_s: int) -> None:
    truths, saids = arrays(halves)
    views = [slow_view(t, s, tolerance_s, deadline_s) for t, s in zip(truths, saids, strict=True)]
    for truth, spoken, wanted in zip(truths, saids, views, strict=True):
        assert (
            view(truth, spoken, tolerance_s, deadline_s, LABELS).positions_ms_N.tolist()
            == wanted.positions_ms_N.tolist()
        )
    metric = f"at{tolerance_s}"
    assert deadline_map(truths, saids, deadline_s, metric, LABELS) == average_map(truths, views, metric, LABELS).overall


@given(HALVES, st.sampled_from(list(TOLERANCES_S)))
def test_without_a_deadline_it_is_the_metric_of_what_stood_at_the_end(halves: Feeds, metric: str) -> None:
    truths, saids = arrays(halves)
    wanted = average_map(truths, [spoken.final for spoken in saids], metric, LABELS).overall
    for strict in (False, True):
        found = deadline_map(truths, saids, INF, metric, LABELS, strict)
        assert found.per_label == pytest.approx(wanted.per_label, abs=1e-12, rel=0)
        assert found.mean == pytest.approx(wanted.mean, abs=1e-12, rel=0)


@given(HALVES, DEADLINES, st.sampled_from(["tight", "at3"]))
def test_strictly_it_is_never_better(halves: Feeds, deadline_s: float, metric: str) -> None:
    # The hits are the same, and each late spot is one more false alarm, so no precision can be higher.
    truths, saids = arrays(halves)
    usual, strict = (deadline_map(truths, saids, deadline_s, metric, LABELS, strict) for strict in (False, True))
    assert all(a <= b + 1e-12 for a, b in zip(strict.per_label, usual.per_label, strict=True))


def test_all_deadlines_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(3)
    halves: Feeds = []
    for _ in range(2):
        happened = [(int(ms), int(label), True) for ms, label in rng.integers(0, (60_000, 2), (30, 2))]
        feed = [
            (max(ms + int(rng.normal(0, 900)), 0), label, float(rng.random()), int(rng.exponential(6000)), retracted)
            for ms, label, _ in happened
            for retracted in (None, int(rng.exponential(4000)))
        ]
        halves.append((happened, feed))
    truths, saids = arrays(halves)
    curve = deadline_curve(truths, saids, "tight", LABELS)
    assert len(set(curve.means)) > 6
    for deadline_s, usual, strict in zip(curve.deadlines_s, curve.averages, curve.strict, strict=True):
        assert usual == deadline_map(truths, saids, deadline_s, "tight", LABELS)
        assert strict == deadline_map(truths, saids, deadline_s, "tight", LABELS, strict=True)


@given(HALVES, st.sampled_from([1, 3, 5]))
def test_recall_never_falls_with_the_deadline_and_ends_at_the_metrics_own(halves: Feeds, tolerance_s: int) -> None:
    truths, saids = arrays(halves)
    found = find(truths, saids, tolerance_s, LABELS)
    recalls = [found.recall(deadline_s) for deadline_s in (0, 0.5, 1, 2, 4, 10, 30, INF)]
    for sooner, later in pairwise(recalls):
        assert sooner.overall <= later.overall
        assert all(a <= b for a, b in zip(sooner.per_label, later.per_label, strict=True))
    curve, _, _ = curves(truths, [spoken.final for spoken in saids], tolerance_s, LABELS)
    assert recalls[-1].per_label == pytest.approx(curve.recall_CK[:, 0].tolist())


# Scalars


def test_a_feed_that_says_all_at_once_loses_nothing() -> None:
    curve = deadline_curve([TRUE], [said(*((t, 0.9, t + 1, None) for t in (100, 200, 300)))], "tight", LABELS)
    assert curve.means == pytest.approx([1 / 3] * len(DEADLINES_S))
    assert curve.occurring_means == pytest.approx([1] * len(DEADLINES_S))
    assert (curve.area, curve.least_deadline_s(0.9), curve.share_at(3)) == (1, 1, 1)
    assert max(curve.losses) == 0
    assert curve.actions == (3, 0, 0)


def test_scalars_of_a_feed_by_hand() -> None:
    truth = goals(*(100 * i for i in range(1, 11)))
    delays_s = [0.5, 1.5, 1.5, 3, 3.5, 4, 6, 10, 30, 100]
    feed = said(*((100 * i, 0.9, 100 * i + delay, None) for i, delay in enumerate(delays_s, start=1)))
    curve = deadline_curve([truth], [feed], "at3", LABELS)
    levels = [2, 4, 5, 7, 7, 8, 9, 10, 10, 11]  # of 11 recall levels
    assert curve.shares == pytest.approx([level / 11 for level in levels])
    assert curve.losses == pytest.approx([(11 - level) / 33 for level in levels])
    assert [curve.least_deadline_s(share) for share in (0.5, 0.9, 0.95)] == [4, 32, INF]
    assert curve.area == pytest.approx((2 / 2 + 4 + 7 + 8 + 9 + 10 + 10 / 2) / 6 / 11)
    found = find([truth], [feed], 3, LABELS)
    assert [found.recall(deadline_s).overall for deadline_s in (0.5, 1.5, 10, INF)] == [0.1, 0.3, 0.8, 1]


def test_a_feed_that_finds_nothing_has_no_shares() -> None:
    curve = deadline_curve([TRUE], [said()], "tight", LABELS)
    assert set(curve.means) == {0}
    assert (set(curve.shares), curve.least_deadline_s(0.9), curve.area) == ({None}, None, None)


# Delays and words


def test_percentiles_are_delays_that_were_observed() -> None:
    delays = Delays.of(np.arange(1, 101) * 1000)
    assert (delays.count, delays.p50_s, delays.p95_s, delays.p99_s, delays.max_s) == (100, 50, 95, 99, 100)
    assert Delays.of(np.zeros(0, np.int64)) == Delays(0, None, None, None, None)


def test_the_delay_is_from_the_action_to_the_confirmed_word_of_right_spots_that_stand() -> None:
    feed = said((99.0, 0.9, 103, None), (150, 0.9, 190, None), (200.0, 0.9, 207, 230), (300.0, 0.9, 299.5, None))
    overall, per_label = say_delays(find([TRUE], [feed], 5, LABELS))
    assert (overall.count, overall.p50_s, overall.max_s) == (2, -0.5, 3)
    assert per_label == (overall, Delays.of(np.zeros(0, np.int64)), Delays.of(np.zeros(0, np.int64)))


def test_right_is_what_the_metric_takes_of_what_stood_at_the_end() -> None:
    feed = said((100, 0.9, 101, 102), (100.5, 0.5, 101, None), (101, 0.4, 101, None), (150, 0.9, 151, None))
    assert right(TRUE, feed, 5, LABELS).tolist() == [False, True, False, False]


def test_found_knows_labels_without_an_action() -> None:
    found = Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(3, np.int64))
    assert (found.recall(1).overall, found.recall(1).per_label) == (0, (0, 0, 0))


def history(feed: Said, revisions: Sequence[int], *provisional: tuple[float, float, int, bool]) -> History:
    """Return a history; of each spot that was provisional its position, when said, its row, whether retracted."""
    table = np.array(provisional, float).reshape(-1, 4)
    positions, heard, rows = (table[:, i].astype(np.int64) for i in range(3))
    return History(feed, np.array(revisions, int), Provisional(1000 * positions, 1000 * heard, rows, table[:, 3] > 0))


def test_provisional_words_are_judged_by_what_became_of_them() -> None:
    feed = said((100, 0.9, 110, None), (150, 0.9, 152, None), (200, 0.9, 203, None))
    lived = history(feed, [3, 2, 1], (98, 100, 0, False), (151, 151, 1, False), (60, 61, -1, True), (70, 73, -1, False))
    figures = word_figures([TRUE], [lived], labels=LABELS)
    assert (figures.confirmed, figures.retracted, figures.revisions) == (3, 0, 2)
    early = figures.provisional
    assert early is not None
    assert early.precision == Precision(4, 0.25)  # the second is confirmed, and a false alarm
    assert early.retracted == 0.25
    by_delay = dict(zip(BUCKETS_S, early.by_delay, strict=True))
    assert (by_delay[1], by_delay[2], by_delay[4]) == (Precision(2, 0), Precision(1, 1), Precision(1, 0))
    assert by_delay[64] == Precision(0, None)
    assert (early.lead.p50_s, early.lead.p95_s, early.drift.p95_s) == (1, 10, 2)


def test_without_provisional_words_there_are_no_figures_of_them() -> None:
    figures = word_figures([TRUE], [history(SPOTS, [1] * 6)], labels=LABELS)
    assert (figures.confirmed, figures.retracted, figures.revisions) == (6, 1 / 6, 1)
    assert figures.provisional is None
    nothing = word_figures([TRUE], [history(said(), [])], labels=LABELS)
    assert (nothing.confirmed, nothing.retracted, nothing.revisions) == (0, None, None)
