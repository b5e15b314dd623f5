from itertools import chain

import numpy as np
from fakes import BASE, FlatPicture, broadcast, picture, sound
from hypothesis import given
from hypothesis import strategies as st

from engines import second as flags
from engines.second import Second
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import Frame, PictureSpec

SPEC = PictureSpec(rate=2, width=16, height=8)


def sampled(frames: list[Frame]) -> list[Second]:
    return list(seconds_of(frames, Sampler(SPEC)))


def levels(second: Second) -> list[int]:
    return [int(level) for level in second.pictures_NHWC[:, 0, 0, 0]]


def test_a_plain_stream_gives_full_seconds_without_flags() -> None:
    seconds = sampled(list(broadcast(3)))
    assert [(s.epoch, s.index) for s in seconds] == [(0, 0), (0, 1), (0, 2)]
    assert [levels(s) for s in seconds] == [[0, 0], [1, 1], [2, 2]]
    assert all(s.video_filled == 1 and s.audio_filled == 1 and not s.flags for s in seconds)


def test_only_the_pictures_that_are_kept_are_converted() -> None:
    frames = list(broadcast(2))
    sampled(frames)
    pictures = [f.picture for f in frames if isinstance(f.picture, FlatPicture)]
    assert sum(p.conversions for p in pictures) == 4


def test_the_first_picture_at_or_after_a_grid_time_is_taken() -> None:
    frames = [picture(0.0, 1), picture(0.4, 2), picture(0.6, 3), picture(0.9, 4), picture(1.0, 5)]
    assert levels(sampled(frames)[0]) == [1, 3]


def test_sound_is_placed_by_time_and_not_by_counting() -> None:
    frames = [picture(0.0), sound(0.25, 1_600), picture(1.0)]
    samples = sampled(frames)[0].samples_S
    assert np.flatnonzero(samples)[[0, -1]].tolist() == [4_000, 5_599]


def test_a_stream_without_sound_says_so_and_is_not_held_up() -> None:
    sampler = Sampler(SPEC)
    done = list(chain.from_iterable(sampler.push(picture(i / 25)) for i in range(26)))
    assert [s.flags for s in done] == [frozenset({flags.NO_AUDIO})]


def test_sound_that_trails_the_pictures_is_waited_for() -> None:
    frames = [f for f in broadcast(4) if f.picture] + [f for f in broadcast(4) if f.samples is not None]
    frames.sort(key=lambda f: (f.pts or 0) + (72_000 if f.samples is not None else 0))  # 0.8 s late in the file
    assert all(s.audio_filled == 1 for s in sampled(frames))


def test_sound_that_dies_is_flagged_and_held_up_for_one_second_only() -> None:
    frames = [f for f in broadcast(6) if f.picture or (f.pts or 0) < 180_000]
    sampler = Sampler(SPEC)
    waits = [(s.index, (f.pts or 0) / 90_000) for f in frames for s in sampler.push(f)]
    assert waits == [(0, 1.0), (1, 2.0), (2, 4.0), (3, 4.0), (4, 5.0)]
    seconds = sampled(frames)
    assert [flags.NO_AUDIO in s.flags for s in seconds] == [False, False, True, True, True, True]


def test_a_hole_in_the_pictures_shows_the_last_one_and_says_so() -> None:
    frames = [f for f in broadcast(5) if not (f.picture and 90_000 <= (f.pts or 0) < 270_000)]
    seconds = sampled(frames)
    assert [levels(s) for s in seconds] == [[0, 0], [0, 0], [0, 0], [3, 3], [4, 4]]
    assert [s.has_video for s in seconds] == [True, False, False, True, True]
    assert flags.NO_VIDEO in seconds[1].flags


def test_a_corrupt_picture_flags_its_second() -> None:
    frames = [picture(0.0), picture(0.5, corrupt=True), picture(1.0)]
    assert [flags.CORRUPT in s.flags for s in sampled(frames)] == [True, False]


def test_a_new_epoch_ends_the_second_and_starts_another_with_the_same_index() -> None:
    frames = [*broadcast(1.5), *broadcast(2, start_s=1000.0)]
    seconds = sampled(frames)
    assert [(s.epoch, s.index) for s in seconds] == [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3)]


def test_samples_out_of_range_are_clipped_and_nonsense_is_silence() -> None:
    wild = np.array([2.0, -3.0, np.nan, np.inf], np.float32)
    samples = sampled([picture(0.0), sound(0.0, wild), picture(1.0)])[0].samples_S
    assert samples[:4].tolist() == [1.0, -1.0, 0.0, 1.0]


@given(st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.integers(-100_000, 2_000_000))), max_size=80))
def test_every_second_comes_exactly_once_and_in_order(events: list[tuple[bool, int | None]]) -> None:
    frames = [
        Frame(pts, BASE, picture=FlatPicture(1)) if is_picture else Frame(pts, BASE, samples=np.zeros(640, np.float32))
        for is_picture, pts in events
    ]
    seconds = sampled(frames)
    for epoch in {s.epoch for s in seconds}:
        indices = [s.index for s in seconds if s.epoch == epoch]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
    assert [s.epoch for s in seconds] == sorted(s.epoch for s in seconds)
