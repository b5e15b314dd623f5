import itertools
import pickle
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.second import MediaTime
from streamer.sources.libav import LibavSource
from streamer.timeline import Anchor, Timeline

TS = Fraction(1, 90_000)
WRAP = 2**33
SMALL_WRAP = 60 * 90_000
"""A counter that wraps every minute, so that a test sees many wraps."""


def place(times_s: list[float | None], line: Timeline | None = None) -> list[MediaTime]:
    line = line or Timeline()
    return [line.place_picture(None if t is None else round(t * 90_000), TS) for t in times_s]


def places_us(times_s: list[float | None], line: Timeline | None = None) -> list[tuple[int, int]]:
    return [(m.epoch, m.us) for m in place(times_s, line)]


def as_ffmpeg(tick: int, first: int, wraps_at: int) -> int:
    """What FFmpeg makes of a counter that wraps: it compares with a minute before the first tick, once for all."""
    margin = min(60 * 90_000, wraps_at // 100)
    raw, reference = tick % wraps_at, (first - margin) % wraps_at
    if first % wraps_at > wraps_at - margin:
        return raw - wraps_at if raw >= reference else raw
    return raw + wraps_at if raw < reference else raw


# What a picture's time is


def test_the_first_picture_is_at_zero_wherever_the_stream_starts() -> None:
    assert [m.us for m in place([59_857.46, 59_857.5])] == [0, 40_000]


def test_negative_times_are_times() -> None:
    assert [m.us for m in place([-6.0, -5.96])] == [0, 40_000]


def test_one_bad_timestamp_is_repaired() -> None:
    placed = places_us([0.0, 0.04, 9000.0, 0.12, 0.16])
    assert placed == [(0, 0), (0, 40_000), (0, 80_000), (0, 120_000), (0, 160_000)]


def test_several_bad_timestamps_in_a_row_are_repaired_if_none_goes_on_from_the_other() -> None:
    placed = places_us([0.0, 0.04, 9000.0, 12.0, 70_000.0, 300.0, 0.24, 0.28])
    assert placed == [(0, 40_000 * i) for i in range(8)]


def test_bad_timestamps_between_good_ones_are_no_jump_though_they_go_on_from_each_other() -> None:
    placed = places_us([6.40, 6.44, 4.48, 6.52, 4.52, 6.60, 6.64])
    assert placed == [(0, 40_000 * i) for i in range(7)]


def test_a_jump_that_goes_on_opens_an_epoch_where_the_last_one_ended() -> None:
    placed = places_us([0.0, 0.04, 400.0, 400.04, 400.08])
    assert placed == [(0, 0), (0, 40_000), (0, 80_000), (1, 120_000), (1, 160_000)]


def test_a_jump_of_pictures_that_are_seconds_apart_is_believed_at_the_third() -> None:
    assert [m.epoch for m in place([0.0, 2.0, 4.0, 500.0, 502.0, 504.0, 506.0])] == [0, 0, 0, 0, 0, 1, 1]


def test_a_restart_from_zero_opens_an_epoch() -> None:
    placed = place([50.0, 50.04, 0.0, 0.04, 0.08])
    assert [m.epoch for m in placed] == [0, 0, 0, 1, 1]


def test_a_hole_of_seconds_is_a_gap_in_the_same_epoch() -> None:
    assert places_us([0.0, 0.04, 3.0]) == [(0, 0), (0, 40_000), (0, 3_000_000)]


def test_a_hole_that_is_nothing_new_is_not_doubted() -> None:
    line = Timeline()
    place([0.0, 0.04, 0.08], line)
    assert not line.doubts(round(0.9 * 90_000), TS)
    assert line.doubts(3 * 90_000, TS)
    assert not line.doubts(500 * 90_000, TS)  # a jump is repaired or confirmed, not waited for
    place([3.0], line)
    assert not line.doubts(6 * 90_000, TS)  # one picture every three seconds, it seems


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.floats(0, 20)), max_size=80), st.booleans())
def test_media_time_always_rises(times_s: list[float | None], wraps: bool) -> None:
    line = Timeline()
    wraps_at = SMALL_WRAP if wraps else 0
    placed = [line.place_picture(None if t is None else round(t * 90_000), TS, wraps_at) for t in times_s]
    assert all(a < b and a.us < b.us for a, b in itertools.pairwise(placed))
    assert placed == sorted(placed)
    assert not placed or line.newest == placed[-1]


