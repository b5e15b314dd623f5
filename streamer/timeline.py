"""PTS and time base in, media time out.

Promise: media time of pictures never falls and never repeats; sound shares the pictures' clock, so the two stay in
step. A single bad timestamp is repaired; a jump that the next picture confirms opens a new epoch, which starts
where the last one ended. Nothing here looks at a wall clock.
"""

from collections import Counter
from fractions import Fraction

from engines.second import MediaTime

LONGEST_HOLE_US = 10_000_000
"""A longer step forward is a discontinuity; a shorter one is a gap in the same epoch."""
REORDER_US = 500_000
"""A shorter step back is disorder to be repaired (containers without PTS); a longer one is a discontinuity."""
_DEFAULT_STEP_US = 40_000
_LONGEST_STEP_US = 1_000_000


def to_us(pts: int, time_base: Fraction) -> int:
    """Return a timestamp in microseconds, rounded down, exactly."""
    return pts * time_base.numerator * 1_000_000 // time_base.denominator


class Timeline:
    """The one clock of a stream; pictures are its master, sound follows."""

    def __init__(self) -> None:
        self.repairs: Counter[str] = Counter()
        self._epoch = 0
        self._offset_us: int | None = None  # media time = stream time + offset
        self._last_stream_us = 0
        self._last_media_us = 0
        self._step_us = _DEFAULT_STEP_US
        self._suspect_us: int | None = None  # stream time of an unconfirmed jump
        self._sound_end_us: int | None = None

    def place_picture(self, pts: int | None, time_base: Fraction) -> MediaTime:
        """Return when a picture is; the stream's first one is at 0."""
        if self._offset_us is None:
            first_us = to_us(pts, time_base) if pts is not None else 0
            self._offset_us = -first_us
            self._last_stream_us = first_us
            return MediaTime(self._epoch, 0)
        if pts is None:
            self.repairs["missing_pts"] += 1
            return self._advance(self._last_stream_us + self._step_us)
        stream_us = to_us(pts, time_base)
        step_us = stream_us - self._last_stream_us
        if -REORDER_US < step_us <= 0:
            self.repairs["reordered"] += 1
            return self._advance(self._last_stream_us + 1)
        if 0 < step_us <= LONGEST_HOLE_US:
            self._suspect_us = None
            if step_us <= _LONGEST_STEP_US:
                self._step_us = step_us
            return self._advance(stream_us)
        return self._jump(stream_us)

    def _advance(self, stream_us: int) -> MediaTime:
        assert self._offset_us is not None
        self._last_stream_us = stream_us
        self._last_media_us = stream_us + self._offset_us
        return MediaTime(self._epoch, self._last_media_us)

    def _jump(self, stream_us: int) -> MediaTime:
        """Repair a jump, unless it goes on from the jump before it: then the stream really is elsewhere."""
        suspect_us, self._suspect_us = self._suspect_us, stream_us
        if suspect_us is None or not 0 < stream_us - suspect_us <= _LONGEST_STEP_US:
            self.repairs["outlier"] += 1
            return self._advance(self._last_stream_us + self._step_us)
        self.repairs["discontinuity"] += 1
        self._epoch += 1
        self._offset_us = self._last_media_us + self._step_us - stream_us
        self._suspect_us = None
        self._sound_end_us = None
        return self._advance(stream_us)

    def place_sound(self, pts: int | None, time_base: Fraction, duration_us: int) -> MediaTime | None:
        """Return when a block of sound starts; None if it belongs to no known stretch of the pictures' clock."""
        if self._offset_us is None:
            return None
        if pts is None:
            if self._sound_end_us is None:
                return None
            media_us = self._sound_end_us
        else:
            media_us = to_us(pts, time_base) + self._offset_us
        if abs(media_us - self._last_media_us) > LONGEST_HOLE_US:
            self.repairs["sound_elsewhere"] += 1
            return None
        self._sound_end_us = media_us + duration_us
        return MediaTime(self._epoch, media_us)
