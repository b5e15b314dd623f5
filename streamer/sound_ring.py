"""Blocks of sound in, whole seconds of it out.

Promise: a sample lies where its timestamp says, so sound and pictures cannot drift apart; where the clocks differ by a
few hundred millionths, or the container rounds, the seams between blocks are smoothed over.
"""

import numpy as np
from numpy.typing import NDArray

from engines.second import FLOAT32, SAMPLE_RATE_HZ

LEAST_SLACK_US = 1_000_000
MOST_SLACK_US = 4_000_000
"""How far sound may trail the pictures, in media time, before a second goes out without it."""
_SLACK_OVER_LAG_US = 500_000
_FORGOTTEN_US = 100_000
"""By so much a lag that is no longer seen is forgotten with every second."""
_AHEAD_S = 15
"""Seconds of sound kept ahead of the pictures; more is dropped."""
_SEAM = SAMPLE_RATE_HZ * 5 // 1000
"""Samples that two blocks may be apart, or overlap, and still go on from each other."""
_US = 1_000_000


class SoundRing:
    """Sound of the seconds not yet given out, placed by time; and whether to wait for more of it."""

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[FLOAT32, NDArray[np.bool_]]] = {}
        self._end = 0  # of the newest block, in samples since media time 0
        self._tail = np.zeros(0, np.float32)  # its last samples
        self._alive = False
        self._lag_us = 0

    def new_epoch(self) -> None:
        """Forget the sound, but not whether it was late."""
        self._seconds.clear()
        self._end, self._tail = 0, self._tail[:0]

    def add(self, start_us: int, samples: FLOAT32, first_index: int) -> bool:
        """Put a block where it belongs; return whether any of it belongs to second `first_index` or later."""
        if not len(samples):
            return True
        samples = np.minimum(np.maximum(samples, -1), 1)
        position = start_us * SAMPLE_RATE_HZ / _US
        start, apart = round(position), 0
        if len(self._tail) and abs(position - self._end) < 1:
            start = self._end  # timestamps are rounded, too
        elif len(self._tail):
            apart = start - self._end
        if 0 < apart <= _SEAM:
            bridge = np.linspace(self._tail[-1], samples[0], apart + 2, dtype=np.float32)
            self._write(self._end, bridge[1:-1], first_index)
        elif -min(_SEAM, len(self._tail), len(samples)) <= apart < 0:
            rising = np.linspace(0, 1, 2 - apart, dtype=np.float32)[1:-1]
            samples[:-apart] = samples[:-apart] * rising + self._tail[apart:] * (1 - rising)
        self._write(start, samples, first_index)
        self._end, self._tail = start + len(samples), samples[-_SEAM:]
        return self._end > first_index * SAMPLE_RATE_HZ

    def _write(self, start: int, samples: FLOAT32, first_index: int) -> None:
        while len(samples):
            index, offset = divmod(start, SAMPLE_RATE_HZ)
            part = samples[: SAMPLE_RATE_HZ - offset]
            if first_index <= index < first_index + _AHEAD_S:
                if index not in self._seconds:
                    self._seconds[index] = np.zeros(SAMPLE_RATE_HZ, np.float32), np.zeros(SAMPLE_RATE_HZ, np.bool_)
                second, filled = self._seconds[index]
                second[offset : offset + len(part)] = part
                filled[offset : offset + len(part)] = True
            start += len(part)
            samples = samples[len(part) :]

    def note_lag(self, picture_us: int) -> None:
        """Take note of how far the newest block is behind the newest picture; sound that is not too late is alive."""
        lag_us = picture_us - self._end * _US // SAMPLE_RATE_HZ
        if lag_us <= MOST_SLACK_US:
            self._alive = True
            self._lag_us = max(self._lag_us, lag_us)

    def is_settled(self, index: int, picture_us: int) -> bool:
        """Return whether second `index` need not wait for sound any longer, now that the pictures are so far."""
        slack_us = min(max(LEAST_SLACK_US, self._lag_us + _SLACK_OVER_LAG_US), MOST_SLACK_US)
        has_come = self._end >= (index + 1) * SAMPLE_RATE_HZ
        return not self._alive or has_come or picture_us >= (index + 1) * _US + slack_us

    def take(self, index: int, waited: bool) -> tuple[FLOAT32, float]:
        """Give out second `index`, and the share of it that there is; sound that was waited for in vain has died."""
        self._lag_us = max(0, self._lag_us - _FORGOTTEN_US)
        if index not in self._seconds:
            self._alive = self._alive and not waited  # what has died is not waited for again, until it returns
            return np.zeros(SAMPLE_RATE_HZ, np.float32), 0.0
        second, filled = self._seconds.pop(index)
        return np.nan_to_num(second, copy=False), int(np.count_nonzero(filled)) / SAMPLE_RATE_HZ
