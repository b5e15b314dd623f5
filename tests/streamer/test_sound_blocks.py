from fractions import Fraction

import av
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.second import SAMPLE_RATE_HZ
from streamer.sources.sound import ToMono

TICKS = Fraction(1, 90_000)


def tone(pts: int | None, samples: int, rate: int, layout: str = "stereo", base: Fraction = TICKS) -> av.AudioFrame:
    channels = av.AudioLayout(layout).nb_channels
    frame = av.AudioFrame.from_ndarray(np.full((1, channels * samples), 0.25, np.float32), "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, pts, base
    return frame


@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]),
    layout=st.sampled_from(["mono", "stereo", "5.1", "7.1"]),
    base=st.sampled_from([TICKS, Fraction(1, 1000), Fraction(1, 12_800)]),
    start_s=st.integers(0, 200_000),
)
def test_sound_keeps_its_clock_and_its_length(rate: int, layout: str, base: Fraction, start_s: int) -> None:
    mono = ToMono()
    blocks = []
    for k in range(20):
        pts = round((start_s + Fraction(k * 1000, rate)) / base)
        blocks += mono.push(tone(pts, 1000, rate, layout, base))
    assert mono.errors == 0
    end = start_s * SAMPLE_RATE_HZ
    for block in blocks:
        assert block.samples is not None
        assert block.time_base == base
        assert block.pts is not None
        start = block.pts * base * SAMPLE_RATE_HZ
        assert abs(start - end) <= 3 + 3 * base * SAMPLE_RATE_HZ
        end = round(start) + len(block.samples)
    assert abs(sum(len(b.samples) for b in blocks if b.samples is not None) / SAMPLE_RATE_HZ - 20_000 / rate) < 0.01
    middle = blocks[len(blocks) // 2].samples
    assert middle is not None
    assert np.all(middle > 0.1)


def test_sound_may_change_at_any_frame() -> None:
    mono = ToMono()
    frames = [
        tone(0, 1024, 48_000),
        tone(1920, 1024, 48_000),
        tone(3840, 1024, 44_100, "mono"),
        tone(5930, 1024, 16_000, "5.1"),
        tone(11_690, 1024, 48_000),
    ]
    blocks = [mono.push(frame) for frame in frames]
    assert mono.errors == 0
    assert all(blocks)
    assert [abs((b[0].pts or 0) - (f.pts or 0)) < 180 for b, f in zip(blocks, frames, strict=True)] == [True] * 5


def test_sound_that_is_mono_at_16_khz_already_is_passed_on() -> None:
    frame = av.AudioFrame.from_ndarray(np.full((1, 800), 0.5, np.float32), "flt", "mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, 90_000, TICKS
    (block,) = ToMono(2**33).push(frame)
    assert (block.pts, block.time_base, block.wraps_at) == (90_000, TICKS, 2**33)
    assert block.samples is not None
    assert block.samples.shape == (800,)


def test_sound_without_a_time_has_none() -> None:
    (block,) = ToMono().push(tone(None, 1024, 48_000))
    assert block.pts is None
    assert block.samples is not None


def test_sound_that_makes_no_sense_is_counted_and_left_out() -> None:
    mono = ToMono()
    assert mono.push(tone(0, 100, 48_000, "22.2")) == []
    assert mono.errors == 1
    assert len(mono.push(tone(0, 1024, 48_000))) == 1
