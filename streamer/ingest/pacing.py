"""Frames at the right moment: a recording played at the speed of life, and a stream that decoding falls behind."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from streamer.sources.base import Frame
from streamer.timeline import to_us


class Pacer:
    """Holds frames back until they are due, so that a file plays at `speed` times the speed of life."""

    _RE_ANCHOR_US = 10_000_000
    _STEP_US = 40_000  # of a picture without a timestamp

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._anchor: tuple[float, int] | None = None
        self._last_us = 0
        self.late_s = 0.0  # how far the last picture was behind its due time, wall clock

    def wait(self, frame: Frame) -> Frame:
        """Sleep until the frame is due; return it with its arrival time. Sound goes with the pictures around it."""
        if frame.picture is not None:
            missing = frame.pts is None
            at_us = self._last_us + self._STEP_US if missing else to_us(frame.pts or 0, frame.time_base)
            now = time.monotonic()
            if self._anchor is None or abs(at_us - self._last_us) > self._RE_ANCHOR_US:
                self._anchor = (now, at_us)
            self._last_us = at_us
            start_s, start_us = self._anchor
            due_s = start_s + (at_us - start_us) / 1e6 / self._speed
            self.late_s = now - due_s
            time.sleep(max(0.0, -self.late_s))
        return replace(frame, arrived_mono_s=time.monotonic())


class Lateness:
    """Tells whether decoding falls behind a stream that has its own pace.

    Late alone is not behind: a stream may have been held up on its way. Then the source is waited for, or catches up.

    Args:
        limit_s: how far behind the best of the last minute counts as late.
        clock: the monotonic clock.
    """

    _PATIENCE_S = 2.0
    _WINDOW_S = 60.0
    _IDLE = 0.05
    """Share of the time that a decoder waits for packets which is not behind."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self._leads: deque[tuple[float, float]] = deque()  # when, and how far media time was ahead of it; one a second
        self._late: tuple[float, float, float] | None = None  # since when, how late then, and waited until then

    def of(self, frame: Frame, waited_s: float) -> bool:
        """Take a picture, and how long the source has been waited for in all; return whether to leave pictures out."""
        if frame.pts is None:
            return False
        now_s = self._clock()
        late_s = self._late_s(now_s, float(frame.pts * frame.time_base) - now_s)
        if late_s <= self._limit_s:
            self._late = None
            return False
        since_s, then_s, before_s = self._late = self._late or (now_s, late_s, waited_s)
        if now_s - since_s < self._PATIENCE_S:
            return False
        self._late = None
        if waited_s - before_s > self._IDLE * (now_s - since_s):
            self._leads.clear()  # nothing is left to be decoded: the stream itself is later than it was
            return False
        return late_s > then_s - self._PATIENCE_S / 4

    def _late_s(self, now_s: float, lead_s: float) -> float:
        """Return how far behind the best of the last minute a picture is."""
        if self._leads and abs(lead_s - self._leads[-1][1]) > self._WINDOW_S:
            self._leads.clear()  # the stream's clock has stepped
        if not self._leads or now_s - self._leads[-1][0] >= 1.0:
            self._leads.append((now_s, lead_s))
            while now_s - self._leads[0][0] > self._WINDOW_S:
                self._leads.popleft()
        return max(lead for _, lead in self._leads) - lead_s
