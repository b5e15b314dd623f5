"""What is said of a stream: final words by the rule and in time, provisional ones that change none of them."""

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from fakes import LABELS, fake_manifest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle import Decision, Manifest, check_deadlines
from engines.decider import Decider, Spot, times_us
from engines.errors import BundleError
from engines.head import Scores
from engines.nms import greedy, local_maxima
from engines.second import FORCED

REACH_S = 1.25
levels = st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.6, 0.9, 1.0])
shifts = st.floats(-REACH_S, REACH_S)
rows = st.lists(
    st.tuples(st.lists(levels, min_size=2, max_size=2), st.lists(shifts, min_size=2, max_size=2)), max_size=40
)
radii = st.sampled_from([0.0, 0.4, 1.0, 2.0, 3.5])
rules = st.sampled_from(["local-max", "greedy"])

Row = tuple[list[float], list[float]]


def manifest_of(rule: str, reach_s: float, **decision: Any) -> Manifest:
    """A head that looks 3 s ahead, and 1 s for early words."""
    manifest = fake_manifest(reach_s=REACH_S, rows=8, look_ahead=3, early_look_ahead_s=(0, 1))
    one = Decision(threshold=0.5, rule=rule, radius_s=reach_s, window_s=2 * reach_s, **decision)
    return manifest.model_copy(update={"decision": dict.fromkeys(LABELS, one)})


def scores_of(
    trace: list[Row], epoch: int = 0, first: int = 0, look_aheads: tuple[int, ...] = (3, 1, 0)
) -> list[Scores]:
    """What a head says second by second, and once the stream has ended; every look-ahead says the same."""
    said = []
    last = first + len(trace) - 1
    for end in range(first, last + 1 + max(look_aheads)):
        for ahead in look_aheads:
            if first <= end - ahead <= last:
                s, d = trace[end - ahead - first]
                said.append(scores(end - ahead, min(end, last), s, d, ahead, epoch))
    return said


def scores(row: int, newest: int, s: list[float], d: list[float], ahead: int = 3, epoch: int = 0) -> Scores:
    return Scores(epoch, row, newest, np.array(s, np.float32), np.array(d, np.float32), frozenset(), ahead)


def said(decider: Decider, found: list[Scores]) -> list[Spot]:
    return [spot for s in found for spot in decider.push(s)] + decider.flush()


def final(words: list[Spot]) -> list[Spot]:
    return [word for word in words if word.state == "confirmed"]


def plain(words: list[Spot]) -> list[tuple[str, float, float, float]]:
    return sorted((w.label, w.media_time, w.confidence, w.emitted_at) for w in words)


def expected(trace: list[Row], manifest: Manifest, rule: str, reach_s: float) -> set[tuple[str, float, float]]:
    """The same by the offline rule over the whole half."""
    found = [s for s in scores_of(trace) if s.look_ahead == 3]
    wanted = set()
    for c, label in enumerate(LABELS):
        times = np.array([times_us(s, manifest)[c] for s in found], np.int64)
        values = np.array([s.scores_C[c] for s in found], np.float32)
        if rule == "local-max":
            at = np.flatnonzero(local_maxima(times, values, round(reach_s * 1e6)) & (values >= 0.5))
        else:
            at, _ = greedy(values, round(2 * reach_s), 0.5)
        wanted |= {(label, times[i] / 1e6, float(values[i])) for i in at}
    return wanted


@given(rows, radii)
def test_local_max_online_equals_the_offline_rule(trace: list[Row], radius_s: float) -> None:
    manifest = manifest_of("local-max", radius_s)
    spots = said(Decider(manifest, "s"), scores_of(trace))
    assert {(s.label, s.media_time, s.confidence) for s in spots} == expected(trace, manifest, "local-max", radius_s)
    assert all(s.state == "confirmed" and s.revision == 1 and FORCED not in s.flags for s in spots)


@given(rows, st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.5, 10.0]))
def test_greedy_online_equals_the_offline_rule(trace: list[Row], half_window_s: float) -> None:
    trace = [(s, [0.0, 0.0]) for s, _ in trace]
    manifest = manifest_of("greedy", half_window_s)
    spots = said(Decider(manifest, "s"), scores_of(trace))
    assert {(s.label, s.media_time, s.confidence) for s in spots} == expected(trace, manifest, "greedy", half_window_s)


@given(rows, rules, radii, st.sampled_from([None, 0.0, 1.75, 3.0, 6.0]), st.sampled_from([None, 0.0, 0.5, 0.9]))
def test_no_final_word_comes_later_than_promised(
    trace: list[Row], rule: str, radius_s: float, spare_s: float | None, speaks_from: float | None
) -> None:
    manifest = manifest_of(rule, radius_s, provisional_threshold=speaks_from)
    if spare_s is not None:
        deadline_s = manifest.smallest_deadline_s(LABELS[0]) + spare_s
        manifest = manifest.with_decision(deadline_s=deadline_s)
        check_deadlines(manifest)
    for word in said(Decider(manifest, "s"), scores_of(trace)):
        assert word.delay_s >= 0
        if word.state != "provisional":
            assert word.delay_s <= manifest.promised_delay_s(word.label) + 1e-9
            assert spare_s is None or word.delay_s <= deadline_s + 1e-9


