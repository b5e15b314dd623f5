import pickle
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from fakes import BASE, FlatPicture, broadcast, picture, sound
from hypothesis import given
from hypothesis import strategies as st

from engines import second as flags
from engines.second import Second
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import Frame, PictureSpec, Wall
from streamer.sources.libav import LibavSource
from streamer.timeline import Anchor

SPEC = PictureSpec(rate=2, width=16, height=8)
Events = list[tuple[bool, int | None]]


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


events = st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.integers(-100_000, 2_000_000))), max_size=80)


def frames_of(events: Events) -> list[Frame]:
    """Pictures and blocks of sound, each unlike the others."""
    return [
        Frame(pts, BASE, FlatPicture(i)) if is_picture else Frame(pts, BASE, samples=np.full(640, i / 100, np.float32))
        for i, (is_picture, pts) in enumerate(events)
    ]


def same(one: Iterable[Second], other: Iterable[Second]) -> bool:
    def content(second: Second) -> tuple[object, ...]:
        pictures, samples = second.pictures_NHWC.tobytes(), second.samples_S.tobytes()
        return second.epoch, second.index, pictures, samples, second.video_filled, second.audio_filled, second.flags

    return [content(s) for s in one] == [content(s) for s in other]


@given(events)
def test_every_second_comes_exactly_once_and_in_order(events: Events) -> None:
    seconds = sampled(frames_of(events))
    for epoch in {s.epoch for s in seconds}:
        indices = [s.index for s in seconds if s.epoch == epoch]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
    assert [s.epoch for s in seconds] == sorted(s.epoch for s in seconds)


# A hole that may be one bad timestamp


def test_a_picture_far_ahead_that_the_next_one_does_not_bear_out_is_repaired() -> None:
    frames = [f if f.picture is None or f.pts != 180_000 else picture(8.3, 2) for f in broadcast(4)]
    sampler = Sampler(SPEC)
    seconds = list(seconds_of(frames, sampler))
    assert [levels(s) for s in seconds] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert all(not s.flags for s in seconds)
    assert sampler.timeline.repairs == {"outlier": 1}


def test_a_hole_that_the_next_picture_bears_out_is_a_hole() -> None:
    frames = [f for f in broadcast(8) if not 180_000 <= (f.pts or 0) < 540_000]
    seconds = sampled(frames)
    assert [levels(s) for s in seconds] == [[0, 0], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [6, 6], [7, 7]]
    assert [s.index for s in seconds if s.flags] == [2, 3, 4, 5]
    assert levels(sampled([picture(0.0, 1), picture(3.5, 2)])[3]) == [1, 2]  # at the end there is no next one


# Sound on a clock of its own


def test_sound_on_a_clock_of_its_own_is_heard_after_a_few_seconds() -> None:
    frames = [f if f.picture else replace(f, pts=(f.pts or 0) + 4_000_000_000) for f in broadcast(12)]
    sampler = Sampler(SPEC)
    seconds = list(seconds_of(frames, sampler))
    assert [s.has_audio for s in seconds[:2]] == [False, False]
    assert [s.audio_filled > 0.99 for s in seconds[3:11]] == [True] * 8
    assert sampler.timeline.repairs["sound_rebased"] == 1


@pytest.mark.parametrize("early_s", [0.2, 1.0, 2.0])
def test_sound_that_crosses_a_discontinuity_first_is_kept_for_it(early_s: float) -> None:
    def crossing(frame: Frame) -> Frame:
        at_s = (frame.pts or 0) / 90_000 + (0 if frame.picture else early_s)
        return replace(frame, pts=round((at_s + 500 if at_s >= 8 else at_s) * 90_000))

    sampler = Sampler(SPEC)
    seconds = list(seconds_of(map(crossing, broadcast(16)), sampler))
    assert sampler.timeline.repairs["sound_rebased"] == 0
    assert [s.audio_filled > 0.99 for s in seconds if s.epoch == 1] == [True] * 8


# Wall clock