# Timestamps that are missing


def test_a_missing_timestamp_goes_on_at_the_last_step() -> None:
    assert [m.us for m in place([0.0, 0.02, None, 0.06])] == [0, 20_000, 40_000, 60_000]


@pytest.mark.parametrize("fps", [12.5, 25, 50, 60])
def test_where_most_timestamps_are_missing_the_step_is_that_of_one_picture(fps: float) -> None:
    placed = place([i / fps if i % 5 == 0 else None for i in range(100)])
    assert all(abs(m.us - i * 1e6 / fps) <= 11 for i, m in enumerate(placed) if i >= 20)


def test_without_any_timestamp_the_duration_of_the_pictures_counts() -> None:
    line = Timeline()
    assert [line.place_picture(None, TS, duration=1_800).us for _ in range(4)] == [0, 20_000, 40_000, 60_000]
    assert [m.us for m in place([None, None, None])] == [0, 40_000, 80_000]


def test_a_first_picture_without_a_timestamp_does_not_shift_the_others() -> None:
    assert [m.us for m in place([None, 700.0, 700.02, 700.04])] == [0, 40_000, 60_000, 80_000]


# Timestamps that wrap


@given(
    st.integers(0, SMALL_WRAP - 1),
    st.lists(st.integers(1, 9 * 90_000), min_size=40, max_size=80),
    st.booleans(),
)
def test_a_counter_that_wraps_places_as_if_it_never_did(first: int, steps: list[int], by_ffmpeg: bool) -> None:
    ticks = list(itertools.accumulate([first, *steps * 2]))
    wrapped = [as_ffmpeg(t, first, SMALL_WRAP) if by_ffmpeg else t % SMALL_WRAP for t in ticks]
    line, straight = Timeline(), Timeline()
    for tick, raw in zip(ticks, wrapped, strict=True):
        assert line.place_picture(raw, TS, SMALL_WRAP) == straight.place_picture(tick, TS)
        at = line.place_sound((raw + 90_000) % SMALL_WRAP, TS, 20_000, SMALL_WRAP)
        assert at == straight.place_sound(tick + 90_000, TS, 20_000)
    assert not line.repairs


