from dataclasses import replace
from typing import Any

from fakes import fake_bundle, second
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