def test_a_second_knows_the_wall_clock_at_its_start_from_the_first_picture_that_does() -> None:
    wall = Wall(1_700_000_000_250_000, "rtcp")
    later = replace(wall, utc_us=wall.utc_us + 999)
    frames = [
        picture(0.0),
        picture(0.5),
        picture(1.0),
        picture(1.25, wall=wall),
        picture(1.5, wall=later),
        picture(2.0),
    ]
    seconds = sampled(frames)
    assert [(s.utc_us, s.clock) for s in seconds] == [(None, None), (1_700_000_000_000_000, "rtcp"), (None, None)]


# Going on, and beginning in the middle


def test_an_anchored_stream_begins_with_the_second_its_first_picture_is_in() -> None:
    anchor = Anchor(epoch=2, media_us=70_500_000, stream_us=10_000_000, reach_us=20_000_000)
    seconds = list(seconds_of(broadcast(2.5, start_s=14.0), Sampler(SPEC, anchor)))
    assert [(s.epoch, s.index) for s in seconds] == [(2, 74), (2, 75), (2, 76)]
    assert levels(seconds[0]) == [0, 0]


@given(events, st.integers(0, 12))
def test_seconds_from_the_middle_are_those_of_a_run_from_the_start(events: Events, from_s: int) -> None:
    whole = [s for s in sampled(frames_of(events)) if s.index >= from_s]
    assert same(seconds_of(frames_of(events), Sampler(SPEC, from_s=from_s)), whole)


def test_a_recording_entered_in_its_middle_gives_the_seconds_of_a_run_from_the_start() -> None:
    frames = [f for f in broadcast(20, start_s=3.0) if f.picture is None or (f.pts or 0) % 5 == 0]
    landed = [f for f in frames if (f.pts or 0) >= 11.2 * 90_000]
    anchor = Anchor(epoch=0, media_us=0, stream_us=3_000_000, reach_us=2**62)
    assert same(seconds_of(landed, Sampler(SPEC, anchor, 10)), sampled(frames)[10:])


def test_pictures_before_the_middle_are_not_converted() -> None:
    frames = list(broadcast(10))
    list(seconds_of(frames, Sampler(SPEC, from_s=8)))
    shown = [(f.pts or 0) / 90_000 for f in frames if isinstance(f.picture, FlatPicture) and f.picture.conversions]
    assert shown == [8.0, 8.52, 9.0, 9.52]


def test_a_picture_from_before_the_middle_is_shown_where_a_run_from_the_start_would() -> None:
    frames = [picture(0.0, 1), picture(0.6, 2), picture(0.7, 3), picture(2.6, 4), picture(2.7, 5)]
    seconds = list(seconds_of(frames, Sampler(SPEC, from_s=1)))
    assert [levels(s) for s in seconds] == [[2, 2], [2, 4]]


# For hours


def test_two_hours_of_silence_under_slow_pictures_keep_memory_flat() -> None:
    sampler, silence = Sampler(SPEC), np.zeros(8_000, np.float32)
    held, count = [], 0
    for i in range(3_600):
        frames = [picture(2.0 * i), *(sound(2.0 * i + k / 2, silence) for k in range(4))]
        seconds = [s for f in frames for s in sampler.push(f)]
        count += len(seconds)
        assert all(s.audio_filled == 1 and not s.samples_S.any() for s in seconds)
        if i % 1_200 == 600:
            held.append(len(pickle.dumps(sampler)))
    assert count == 7_198
    assert max(held) - min(held) < 1_000


def test_hours_of_sound_that_belongs_nowhere_keep_memory_flat() -> None:
    sampler, block = Sampler(SPEC), np.zeros(800, np.float32)
    sampler.push(picture(0.0))
    held = []
    for i in range(3_000):
        sampler.push(sound(500 + 4 * i, block.copy()))
        held.append(len(pickle.dumps(sampler)) if i % 1_000 == 999 else 0)
    assert held[2_999] - held[999] < 1_000


