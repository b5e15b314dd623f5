import itertools
from dataclasses import replace
from typing import Any

from fakes import fake_bundle, fake_manifest, second
from hypothesis import given
from hypothesis import strategies as st

from engines.second import NO_AUDIO
from engines.spotter import Spotter


def run(levels: list[int], **changes: Any) -> list[tuple[str, float]]:
    spotter = Spotter(fake_bundle(), "s")
    spots = [s for k, level in enumerate(levels) for s in spotter.push(second(k, level, **changes))]
    return [(s.label, s.media_time) for s in spots + spotter.flush()]


def test_a_bright_second_is_a_spot_of_every_label_of_the_fake_head() -> None:
    assert run([0, 0, 250, 0, 0, 0]) == [("Goal", 2.5), ("Foul", 2.5)]


def test_the_last_second_is_decided_at_the_end_of_the_stream() -> None:
    assert run([0, 250]) == [("Goal", 1.5), ("Foul", 1.5)]


def test_a_second_without_a_picture_holds_no_spot() -> None:
    assert run([250, 250], video_filled=0.0) == []


def test_flags_of_the_window_reach_the_spot() -> None:
    spotter = Spotter(fake_bundle(), "s")
    dark = replace(second(0), flags=frozenset({NO_AUDIO}))
    spots = spotter.push(dark) + spotter.push(second(1, 250)) + spotter.flush()
    assert {s.flags for s in spots} == {(NO_AUDIO,)}


@given(st.lists(st.sampled_from([0, 100, 130, 200, 250]), max_size=30), st.integers(1, 29))
def test_what_was_said_never_depends_on_what_comes_later(levels: list[int], cut: int) -> None:
    """A spot said after `cut` seconds is said in the same way however the stream goes on."""
    early, late = Spotter(fake_bundle(), "s"), Spotter(fake_bundle(), "s")
    head = [s for k, level in enumerate(levels[:cut]) for s in early.push(second(k, level))]
    whole = [s for k, level in enumerate(levels) for s in late.push(second(k, level))]
    assert whole[: len(head)] == head


@given(st.lists(st.sampled_from([0, 100, 130, 200, 250]), min_size=1, max_size=12), st.integers(0, 12), st.booleans())
def test_what_is_pending_is_said_by_the_deadline_though_nothing_comes(
    levels: list[int], silence_s: int, speaks: bool
) -> None:
    manifest = fake_manifest(look_ahead=1, radius_s=2.0).with_decision(
        deadline_s=3.0, provisional_threshold=0.5 if speaks else None
    )
    spotter = Spotter(fake_bundle(manifest), "s")
    words = [s for k, level in enumerate(levels) for s in spotter.push(second(k, level))]
    for now_s in range(len(levels), len(levels) + silence_s):
        words += spotter.expire(now_s + 0.25)
    heard = [w.media_time for w in words if w.state == "confirmed" and w.label == "Goal"]
    patient = Spotter(fake_bundle(manifest.with_decision(deadline_s=None, provisional_threshold=None)), "s")
    wanted = [s for k, level in enumerate(levels) for s in patient.push(second(k, level))] + patient.flush()
    for spot in wanted:
        if spot.label == "Goal" and spot.media_time + 3.0 < len(levels) + silence_s:
            assert any(abs(at - spot.media_time) <= 2.0 for at in heard)  # it, or a rival that the deadline preferred
    assert all(w.delay_s <= 3.0 for w in words if w.state != "provisional")


@given(st.lists(st.sampled_from([0, 100, 130, 200, 250]), min_size=2, max_size=12), st.data())
def test_a_stream_that_comes_late_is_spotted_on_as_before(levels: list[int], data: st.DataObject) -> None:
    """Nothing is said twice, and nothing after its deadline."""
    manifest = fake_manifest(look_ahead=1, radius_s=1.0).with_decision(deadline_s=3.0, provisional_threshold=0.5)
    spotter, words = Spotter(fake_bundle(manifest), "s"), []
    for k, level in enumerate(levels):
        words += spotter.push(second(k, level))
        words += spotter.expire(k + 1 + data.draw(st.sampled_from([0.0, 0.5, 2.0, 7.0])))
    words += spotter.flush()
    final = [w for w in words if w.state != "provisional"]
    assert len({w.id for w in final}) == len(final)
    assert all(w.delay_s <= 3.0 for w in final)
    for key in {w.id for w in words}:
        said = [w for w in words if w.id == key]
        assert [w.revision for w in said] == list(range(1, len(said) + 1))
        assert [w.emitted_at for w in said] == sorted(w.emitted_at for w in said)
    for label in manifest.labels:
        times = sorted(w.media_time for w in final if w.state == "confirmed" and w.label == label)
        assert all(b - a > 1.0 for a, b in itertools.pairwise(times))


def test_a_clock_that_says_nothing_new_changes_nothing() -> None:
    levels = [0, 0, 250, 0, 130, 0, 0, 200]
    plain, watched = Spotter(fake_bundle(), "s"), Spotter(fake_bundle(), "s")
    one = [s for k, level in enumerate(levels) for s in plain.push(second(k, level))]
    other = [s for k, v in enumerate(levels) for s in watched.push(second(k, v)) + watched.expire(k + 1.9)]
    assert one == other


def test_a_stream_that_resumes_after_a_stall_has_its_deadlines_again() -> None:
    manifest = fake_manifest(look_ahead=1, radius_s=1.0).with_decision(deadline_s=3.0)
    stalled, steady = Spotter(fake_bundle(manifest), "s"), Spotter(fake_bundle(manifest), "s")
    levels = [0, 250, 0, 0, 0, 200, 0, 0, 0, 0]
    words = []
    for k, level in enumerate(levels):
        if k == 4:
            words += stalled.expire(30.0)
        words += stalled.push(second(k, level))
    wanted = [s for k, level in enumerate(levels) for s in steady.push(second(k, level))]
    assert [w for w in words if w.media_time > 4] == [w for w in wanted if w.media_time > 4]


def test_two_epochs_in_one_second_keep_the_clock() -> None:
    spotter = Spotter(fake_bundle(fake_manifest(look_ahead=1)), "s")
    words = spotter.push(second(0)) + spotter.push(second(1, 250)) + spotter.push(second(1, 0, epoch=1))
    assert {(w.media_time, w.emitted_at) for w in words} == {(1.5, 2.0)}
