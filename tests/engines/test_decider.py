import itertools

import numpy as np
from fakes import LABELS, fake_manifest
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import LocalMaxDecider, Spot
from engines.head import Scores
from engines.nms import local_maxima

levels = st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.6, 0.9, 1.0])
shifts = st.floats(-1.25, 1.25)
rows = st.lists(
    st.tuples(st.lists(levels, min_size=2, max_size=2), st.lists(shifts, min_size=2, max_size=2)), max_size=40
)
radii = st.sampled_from([0.0, 0.4, 1.0, 2.0, 3.5])

Row = tuple[list[float], list[float]]


def scores_of(trace: list[Row], epoch: int = 0, look_ahead: int = 0) -> list[Scores]:
    return [
        Scores(epoch, i, i + look_ahead, np.array(s, np.float32), np.array(d, np.float32), frozenset())
        for i, (s, d) in enumerate(trace)
    ]


def said(decider: LocalMaxDecider, scores: list[Scores]) -> list[Spot]:
    return [spot for s in scores for spot in decider.push(s)] + decider.flush()


@given(rows, radii)
def test_online_equals_the_offline_rule(trace: list[Row], radius_s: float) -> None:
    spots = said(LocalMaxDecider(fake_manifest(radius_s=radius_s, reach_s=1.25), "s"), scores_of(trace))
    expected = set()
    for c, label in enumerate(LABELS):
        middles = np.arange(len(trace)) * 1_000_000 + 500_000
        shift = np.round(np.array([d[c] for _, d in trace], np.float32).astype(float) * 1000).astype(np.int64) * 1000
        times = np.maximum(middles + shift, 0)
        values = np.array([s[c] for s, _ in trace], np.float32)
        stands = local_maxima(times, values, round(radius_s * 1e6)) & (values >= 0.5)
        expected |= {(label, times[i] / 1e6, float(values[i])) for i in np.flatnonzero(stands)}
    assert {(s.label, s.media_time, s.confidence) for s in spots} == expected
    assert len(spots) == len(expected)


@given(rows, radii)
def test_no_spot_comes_later_than_promised(trace: list[Row], radius_s: float) -> None:
    manifest = fake_manifest(radius_s=radius_s, reach_s=1.25, look_ahead=3)
    for spot in said(LocalMaxDecider(manifest, "s"), scores_of(trace, look_ahead=3)):
        assert spot.delay_s <= manifest.promised_delay_s(spot.label)


@given(rows, radii)
def test_two_spots_of_a_label_are_more_than_a_radius_apart(trace: list[Row], radius_s: float) -> None:
    spots = said(LocalMaxDecider(fake_manifest(radius_s=radius_s, reach_s=1.25), "s"), scores_of(trace))
    for label in LABELS:
        times = sorted(s.media_time for s in spots if s.label == label)
        assert all(b - a > radius_s for a, b in itertools.pairwise(times))


@given(rows)
def test_the_parts_of_the_delay_add_up(trace: list[Row]) -> None:
    manifest = fake_manifest(radius_s=2.0, reach_s=1.25, look_ahead=3)
    for spot in said(LocalMaxDecider(manifest, "s"), scores_of(trace, look_ahead=3)):
        assert abs(sum(spot.latency.values()) - spot.delay_s) < 1e-6
        assert all(part >= 0 for part in spot.latency.values())


def test_equal_peaks_leave_the_earlier_one() -> None:
    trace: list[Row] = [([0.9, 0.0], [0.0, 0.0]), ([0.9, 0.0], [0.0, 0.0])]
    assert [s.media_time for s in said(LocalMaxDecider(fake_manifest(), "s"), scores_of(trace))] == [0.5]


def test_a_new_epoch_decides_what_was_pending() -> None:
    decider = LocalMaxDecider(fake_manifest(radius_s=2.0), "s")
    assert decider.push(scores_of([([0.9, 0.0], [0.0, 0.0])])[0]) == []
    spots = decider.push(scores_of([([0.0, 0.0], [0.0, 0.0])], epoch=1)[0])
    assert [(s.label, s.epoch) for s in spots] == [("Goal", 0)]


def test_ids_are_the_same_in_every_run_and_differ_between_streams() -> None:
    scores = scores_of([([0.9, 0.9], [0.1, 0.2])])
    first, again, other = (said(LocalMaxDecider(fake_manifest(), name), scores) for name in ("a", "a", "b"))
    assert [s.id for s in first] == [s.id for s in again]
    assert not {s.id for s in first} & {s.id for s in other}
    assert len({s.id for s in first}) == 2
