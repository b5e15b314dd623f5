import time
from collections.abc import Callable
from fractions import Fraction

from fakes import FlatPicture, picture

from streamer.ingest.pacing import Lateness, Pacer
from streamer.sources.base import Frame


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def late_at(
    arrivals_s: list[tuple[float, float]], limit_s: float = 1.0, waits: Callable[[float], bool] = lambda at_s: True
) -> list[float]:
    """Return the media times at which pictures should have been left out, of (arrival, media time) pairs.

    `waits` tells whether the source had to be waited for before a picture that came at a moment.
    """
    clock = Clock()
    lateness = Lateness(limit_s, clock)
    out, waited_s, last_s = [], 0.0, 0.0
    for at_s, media_s in arrivals_s:
        clock.now_s = 1000.0 + at_s
        waited_s += (at_s - last_s) / 2 if waits(at_s) else 0.0
        last_s = at_s
        if lateness.of(picture(media_s), waited_s):
            out.append(media_s)
    return out


def test_pictures_without_timestamps_are_paced_too() -> None:
    pacer = Pacer(speed=10.0)
    frames = [Frame(None, Fraction(1, 90_000), picture=FlatPicture(0)) for _ in range(26)]
    started = time.monotonic()
    for frame in frames:
        pacer.wait(frame)
    assert time.monotonic() - started >= 0.099


def test_a_file_is_paced_by_its_own_clock() -> None:
    pacer = Pacer(speed=10.0)
    frames = [Frame(i * 9_000, Fraction(1, 90_000), picture=FlatPicture(0)) for i in range(11)]
    started = time.monotonic()
    arrivals = [pacer.wait(frame).arrived_mono_s - started for frame in frames]
    assert all(arrival >= i * 0.01 - 1e-3 for i, arrival in enumerate(arrivals))
    assert 0.1 <= arrivals[-1] + 1e-3 < 1.0


def test_a_stream_in_step_is_never_late() -> None:
    assert late_at([(k * 0.04, k * 0.04) for k in range(5000)]) == []


def test_a_decoder_that_falls_behind_leaves_pictures_out() -> None:
    slow = [(k * 0.05, k * 0.04) for k in range(1000)]  # 25 pictures take 1.25 s
    late = late_at(slow, waits=lambda at_s: False)
    assert late
    assert 3.0 < late[0] < 8.0, "a second late, for two seconds, at a fifth too slow"


def test_a_stream_that_was_held_up_and_catches_up_loses_nothing() -> None:
    held_up = [(k * 0.04, k * 0.04) for k in range(250)]
    held_up += [(20.0 + k * 0.01, 10.0 + k * 0.04) for k in range(400)]  # ten seconds' silence, then at four times
    assert late_at(held_up) == []


def test_a_stream_that_goes_on_late_is_late_and_the_decoder_is_not_behind() -> None:
    shifted = [(k * 0.04, k * 0.04) for k in range(250)]
    shifted += [(15.0 + k * 0.04, 10.0 + k * 0.04) for k in range(4000)]
    assert late_at(shifted) == []


def test_a_stream_that_goes_on_late_can_still_be_fallen_behind() -> None:
    shifted = [(k * 0.04, k * 0.04) for k in range(250)]
    shifted += [(15.0 + k * 0.04, 10.0 + k * 0.04) for k in range(500)]
    shifted += [(35.0 + k * 0.05, 30.0 + k * 0.04) for k in range(1000)]
    late = late_at(shifted, waits=lambda at_s: at_s < 35.0)
    assert late
    assert late[0] > 30.0


def test_bursts_are_no_lateness() -> None:
    hls = [(float(6 * (k // 150)) + 0.002 * (k % 150), k * 0.04) for k in range(3000)]
    assert late_at(hls, limit_s=7.0) == []
