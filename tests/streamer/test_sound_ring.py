from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from fakes import BASE, broadcast, picture, sound

from engines.second import FLOAT32, Second
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import Frame, PictureSpec

SPEC = PictureSpec(rate=2, width=16, height=8)


def sampled(frames: list[Frame]) -> list[Second]:
    return list(seconds_of(frames, Sampler(SPEC)))


# Seams between blocks


def tone(at_s: FLOAT32 | float, length: int = 320) -> FLOAT32:
    """5 Hz, as it is from a moment on: whatever is placed rightly goes on smoothly."""
    return np.sin(2 * np.pi * 5 * (at_s + np.arange(length) / 16_000)).astype(np.float32)


def heard(blocks: Iterable[Frame], duration_s: int) -> list[Second]:
    """Return what becomes of sound beside a plain picture."""
    pictures = [picture(i / 5) for i in range(duration_s * 5 + 10)]
    frames = sorted([*pictures, *blocks], key=lambda f: (f.pts or 0) * float(f.time_base))
    return [s for s in sampled(frames) if s.index < duration_s]


def worst(seconds: list[Second]) -> tuple[float, float]:
    """Return how far sound is from where it belongs, in seconds, and the largest step, in steps of the tone."""
    samples = np.concatenate([s.samples_S for s in seconds])
    slope = 2 * np.pi * 5
    off = np.abs(samples - tone(0.0, len(samples))).max() / slope
    return float(off), float(np.abs(np.diff(samples)).max() / (slope / 16_000))


@pytest.mark.parametrize("ppm", [200, -200])
def test_clocks_that_drift_apart_are_held_together(ppm: int) -> None:
    """After six minutes at 200 ppm sound would be 72 ms away."""
    starts_s = [i * 0.04 * (1 + ppm / 1e6) for i in range(370 * 25)]
    blocks = [Frame(round(at * 90_000), BASE, samples=tone(at, 640)) for at in starts_s]
    seconds = heard(blocks, 360)
    off_s, step = worst(seconds)
    assert off_s < 0.000_15
    assert step < 2.5
    assert all(s.audio_filled == 1 for s in seconds)


def test_timestamps_in_milliseconds_do_not_click() -> None:
    starts_s = [i * 1024 / 48_000 for i in range(30 * 47)]
    blocks = [
        Frame(round(at * 1000), Fraction(1, 1000), samples=tone(at, 341 + (i % 3 > 0))) for i, at in enumerate(starts_s)
    ]
    seconds = heard(blocks, 29)
    off_s, step = worst(seconds)
    assert off_s < 0.001
    assert step < 8  # 22 if they were cut hard
    assert all(s.audio_filled == 1 for s in seconds)


def test_timestamps_that_are_rounded_move_nothing() -> None:
    pieces = np.array_split(tone(0.0, 16_000 * 10), 431)
    starts = np.cumsum([0, *map(len, pieces)])
    blocks = [Frame(round((at + 0.5) * 5.625), BASE, samples=p) for at, p in zip(starts, pieces, strict=False)]
    whole = np.concatenate([s.samples_S for s in heard(blocks, 9)])
    assert whole[1:].tobytes() == tone(0.0, 16_000 * 9)[: len(whole) - 1].tobytes()


def test_a_hole_of_five_milliseconds_is_bridged_and_a_longer_one_is_silence() -> None:
    low, high = np.full(1_600, 0.2, np.float32), np.full(1_600, 0.6, np.float32)
    bridged, silent = (
        sampled([picture(0.0), sound(0.0, low), sound(at, high), picture(1.0)])[0] for at in (0.105, 0.106)
    )
    assert np.all(np.diff(bridged.samples_S[1_590:1_690]) >= 0)
    assert bridged.audio_filled == 3_280 / 16_000
    assert np.count_nonzero(silent.samples_S[1_600:1_696]) == 0
    assert silent.audio_filled == 3_200 / 16_000


def test_of_blocks_that_overlap_the_later_one_stands() -> None:
    low, high = np.full(1_600, 0.2, np.float32), np.full(1_600, 0.6, np.float32)
    little, much = (
        sampled([picture(0.0), sound(0.0, low), sound(at, high), picture(1.0)])[0].samples_S for at in (0.095, 0.05)
    )
    assert np.all(np.diff(little[1_500:1_700]) >= 0)
    assert np.abs(np.diff(little[1_500:1_700])).max() < 0.01
    assert little[1_600] == much[800] == np.float32(0.6)


# Sound that is late


def late(lag_s: float, duration_s: float) -> list[Frame]:
    """A broadcast whose sound comes so much later than its pictures."""
    return sorted(broadcast(duration_s), key=lambda f: (f.pts or 0) + (lag_s * 90_000 if f.samples is not None else 0))


@pytest.mark.parametrize("lag_s", [1.5, 2.5, 3.9])
def test_sound_up_to_four_seconds_late_is_waited_for_once_that_is_known(lag_s: float) -> None:
    filled = [s.audio_filled for s in sampled(late(lag_s, 15))]
    assert filled == [0.0] * int(lag_s) + [1.0] * (15 - int(lag_s))


def test_sound_that_is_too_late_holds_nothing_up() -> None:
    sampler = Sampler(SPEC)
    waits = [(s.index, (f.pts or 0) / 90_000) for f in late(5.0, 12) for s in sampler.push(f)]
    assert waits == [(i, i + 1.0) for i in range(11)]


def test_late_sound_that_dies_is_waited_for_once_and_taken_again_when_it_returns() -> None:
    frames = [f for f in late(2.5, 24) if f.picture or not 6 <= (f.pts or 0) / 90_000 < 12]
    sampler = Sampler(SPEC)
    done = [((f.pts or 0) / 90_000, s) for f in frames for s in sampler.push(f)]
    assert [s.audio_filled for _, s in done][2:6] == [1.0] * 4
    assert not any(s.has_audio for _, s in done[6:12])
    assert all(s.audio_filled == 1 for _, s in done[15:])
    given_up_s = done[6][0]
    assert 9.5 <= given_up_s <= 10.5
    assert [at_s for at_s, s in done if s.index in (11, 12, 13)] == [12.0, 13.0, 14.0]


def test_a_late_track_is_still_known_to_be_late_after_a_discontinuity() -> None:
    frames = [*late(2.5, 8), *(replace(f, pts=(f.pts or 0) + 90_000_000) for f in late(2.5, 8))]
    seconds = sampled(frames)
    assert [s.audio_filled for s in seconds if s.epoch == 1 and s.index > 8] == [1.0] * 7
