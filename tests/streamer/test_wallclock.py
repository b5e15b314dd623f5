from datetime import UTC, datetime

from fakes import second

from streamer.wallclock import WallClock

NOON = datetime(2026, 5, 30, 12, 0, 0, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000


def test_a_moment_is_told_from_the_second_it_fell_in() -> None:
    wall = WallClock()
    for k in range(10):
        wall.note(second(k, utc_us=NOON_US + k * 1_000_000, clock="rtcp"))
    assert wall.at(0, 3.25) == (NOON.replace(second=3, microsecond=250_000), "rtcp")


def test_the_newest_second_at_or_before_tells_of_moments_in_a_gap() -> None:
    wall = WallClock()
    wall.note(second(0, utc_us=NOON_US, clock="hls"))
    assert wall.at(0, 2.5) == (NOON.replace(second=2, microsecond=500_000), "hls")


def test_what_is_placed_just_before_an_epoch_is_told_from_its_first_second() -> None:
    wall = WallClock()
    wall.note(second(7, utc_us=NOON_US, clock="rtcp"))
    wall.note(second(8, utc_us=NOON_US + 1_000_000, clock="rtcp"))
    assert wall.at(0, 6.5) == (NOON.replace(hour=11, minute=59, second=59, microsecond=500_000), "rtcp")


def test_another_epoch_has_another_clock() -> None:
    wall = WallClock()
    wall.note(second(5, utc_us=NOON_US, clock="prft"))
    wall.note(second(5, epoch=1, utc_us=NOON_US + 60_000_000, clock="arrival"))
    assert wall.at(0, 5.0) == (NOON, "prft")
    assert wall.at(1, 5.0) == (NOON.replace(minute=1), "arrival")
    assert wall.at(2, 5.0) == (None, None)


def test_a_recording_without_a_clock_has_none() -> None:
    wall = WallClock()
    wall.note(second(0))
    assert wall.at(0, 0.5) == (None, None)


def test_the_streams_own_timestamps_are_told_beside_the_clock() -> None:
    wall = WallClock()
    wall.note(second(4, stream_us=10_000_000))
    wall.note(second(5, epoch=1, stream_us=50_000_000))
    assert wall.pts_at(0, 4.5) == 10_500_000 * 9 // 100
    assert wall.pts_at(1, 5.0) == 4_500_000
    assert wall.pts_at(2, 5.0) is None
    assert wall.at(0, 4.5) == (None, None)
