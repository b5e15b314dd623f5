"""Decoded sound, as the engines want it.

In: PyAV frames of any rate, layout and format, which may change at any frame. Out: blocks at 16 kHz mono. A frame that
makes no sense is counted and left out.
"""

import time
from fractions import Fraction

import av
import numpy as np
from av.audio.resampler import AudioResampler

from engines.second import FLOAT32, SAMPLE_RATE_HZ
from streamer.sources.base import Frame

_MAX_CHANNELS = 16
_MAX_RATE_HZ = 768_000


class ToMono:
    """Resamples frames of sound.

    A block's pts is its frame's, in the frame's own time base, less what the resampler holds back; so a clock that
    wraps still wraps at the same tick.

    Args:
        wraps_at: ticks after which the frames' pts starts again at 0; 0 if it never does.
    """

    def __init__(self, wraps_at: int = 0) -> None:
        self.errors = 0
        self._wraps_at = wraps_at
        self._resampler: AudioResampler | None = None
        self._made_for: tuple[object, ...] = ()

    def push(self, frame: av.AudioFrame) -> list[Frame]:
        """Take a frame; return its blocks, in order."""
        if not (0 < frame.layout.nb_channels <= _MAX_CHANNELS and 0 < frame.sample_rate <= _MAX_RATE_HZ):
            self.errors += 1
            return []
        base, pts = frame.time_base or Fraction(1, frame.sample_rate), frame.pts
        kind = (frame.format.name, frame.layout.name, frame.sample_rate, base)
        if self._resampler is None or kind != self._made_for:
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
            self._made_for = kind
        try:
            blocks = self._resampler.resample(frame)
        except (av.FFmpegError, ValueError):
            self.errors += 1
            self._resampler = None
            return []
        found = []
        for block in blocks:
            at = pts
            if pts is not None and block.pts is not None and block is not frame:
                at = pts - _held_back(pts, base, block.pts)
            found.append(self._block(block, at, base))
        return found

    def _block(self, block: av.AudioFrame, pts: int | None, base: Fraction) -> Frame:
        samples: FLOAT32 = np.frombuffer(memoryview(block.planes[0]), np.float32)[: block.samples]
        return Frame(pts, base, samples=samples, arrived_mono_s=time.monotonic(), wraps_at=self._wraps_at)


def _held_back(pts: int, base: Fraction, block_pts: int) -> int:
    """Return by how much a block, timed in samples, starts before its frame; in the frame's time base."""
    ticks, second = base.numerator * SAMPLE_RATE_HZ, base.denominator
    samples = (2 * pts * ticks + second) // (2 * second) - block_pts
    return (2 * samples * second + ticks) // (2 * ticks)
