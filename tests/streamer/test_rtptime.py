"""Two RTP clocks with random origins, and the reports that tie them together."""

from hypothesis import given
from hypothesis import strategies as st

from streamer.sources.rtptime import PICTURE_RATE_HZ, WRAPS_AT, StreamClock

NTP_1900_TO_1970_S = 2_208_988_800
TAKEN_UTC_S = 1_760_000_000
origins = st.integers(0, WRAPS_AT - 1)


class World:
    """A sender whose clocks start anywhere, and the clock that receives it."""

    def __init__(self, pictures_from: int, sound_from: int, *, late_s: float = 0.0) -> None:
        self._from = {90_000: pictures_from, 48_000: sound_from}
        self._late_us = round(late_s * 1e6)
        self.now_s = 0.0
        self.clock = StreamClock(utc_us=lambda: round((TAKEN_UTC_S + self.now_s + 0.05) * 1e6))

    def rtp(self, rate_hz: int, at_s: float) -> int:
        return (self._from[rate_hz] + round(at_s * rate_hz)) % WRAPS_AT

    def ntp(self, at_s: float) -> int:
        return round((NTP_1900_TO_1970_S + TAKEN_UTC_S + at_s) * 2**32)

    def run(self, until_s: float, *, step_s: float = 0.02, drift: float = 0.0) -> float:
        """Receive until then; return by how much sound was off the pictures at last."""
        off_s = 0.0
        while self.now_s < until_s:
            self.now_s += step_s
            self.clock.picture(self.rtp(90_000, self.now_s), round(self.now_s * 1e6))
            off_s = self.sound(drift)
        return off_s

    def sound(self, drift: float = 0.0) -> float:
        own_s = self.now_s * (1 + drift)
        ticks = self.clock.sound(self.rtp(48_000, own_s), 48_000, round(self.now_s * 1e6) + self._late_us)
        assert ticks is not None
        placed = self.clock.on_pictures_clock(ticks)
        assert 0 <= placed < WRAPS_AT
        off = placed - self.rtp(90_000, self.now_s)
        return ((off + WRAPS_AT // 2) % WRAPS_AT - WRAPS_AT // 2) / PICTURE_RATE_HZ

    def report(self, drift: float = 0.0, noise_s: float = 0.0) -> None:
        at_s = self.now_s
        self.clock.report_on_pictures(self.ntp(at_s), self.rtp(90_000, at_s))
        self.clock.report_on_sound(self.ntp(at_s + noise_s), self.rtp(48_000, at_s * (1 + drift)))


@given(origins, origins, st.floats(0, 2))
def test_sound_is_placed_by_its_arrival_until_both_tracks_have_reported(p: int, s: int, late_s: float) -> None:
    world = World(p, s, late_s=late_s)
    assert abs(world.run(1) - late_s) < 0.001
    world.clock.report_on_pictures(world.ntp(1), world.rtp(90_000, 1))
    assert abs(world.run(2) - late_s) < 0.001
    world.clock.report_on_sound(world.ntp(1), world.rtp(48_000, 1))
    assert abs(world.run(3)) < 0.001


@given(origins, origins)
def test_pictures_are_told_when_they_were_taken(p: int, s: int) -> None:
    world = World(p, s)
    assert world.clock.picture(world.rtp(90_000, 0), 0) is None
    world.report()
    wall = world.clock.picture(world.rtp(90_000, 7.5), 0)
    assert wall is not None
    assert wall.clock == "rtcp"
    assert abs(wall.utc_us - (TAKEN_UTC_S + 7.5) * 1e6) < 100


def test_a_sender_that_reports_its_uptime_keeps_sound_in_step_and_gives_no_wall_clock() -> None:
    world = World(5, 7, late_s=0.5)
    world.run(1)
    world.clock.report_on_pictures(100 << 32, world.rtp(90_000, 1))
    world.clock.report_on_sound(100 << 32, world.rtp(48_000, 1))
    assert abs(world.run(2)) < 0.001
    assert world.clock.picture(world.rtp(90_000, 2), 0) is None


@given(st.integers(1, WRAPS_AT - 1))
def test_a_report_that_cannot_be_of_this_track_is_ignored(off: int) -> None:
    world = World(0, 0)
    world.run(0.1)
    far = 61 * 90_000 < off < WRAPS_AT - 61 * 90_000
    world.clock.report_on_pictures(world.ntp(0.1), (world.rtp(90_000, 0.1) + off) % WRAPS_AT)
    world.clock.report_on_pictures(0, world.rtp(90_000, 0.1))
    assert (world.clock.picture(world.rtp(90_000, 0.2), 0) is None) or not far


def test_single_reports_that_are_off_do_not_move_sound_again() -> None:
    world = World(1, 2)
    world.run(1)
    world.report()
    for second in range(2, 40):
        world.report(noise_s=0.3 if second % 4 == 0 else 0.0)
        assert abs(world.run(second)) < 0.001


def test_clocks_that_drift_apart_are_followed() -> None:
    world, drift = World(WRAPS_AT - 1000, 3), 200e-6
    for second in range(1, 1200, 1):
        world.report(drift)
        assert abs(world.run(second, step_s=0.2, drift=drift)) < 0.06


def test_a_change_of_rate_starts_sound_anew() -> None:
    world = World(1, 2, late_s=0.2)
    world.run(1)
    ticks = world.clock.sound(12345, 8_000, round(1.3e6))
    assert ticks is not None
    assert abs(world.clock.on_pictures_clock(ticks) - world.rtp(90_000, 1.3)) < 2


def test_sound_before_the_first_picture_has_no_place() -> None:
    assert StreamClock().sound(1, 48_000, 0) is None