# Real files


def watched(shared: Path, name: str) -> tuple[list[Second], Counter[str]]:
    source, sampler = LibavSource(str(shared / "data" / "streams" / "made" / name)), Sampler(SPEC)
    seconds = list(seconds_of(source.frames(), sampler))
    source.close()
    return seconds, sampler.timeline.repairs


@pytest.mark.parametrize(
    ("name", "epochs", "indices"),
    [
        ("wrap_once.ts", 1, range(12)),
        ("jump_back_600s.ts", 2, range(12)),
        ("jump_fwd_26h.ts", 2, range(12)),
        ("jump_fwd_3s.ts", 1, range(15)),
        ("restart_640x360p25_480x270p30.ts", 2, range(12)),
        ("hls_disc/index.m3u8", 2, range(12)),
        ("missing_pts_4_of_5.ts", 1, range(10)),
        ("missing_pts_after_first.ts", 1, range(10)),
        ("damage_1pct.ts", 1, range(10)),
        ("lost_1s5_burst.ts", 1, range(10)),
        ("bframes.avi", 1, range(5)),
    ],
)
def test_odd_files_last_as_long_as_they_should(shared: Path, name: str, epochs: int, indices: range) -> None:
    seconds, _ = watched(shared, name)
    assert {s.epoch for s in seconds} == set(range(epochs))
    assert sorted({s.index for s in seconds}) == list(indices)


def test_sound_is_there_on_both_sides_of_a_restart(shared: Path) -> None:
    seconds, repairs = watched(shared, "wrap_twice.ts")
    full = [s for s in seconds if (s.epoch, s.index) != (0, 8)]  # one picture, until the restart is sure
    assert all(s.audio_filled > 0.99 for s in full[:-1])
    assert repairs["sound_rebased"] == 0


def test_garbage_after_a_change_of_codec_is_survived(shared: Path) -> None:
    seconds, _ = watched(shared, "restart_h264_to_mpeg2.ts")
    assert all(s.has_video and s.audio_filled > 0.99 for s in seconds[:5])
    assert seconds[-1].index < 12


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("audio_muxed_2s5_late.ts", {0, 1}),
        ("audio_starts_at_5s.ts", {0, 1, 2, 3, 4}),
        ("audio_gap_4_8.ts", {4, 5, 6, 7}),
        ("audio_48k_stereo_to_44k1_mono.ts", set()),
        ("audio_51_ac3.ts", set()),
    ],
)
def test_sound_is_taken_whenever_it_is_there(shared: Path, name: str, without: set[int]) -> None:
    seconds, _ = watched(shared, name)
    assert {s.index for s in seconds[:-1] if s.audio_filled < 0.9} == without


@pytest.mark.parametrize("name", ["plain.ts", "audio_gap_4_8.ts", "audio_muxed_2s5_late.ts", "audio_starts_at_5s.ts"])
def test_sound_is_in_step_wherever_it_begins(shared: Path, name: str) -> None:
    """These files have a tone of 60 ms at each full second of their pictures."""
    seconds, _ = watched(shared, name)
    wave = np.exp(2j * np.pi * 1000 * np.arange(960) / 16_000)
    for second in seconds[9:-1]:
        strength = np.abs(np.convolve(np.concatenate([np.zeros(320), second.samples_S]), wave, "valid"))
        assert abs(int(strength.argmax()) - 320) < 80


def test_each_second_says_where_it_is_on_the_streams_own_clock() -> None:
    frames = [*(f for f in broadcast(3, start_s=100.5) if f.picture), *(picture(7.0 + i / 25) for i in range(50))]
    seconds = sampled(frames)
    assert [s.stream_us for s in seconds if s.epoch == 0][:3] == [100_500_000, 101_500_000, 102_500_000]
    later = [s for s in seconds if s.epoch == 1]
    assert later[0].stream_us is not None
    assert later[0].stream_us + (3 - later[0].index) * 1_000_000 == pytest.approx(7_000_000, abs=200_000)