@given(rows, rules, radii, st.sampled_from([None, 0.0, 1.0]), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_provisional_words_change_no_final_word(
    trace: list[Row], rule: str, radius_s: float, spare_s: float | None, speaks_from: float
) -> None:
    silent = manifest_of(rule, radius_s)
    if spare_s is not None:
        silent = silent.with_decision(deadline_s=silent.smallest_deadline_s(LABELS[0]) + spare_s)
    speaking = silent.with_decision(provisional_threshold=speaks_from)
    one, other = (said(Decider(m, "s"), scores_of(trace)) for m in (silent, speaking))
    assert plain(final(one)) == plain(final(other))


@given(rows, rules, radii, st.sampled_from([None, 0.0, 1.0]), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_every_id_has_provisional_words_and_then_one_final_word(
    trace: list[Row], rule: str, radius_s: float, spare_s: float | None, speaks_from: float
) -> None:
    manifest = manifest_of(rule, radius_s, provisional_threshold=speaks_from)
    if spare_s is not None:
        manifest = manifest.with_decision(deadline_s=manifest.smallest_deadline_s(LABELS[0]) + spare_s)
    of_id = defaultdict(list)
    for word in said(Decider(manifest, "s"), scores_of(trace)):
        of_id[word.id].append(word)
    for words in of_id.values():
        assert [w.revision for w in words] == list(range(1, len(words) + 1))
        assert {w.state for w in words[:-1]} <= {"provisional"}
        assert words[-1].state != "provisional"
        assert len({(w.label, w.epoch) for w in words}) == 1
        assert [w.emitted_at for w in words] == sorted(w.emitted_at for w in words)
        assert words[-1].state == "confirmed" or len(words) > 1


@given(rows, radii, st.sampled_from([None, 0.0, 1.0]))
def test_two_spots_of_a_label_are_more_than_a_radius_apart(
    trace: list[Row], radius_s: float, spare_s: float | None
) -> None:
    manifest = manifest_of("local-max", radius_s)
    if spare_s is not None:
        manifest = manifest.with_decision(deadline_s=manifest.smallest_deadline_s(LABELS[0]) + spare_s)
    spots = said(Decider(manifest, "s"), scores_of(trace))
    for label in LABELS:
        times = sorted(s.media_time for s in spots if s.label == label)
        assert all(b - a > radius_s for a, b in itertools.pairwise(times))


@given(rows, rules, radii, st.sampled_from([None, 0.0, 2.0]), st.data())
def test_telling_the_time_sooner_or_later_changes_no_word(
    trace: list[Row], rule: str, radius_s: float, spare_s: float | None, data: st.DataObject
) -> None:
    manifest = manifest_of(rule, radius_s, provisional_threshold=0.5)
    if spare_s is not None:
        manifest = manifest.with_decision(deadline_s=manifest.smallest_deadline_s(LABELS[0]) + spare_s)
    found = scores_of(trace)
    plainly = said(Decider(manifest, "s"), found)
    prompt, words = Decider(manifest, "s"), []
    for s, following in itertools.zip_longest(found, found[1:]):
        words += prompt.push(s)
        if (following is None or following.newest > s.newest) and data.draw(st.booleans()):
            words += prompt.advance(s.newest + 1)
    assert words + prompt.flush() == plainly


@given(rows, rules)
def test_the_parts_of_the_delay_add_up(trace: list[Row], rule: str) -> None:
    manifest = manifest_of(rule, 2.0, provisional_threshold=0.2)
    for spot in said(Decider(manifest, "s"), scores_of(trace)):
        assert abs(sum(spot.latency.values()) - spot.delay_s) < 1e-6
        assert all(part >= 0 for part in spot.latency.values())


@given(rows, rows, rules, st.integers(0, 30))
def test_an_epoch_is_decided_as_if_it_were_alone(one: list[Row], other: list[Row], rule: str, gap_s: int) -> None:
    manifest = manifest_of(rule, 2.0, provisional_threshold=0.5, deadline_s=6.0)
    later = scores_of(other, epoch=1, first=len(one) + gap_s)
    together = said(Decider(manifest, "s"), scores_of(one) + later)
    alone = said(Decider(manifest, "s"), scores_of(one)) + said(Decider(manifest, "s"), later)
    assert [w.id for w in together] == [w.id for w in alone]
    assert together == alone


@given(rows, rules, st.data())
def test_rows_that_are_missing_do_not_make_a_word_late(trace: list[Row], rule: str, data: st.DataObject) -> None:
    """Of seconds that were shed nothing is known; the clock passes over them."""
    manifest = manifest_of(rule, 2.0, provisional_threshold=0.5)
    manifest = manifest.with_decision(deadline_s=manifest.smallest_deadline_s(LABELS[0]) + 1)
    found = [s for s in scores_of(trace) if data.draw(st.booleans())]
    for word in said(Decider(manifest, "s"), found):
        assert word.delay_s <= manifest.promised_delay_s(word.label) or word.emitted_at == found[-1].newest + 1


def test_what_the_deadline_forces_is_marked() -> None:
    manifest = manifest_of("local-max", 5.0, deadline_s=6.0)
    trace: list[Row] = [([0.9, 0.0], [0.0, 0.0]), *([([0.0, 0.0], [0.0, 0.0])] * 12)]
    forced = said(Decider(manifest, "s"), scores_of(trace))
    assert [(s.emitted_at, s.flags) for s in forced] == [(6.0, (FORCED,))]
    patient = said(Decider(manifest.with_decision(deadline_s=None), "s"), scores_of(trace))
    assert [(s.emitted_at, s.flags) for s in patient] == [(10.0, ())]


def test_a_word_is_provisional_before_it_is_confirmed_and_keeps_its_id() -> None:
    manifest = manifest_of("local-max", 2.0, provisional_threshold=0.6)
    trace: list[Row] = [([0.0, 0.0], [0.0, 0.0])] * 3 + [([0.9, 0.0], [0.2, 0.0])] + [([0.0, 0.0], [0.0, 0.0])] * 9
    words = said(Decider(manifest, "s"), scores_of(trace))
    assert [(w.state, w.revision, w.media_time, w.emitted_at) for w in words] == [
        ("provisional", 1, 3.7, 4.0),
        ("confirmed", 2, 3.7, 10.0),
    ]
    assert len({w.id for w in words}) == 1


def test_a_provisional_spot_that_nothing_speaks_for_any_more_is_retracted() -> None:
    manifest = manifest_of("local-max", 2.0, provisional_threshold=0.6)
    decider = Decider(manifest, "s")
    words = decider.push(scores(5, 5, [0.9, 0.0], [0.0, 0.0], ahead=0))
    for second in range(6, 10):
        words += decider.push(scores(second - 3, second, [0.1, 0.0], [0.0, 0.0]))
    words += decider.flush()
    assert [(w.state, w.revision, w.emitted_at) for w in words] == [("provisional", 1, 6.0), ("retracted", 2, 9.0)]


def test_labels_may_be_confirmed_with_different_look_aheads_and_deadlines() -> None:
    manifest = manifest_of("local-max", 1.0)
    quick = manifest.decision["Goal"].model_copy(update={"look_ahead_s": 0, "deadline_s": 3.0})
    manifest = manifest.model_copy(update={"decision": {**manifest.decision, "Goal": quick}})
    trace: list[Row] = [([0.9, 0.9], [0.0, 0.0])] + [([0.0, 0.0], [0.0, 0.0])] * 9
    found = said(Decider(manifest, "s"), scores_of(trace))
    assert [(s.label, s.emitted_at) for s in found] == [("Goal", 3.0), ("Foul", 6.0)]
    assert manifest.promised_delay_s("Goal") == 2.75
    assert manifest.promised_delay_s("Foul") == 5.75


def test_a_deadline_that_cannot_be_kept_is_refused_with_the_smallest_one() -> None:
    manifest = manifest_of("local-max", 2.0)
    with pytest.raises(BundleError, match=r"a deadline of 4 s cannot be kept; the smallest possible for .* is 4\.75 s"):
        check_deadlines(manifest.with_decision(deadline_s=4.0))
    check_deadlines(manifest.with_decision(deadline_s=4.75))
    check_deadlines(manifest.with_decision(deadline_s=2.0, look_ahead_s=0))
    with pytest.raises(BundleError, match="decided 2 s ahead; this bundle has 0, 1, 3"):
        check_deadlines(manifest.with_decision(look_ahead_s=2))


def test_equal_peaks_leave_the_earlier_one() -> None:
    trace: list[Row] = [([0.9, 0.0], [0.0, 0.0]), ([0.9, 0.0], [0.0, 0.0])]
    assert [
        s.media_time for s in said(Decider(fake_manifest(look_ahead=3), "s"), scores_of(trace, look_aheads=(3,)))
    ] == [0.5]


def test_ids_are_the_same_in_every_run_and_differ_between_streams() -> None:
    found = scores_of([([0.9, 0.9], [0.1, 0.2])])
    manifest = manifest_of("local-max", 2.0)
    first, again, other = (said(Decider(manifest, name), found) for name in ("a", "a", "b"))
    assert [s.id for s in first] == [s.id for s in again]
    assert not {s.id for s in first} & {s.id for s in other}
    assert len({s.id for s in first}) == 2
