import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from engines.second import MediaTime
from streamer.timeline import Timeline

TS = Fraction(1, 90_000)


def place(times_s: list[float | None]) -> list[MediaTime]:
    line = Timeline()
    return [line.place_picture(None if t is None else round(t * 90_000), TS) for t in times_s]


def test_the_first_picture_is_at_zero_wherever_the_stream_starts() -> None:
    assert [m.us for m in place([59_857.46, 59_857.5])] == [0, 40_000]


def test_negative_times_are_times() -> None:
    assert [m.us for m in place([-6.0, -5.96])] == [0, 40_000]


def test_a_missing_timestamp_goes_on_at_the_last_step() -> None:
    assert [m.us for m in place([0.0, 0.02, None, 0.06])] == [0, 20_000, 40_000, 60_000]


def test_one_bad_timestamp_is_repaired() -> None:
    placed = place([0.0, 0.04, 9000.0, 0.12, 0.16])
    assert [(m.epoch, m.us) for m in placed] == [(0, 0), (0, 40_000), (0, 80_000), (0, 120_000), (0, 160_000)]


def test_a_jump_that_goes_on_opens_an_epoch_where_the_last_one_ended() -> None:
    placed = place([0.0, 0.04, 400.0, 400.04, 400.08])
    assert [(m.epoch, m.us) for m in placed] == [(0, 0), (0, 40_000), (0, 80_000), (1, 120_000), (1, 160_000)]


def test_a_restart_from_zero_opens_an_epoch() -> None:
    placed = place([50.0, 50.04, 0.0, 0.04, 0.08])
    assert [m.epoch for m in placed] == [0, 0, 0, 1, 1]


def test_a_hole_of_seconds_is_a_gap_in_the_same_epoch() -> None:
    assert [(m.epoch, m.us) for m in place([0.0, 0.04, 3.0])] == [(0, 0), (0, 40_000), (0, 3_000_000)]


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60))
def test_media_time_always_rises(times_s: list[float | None]) -> None:
    placed = place(times_s)
    assert all(a < b for a, b in itertools.pairwise(placed))
    assert all(a.us < b.us for a, b in itertools.pairwise(placed))


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
