"""The unit of work of the middle: one second of media.

Axis suffixes here and below: N pictures a second, H W picture, S samples, R rows a second, L window rows,
D width, C labels.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000

UINT8 = NDArray[np.uint8]
FLOAT32 = NDArray[np.float32]

# Flags a Second, and so a spot, can carry.
NO_AUDIO = "no-audio"
PARTIAL_AUDIO = "partial-audio"
NO_VIDEO = "no-video"
PARTIAL_VIDEO = "partial-video"
CORRUPT = "corrupt"
GAP = "gap"

FORCED = "forced"
"""Only of spots: the deadline did not wait until the rule had settled it."""
RESTARTED = "restarted"
"""Only of retracted spots: the run that had said them provisionally ended before it could say more."""


@dataclass(frozen=True, slots=True, order=True)
class MediaTime:
    """A place on the stream's own clock.

    Attributes:
        epoch: unbroken stretch of media time, counted from 0.
        us: microseconds since the stream's first picture; keeps rising across epochs.
    """

    epoch: int
    us: int

    @property
    def seconds(self) -> float:
        """Seconds since the stream's first picture."""
        return self.us / 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Second:
    """Media second `index`, that is [index, index + 1), as the engines want it.

    Attributes:
        epoch: the epoch it belongs to. Two epochs may share one index: where one ends, the next begins.
        index: whole seconds since the stream's first picture.
        pictures_NHWC: uint8 RGB (N, H, W, 3) at the bundle's picture rate and size.
        samples_S: float32 mono (16000,) in [-1, 1]; zero where there is no sound.
        video_filled: share of the pictures that are new in their slot, 0 to 1.
        audio_filled: share of the samples that were received, 0 to 1.
        flags: what was wrong with it, from the constants of this module.
        arrived_mono_s: monotonic clock when its last part arrived; for latency only, never for decisions.
        utc_us: wall clock at its start, in microseconds since 1970; never for decisions. None if nobody knows.
        clock: who says so: rtcp, prft, hls or arrival. None if nobody knows.
        stream_us: the stream's own clock at its start, in microseconds, its turns counted; never for decisions. None if
            nobody knows.
    """

    epoch: int
    index: int
    pictures_NHWC: UINT8
    samples_S: FLOAT32
    video_filled: float = 1.0
    audio_filled: float = 1.0
    flags: frozenset[str] = field(default_factory=frozenset)
    arrived_mono_s: float = 0.0
    utc_us: int | None = None
    clock: str | None = None
    stream_us: int | None = None

    @property
    def has_video(self) -> bool:
        """Whether at least one new picture fell into this second."""
        return self.video_filled > 0

    @property
    def has_audio(self) -> bool:
        """Whether at least half of its sound was received."""
        return self.audio_filled >= 0.5