@pytest.mark.parametrize("by_ffmpeg", [False, True])
def test_five_wraps_of_mpeg_ts_in_six_days_cost_not_one_microsecond(by_ffmpeg: bool) -> None:
    line, first = Timeline(), WRAP - 12_345
    step = 899_991  # just under ten seconds
    for i in range(5 * WRAP // step + 2):
        tick = first + i * step
        at = line.place_picture(as_ffmpeg(tick, first, WRAP) if by_ffmpeg else tick % WRAP, TS, WRAP)
        assert at.us == tick * 100 // 9 - first * 100 // 9
    assert at.epoch == 0
    assert at.us > 5 * 95_443e6


def test_sound_may_wrap_before_and_after_the_pictures() -> None:
    line = Timeline()
    line.place_picture(WRAP - 45_000, TS, WRAP)
    after = line.place_sound(45_000, TS, 20_000, WRAP)
    line.place_picture(0, TS, WRAP)
    before = line.place_sound(WRAP - 9_000, TS, 20_000, WRAP)
    assert (after, before) == (MediaTime(0, 1_000_000), MediaTime(0, 400_000))


def test_a_jump_across_a_wrap_is_a_jump() -> None:
    line = Timeline()
    ticks = [90_000_000, 90_003_600, WRAP + 36_000_000, WRAP + 36_003_600]  # 1000 s, then 400 s as FFmpeg shows it
    assert [line.place_picture(t, TS, WRAP).epoch for t in ticks] == [0, 0, 0, 1]


def test_a_jump_by_half_a_turn_is_a_jump() -> None:
    line = Timeline()
    ticks = [0, 3_600, WRAP // 2 + 4_600, WRAP // 2 + 6_400]
    assert [line.place_picture(t, TS, WRAP).epoch for t in ticks] == [0, 0, 0, 1]


# Going on after another connection


def anchor(stream_s: float | None, reach_s: float = 10.0) -> Anchor:
    return Anchor(3, 60_000_000, None if stream_s is None else round(stream_s * 1e6), round(reach_s * 1e6))


@pytest.mark.parametrize("gone_s", [0.0, 0.04, 7.5, 10.0])
def test_a_stream_whose_clock_went_on_goes_on_by_as_much(gone_s: float) -> None:
    line = Timeline(anchor(500.0))
    assert places_us([500.0 + gone_s], line) == [(3, 60_000_000 + round(gone_s * 1e6))]


@pytest.mark.parametrize("at_s", [499.9, 510.1, 0.0, None])
def test_a_stream_that_is_elsewhere_goes_on_after_one_step(at_s: float | None) -> None:
    assert places_us([at_s], Timeline(anchor(500.0))) == [(3, 60_040_000)]
    assert places_us([500.0], Timeline(anchor(None))) == [(3, 60_040_000)]
    shown_20_ms = Timeline(anchor(None)).place_picture(0, TS, duration=1_800)
    assert shown_20_ms == MediaTime(3, 60_020_000)


def test_an_anchored_clock_may_have_wrapped_meanwhile() -> None:
    line = Timeline(Anchor(1, 5_000_000, (3 * WRAP - 90_000) * 100 // 9, 5_000_000))
    assert line.place_picture(90_000, TS, WRAP) == MediaTime(1, 7_000_000)


def test_a_picture_without_a_timestamp_before_does_not_lose_the_anchor() -> None:
    assert places_us([None, 504.0], Timeline(anchor(500.0))) == [(3, 60_040_000), (3, 64_000_000)]
    assert places_us([None, 500.0], Timeline(anchor(500.0))) == [(3, 60_040_000), (3, 60_080_000)]


def test_the_next_connection_goes_on_from_the_newest_picture() -> None:
    line = Timeline(anchor(500.0))
    place([501.0, 501.04], line)
    assert line.next_anchor(9) == Anchor(4, 61_040_000, 501_040_000, 9)


def test_without_a_picture_the_next_connection_goes_on_from_where_this_one_did() -> None:
    assert Timeline().next_anchor(9) is None
    assert Timeline(anchor(500.0)).next_anchor(9) == anchor(500.0, 9e-6)


def test_without_a_timestamp_the_next_connection_knows_media_time_alone() -> None:
    line = Timeline()
    place([None, None], line)
    assert line.next_anchor(9) == Anchor(1, 40_000, None, 9)


@given(st.lists(st.one_of(st.none(), st.floats(-1e4, 1e4)), max_size=30), st.lists(st.floats(-1e4, 1e4), max_size=30))
def test_media_time_never_falls_over_connections(before_s: list[float | None], after_s: list[float | None]) -> None:
    first = Timeline()
    placed = place(before_s, first)
    placed += place(after_s, Timeline(first.next_anchor(20_000_000)))
    assert all(a < b and a.us <= b.us for a, b in itertools.pairwise(placed))


def test_a_timeline_can_be_pickled_and_goes_on_the_same() -> None:
    line = Timeline(anchor(500.0))
    place([501.0, 501.04, 900.0], line)
    again = pickle.loads(pickle.dumps(line))
    assert place([900.04, 900.08, None], again) == place([900.04, 900.08, None], line)


def test_looking_a_timestamp_up_changes_nothing() -> None:
    line = Timeline()
    assert line.media_us(90_000, TS) is None
    place([1.0, 1.04], line)
    before = pickle.dumps(line)
    assert line.media_us(round(3.0 * 90_000), TS) == 2_000_000
    assert line.media_us(90_000, TS, 90_000 // 2) == 0
    assert line.media_us(None, TS) is None
    assert pickle.dumps(line) == before


# Sound


def test_sound_shares_the_pictures_clock() -> None:
    line = Timeline()
    line.place_picture(90_000, TS)
    at = line.place_sound(8_000, Fraction(1, 16_000), 20_000)
    assert at == MediaTime(0, -500_000)


def test_sound_that_belongs_nowhere_is_left_out() -> None:
    line = Timeline()
    assert line.place_sound(0, TS, 20_000) is None
    line.place_picture(0, TS)
    assert line.place_sound(90_000 * 500, TS, 20_000) is None
    assert line.repairs["sound_elsewhere"] == 1


def test_sound_without_a_timestamp_follows_the_sound_before_it() -> None:
    line = Timeline()
    line.place_picture(0, TS)
    line.place_sound(0, TS, 21_333)
    at = line.place_sound(None, TS, 21_333)
    assert at is not None
    assert at.us == 21_333


def play(line: Timeline, start_s: float, end_s: float, pictures_s: float, sound_s: float) -> list[MediaTime | None]:
    """Play a stretch with its two tracks side by side, each moved by so many seconds; return where the sound is."""
    placed = []
    for i in range(round(start_s * 25), round(end_s * 25)):
        line.place_picture(round((i / 25 + pictures_s) * 90_000), TS, WRAP)
        placed.append(line.place_sound(round((i / 25 + sound_s) * 90_000) % WRAP, TS, 40_000, WRAP))
    return placed


@pytest.mark.parametrize("sound_s", [47_721.9, 90_000.0, 20.0])
def test_sound_on_a_clock_of_its_own_is_taken_to_be_in_step(sound_s: float) -> None:
    line = Timeline()
    placed = play(line, 0, 10, 0, sound_s)
    known = [i for i, at in enumerate(placed) if at is not None]
    assert known == list(range(74, 250))  # three seconds were enough to know
    assert all(at is not None and abs(at.us - i * 40_000) < 2 for i, at in enumerate(placed) if i >= 74)
    assert line.repairs["sound_rebased"] == 1


def test_sound_that_comes_back_to_the_pictures_clock_is_no_longer_shifted() -> None:
    line = Timeline()
    play(line, 0, 10, 0, 500)
    back = play(line, 10, 12, 0, -0.1)
    assert [at.us for at in back if at is not None] == [i * 40_000 - 100_000 for i in range(250, 300)]
    assert set(play(line, 12, 14, 0, 500)) == {None}  # nothing is left of it


@pytest.mark.parametrize("lag_s", [-2.5, -1.0, 1.0, 4.0])
def test_sound_that_crosses_a_discontinuity_before_or_after_the_pictures_is_not_shifted(lag_s: float) -> None:
    line = Timeline()
    for i in range(40 * 25):
        picture_s, sound_s = (t if t < 20 else t + 1000 for t in (i / 25, i / 25 - lag_s))
        line.place_picture(round(picture_s * 90_000), TS)
        at = line.place_sound(round(sound_s * 90_000), TS, 40_000)
        assert at is None or abs(at.us - line.newest.us + round(lag_s * 1e6)) <= 40_000
    assert at is not None
    assert line.repairs["sound_rebased"] == 0


def test_pictures_that_restart_alone_leave_the_sound_in_step() -> None:
    line = Timeline()
    play(line, 0, 20, 1000, 1000)
    play(line, 20, 26, 0, 1000)
    last = play(line, 26, 30, 0, 1000)[-1]
    assert line.repairs["sound_rebased"] == 1
    assert last is not None
    assert abs(last.us - line.newest.us) <= 40_000


def test_sound_is_not_shifted_while_the_pictures_stand_still() -> None:
    line = Timeline()
    line.place_picture(0, TS)
    placed = [line.place_sound(90_000 * 500 + i * 3_600, TS, 40_000) for i in range(250)]
    assert set(placed) == {None}
    assert line.repairs["sound_rebased"] == 0


# Real files


def timeline_of(path: Path) -> tuple[list[MediaTime], Timeline]:
    source, line = LibavSource(str(path)), Timeline()
    pictures = [f for f in source.frames() if f.picture is not None]
    source.close()
    return [line.place_picture(f.pts, f.time_base, f.wraps_at, f.duration) for f in pictures], line


@pytest.mark.parametrize(
    ("name", "pictures", "epochs"),
    [
        ("wrap_once.ts", 300, 1),
        ("wrap_twice.ts", 450, 2),
        ("jump_back_600s.ts", 300, 2),
        ("jump_fwd_26h.ts", 300, 2),
        ("hls_disc/index.m3u8", 340, 2),
        ("missing_pts_4_of_5.ts", 250, 1),
        ("missing_pts_after_first.ts", 250, 1),
    ],
)
def test_pictures_of_odd_files_come_at_their_own_rate(shared: Path, name: str, pictures: int, epochs: int) -> None:
    placed, _ = timeline_of(shared / "data" / "streams" / "made" / name)
    assert len(placed) == pictures
    assert placed[-1].epoch == epochs - 1
    steps = {round((b.us - a.us) / 1000) for a, b in itertools.pairwise(placed)}
    assert steps <= ({40, 33} if name.startswith("hls") else {40})


def test_times_that_go_back_in_avi_are_disorder(shared: Path) -> None:
    placed, line = timeline_of(shared / "data" / "streams" / "made" / "bframes.avi")
    assert line.repairs == {"reordered": 43}
    assert all(abs(m.us - i * 40_000) <= 160_000 for i, m in enumerate(placed))
