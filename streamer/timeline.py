"""PTS and time base in, media time out.

Promise: media time of pictures never falls and never repeats; sound shares the pictures' clock, so the two stay in
step. A timestamp that wraps is unwrapped, any number of times; a single bad one is repaired; a jump that the next
picture confirms opens a new epoch, which starts where the last one ended. Nothing here looks at a wall clock.
"""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

from engines.second import MediaTime

LONGEST_HOLE_US = 10_000_000
"""A longer step forward is a discontinuity; a shorter one is a gap in the same epoch."""
REORDER_US = 500_000
"""A shorter step back is disorder to be repaired (containers without PTS); a longer one is a discontinuity."""
REBASE_US = 3_000_000
"""Sound that has been away from the pictures' clock for so long has a clock of its own."""
_DEFAULT_STEP_US = 40_000
_LONGEST_STEP_US = 1_000_000


def to_us(pts: int, time_base: Fraction) -> int:
    """Return a timestamp in microseconds, rounded down, exactly."""
    return pts * time_base.numerator * 1_000_000 // time_base.denominator


def unwrapped_us(pts: int, time_base: Fraction, wraps_at: int, near_us: int) -> int:
    """Return a timestamp in microseconds, in that turn of its counter which is nearest to `near_us`.

    Whole turns are added in ticks, so nothing is lost by it, however many there were. What FFmpeg added or took away
    to repair a wrap is a whole turn as well.
    """
    if wraps_at:
        near = near_us * time_base.denominator // (time_base.numerator * 1_000_000)
        pts += (2 * (near - pts) + wraps_at) // (2 * wraps_at) * wraps_at
    return to_us(pts, time_base)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a timeline goes on from: another connection of the same stream, or a recording entered in its middle.

    Attributes:
        epoch: of the first picture.
        media_us: media time to go on from: of the newest picture there was.
        stream_us: the stream's own clock at that time, unwrapped; None if nobody knows.
        reach_us: if the stream's clock has gone on since by no more than this, media time goes on by as much; if it
            has gone on by more, or is elsewhere, the first picture comes one step after `media_us`.
    """

    epoch: int
    media_us: int
    stream_us: int | None
    reach_us: int


@dataclass(slots=True)
class _Away:
    """Sound that goes on by itself, away from the pictures' clock."""

    from_us: int  # of its own clock
    end_us: int
    pictures_from_us: int  # media time of the pictures when it began
    behind_us: int = 0  # sum, over its blocks, of how far its own clock was behind the pictures' media time
    blocks: int = 0


class Timeline:
    """The one clock of a stream; pictures are its master, sound follows.

    Args:
        anchor: where to go on from; without one the first picture is at 0 of epoch 0.
    """

    def __init__(self, anchor: Anchor | None = None) -> None:
        self.repairs: Counter[str] = Counter()
        self.bases = 0
        """How often it has changed where timestamps belong; sound that had no place may have one then."""
        self._anchor = anchor
        self._epoch = anchor.epoch if anchor else 0
        self._started = self._stamped = False  # whether there was a picture, and whether one had a timestamp
        self._offset_us = 0  # media time = stream time + offset
        self._last_stream_us = 0  # of the newest picture
        self._stamp_us = 0  # the newest timestamp that counted
        self._pictures = 0  # since then
        self._step_us: int | None = None  # from one picture to the next, as timestamps say
        self._duration_us = _DEFAULT_STEP_US  # the same, as the stream says
        self._longest_us = _LONGEST_STEP_US  # a step that is nothing unusual
        self._suspect_us: int | None = None  # stream time of an unconfirmed jump
        self._suspects = 0
        self._left: tuple[int, int] | None = None  # offset and last media time of the epoch before
        self._sound_end_us: int | None = None
        self._sound_offset_us: int | None = None  # of sound on a clock of its own
        self._away: _Away | None = None

    def place_picture(self, pts: int | None, time_base: Fraction, wraps_at: int = 0, duration: int = 0) -> MediaTime:
        """Return when a picture is; see Frame for the arguments."""
        self._note_duration(to_us(duration, time_base))
        if pts is None:
            self.repairs["missing_pts"] += 1
            return self._go_on()
        if not self._stamped:
            return self._first_stamp(pts, time_base, wraps_at)
        stream_us = unwrapped_us(pts, time_base, wraps_at, self._last_stream_us)
        lowest_us = (self._stamp_us if self._pictures else self._last_stream_us) - REORDER_US
        if not lowest_us < stream_us <= self._last_stream_us + LONGEST_HOLE_US:
            return self._jump(pts, time_base, wraps_at)
        self._suspect_us = None
        self._learn_step(stream_us)
        return self._advance(max(stream_us, self._last_stream_us + 1))

    def repair_picture(self, time_base: Fraction, duration: int = 0) -> MediaTime:
        """Return when a picture is whose timestamp is known to be wrong."""
        self._note_duration(to_us(duration, time_base))
        self.repairs["outlier"] += 1
        return self._go_on()

    def doubts(self, pts: int | None, time_base: Fraction, wraps_at: int = 0) -> bool:
        """Return whether a picture would leave a hole so unusual that only the next one tells if it is there."""
        if pts is None or not self._stamped:
            return False
        step_us = unwrapped_us(pts, time_base, wraps_at, self._last_stream_us) - self._last_stream_us
        return self._longest_us < step_us <= LONGEST_HOLE_US

    def media_us(self, pts: int | None, time_base: Fraction, wraps_at: int = 0) -> int | None:
        """Return where a timestamp is on the pictures' clock as it is now; None if nobody knows. Changes nothing."""
        if pts is None or not self._stamped:
            return None
        return unwrapped_us(pts, time_base, wraps_at, self._last_stream_us) + self._offset_us

    def next_anchor(self, reach_us: int) -> Anchor | None:
        """Return what the stream's next connection goes on from; before any picture, what this one went on from."""
        if not self._started:
            return replace(self._anchor, reach_us=reach_us) if self._anchor else None
        return Anchor(self._epoch + 1, self._last_media_us, self.stream_us, reach_us)

    @property
    def newest(self) -> MediaTime:
        """When the newest picture is that was placed."""
        return MediaTime(self._epoch, self._last_media_us)

    @property
    def stream_us(self) -> int | None:
        """The stream's own clock at that picture, unwrapped; None if nobody knows."""
        return self._last_stream_us if self._stamped else None

    @property
    def _last_media_us(self) -> int:
        return self._last_stream_us + self._offset_us

    def _note_duration(self, duration_us: int) -> None:
        if 0 < duration_us <= _LONGEST_STEP_US:
            self._duration_us = duration_us

    def _learn_step(self, stream_us: int) -> None:
        """Take what a timestamp says of the step from picture to picture."""
        self._pictures += 1
        step_us = stream_us - self._stamp_us
        if step_us <= 0:
            self.repairs["reordered"] += 1
            return
        each_us = step_us // self._pictures
        if 0 < each_us <= _LONGEST_STEP_US:
            self._step_us = each_us
        self._longest_us = max(_LONGEST_STEP_US, 2 * step_us)
        self._stamp_us, self._pictures = stream_us, 0

    def _one_step_us(self) -> int:
        return self._step_us or self._duration_us

    def _go_on(self) -> MediaTime:
        """Place a picture by those before it."""
        if not self._started:
            start_us = self._anchor.media_us + self._one_step_us() if self._anchor else 0
            self._stamp_us = start_us  # until there is a timestamp, media time itself
            return self._advance(start_us)
        self._pictures += 1
        return self._advance(max(self._stamp_us + self._pictures * self._one_step_us(), self._last_stream_us + 1))

    def _advance(self, stream_us: int) -> MediaTime:
        self._started = True
        self._last_stream_us = stream_us
        return self.newest

    def _first_stamp(self, pts: int, time_base: Fraction, wraps_at: int) -> MediaTime:
        anchor, stream_us, media_us = self._anchor, to_us(pts, time_base), None
        if anchor is not None and anchor.stream_us is not None:
            stream_us = unwrapped_us(pts, time_base, wraps_at, anchor.stream_us)
            gone_us = stream_us - anchor.stream_us
            if 0 <= gone_us <= anchor.reach_us:
                media_us = anchor.media_us + gone_us
        if media_us is None or (self._started and media_us <= self._last_media_us):
            media_us = self._go_on().us
        self._stamped = True
        self._rebase(stream_us, media_us)
        return self._advance(stream_us)

    def _rebase(self, stream_us: int, media_us: int) -> None:
        """Let the picture at `stream_us` be at `media_us`, and what comes after it follow."""
        self._offset_us = media_us - stream_us
        self._stamp_us, self._pictures = stream_us, 0
        self._away = None
        self.bases += 1

    def _jump(self, pts: int, time_base: Fraction, wraps_at: int) -> MediaTime:
        """Repair a jump, unless it goes on from the jump before it: then the stream really is elsewhere."""
        suspect_us = self._suspect_us
        near_us = self._last_stream_us if suspect_us is None else suspect_us
        self._suspect_us = stream_us = unwrapped_us(pts, time_base, wraps_at, near_us)
        step_us = stream_us - near_us
        goes_on = suspect_us is not None and 0 < step_us <= LONGEST_HOLE_US
        self._suspects = self._suspects + 1 if goes_on else 1
        if not goes_on or (step_us > _LONGEST_STEP_US and self._suspects < 3):
            self.repairs["outlier"] += 1
            return self._go_on()
        self.repairs["discontinuity"] += 1
        self._left = self._offset_us, self._last_media_us
        self._epoch += 1
        self._rebase(stream_us, self._last_media_us + self._one_step_us())
        self._suspect_us = self._sound_end_us = None
        return self._advance(stream_us)

    def place_sound(
        self, pts: int | None, time_base: Fraction, duration_us: int, wraps_at: int = 0
    ) -> MediaTime | None:
        """Return when a block of sound starts; None if it belongs to no known stretch of the pictures' clock."""
        if not self._started:
            return None
        media_us = self._sound_end_us
        if pts is not None:
            media_us = self._sound_us(pts, time_base, duration_us, wraps_at)
        if media_us is None or not self._is_near(media_us):
            self.repairs["sound_elsewhere"] += 1
            return None
        self._sound_end_us = media_us + duration_us
        return MediaTime(self._epoch, media_us)

    def _sound_us(self, pts: int, time_base: Fraction, duration_us: int, wraps_at: int) -> int | None:
        own_us = self.media_us(pts, time_base, wraps_at)
        if own_us is not None and self._is_near(own_us):
            self._sound_offset_us = self._away = None
            return own_us
        offset_us = self._sound_offset_us
        if offset_us is not None:
            media_us = unwrapped_us(pts, time_base, wraps_at, self._last_media_us - offset_us) + offset_us
            if self._is_near(media_us):
                self._away = None
                return media_us
        if self._trails(pts, time_base, wraps_at):
            return None
        return self._follow_away(pts, time_base, duration_us, wraps_at)

    def _is_near(self, media_us: int) -> bool:
        return abs(media_us - self._last_media_us) <= LONGEST_HOLE_US

    def _trails(self, pts: int, time_base: Fraction, wraps_at: int) -> bool:
        """Return whether sound belongs to the epoch before, which the pictures have left already."""
        if self._left is None:
            return False
        offset_us, end_us = self._left
        behind_us = end_us - offset_us - unwrapped_us(pts, time_base, wraps_at, end_us - offset_us)
        return -REORDER_US <= behind_us <= LONGEST_HOLE_US

    def _follow_away(self, pts: int, time_base: Fraction, duration_us: int, wraps_at: int) -> int | None:
        """Watch sound that is elsewhere; if it goes on there for long, take it to be in step with the pictures."""
        away = self._away
        stream_us = unwrapped_us(pts, time_base, wraps_at, away.end_us if away else self._last_stream_us)
        if away is None or not -REORDER_US < stream_us - away.end_us <= _LONGEST_STEP_US:
            away = self._away = _Away(stream_us, stream_us, self._last_media_us)
        away.end_us = stream_us + duration_us
        away.behind_us += self._last_media_us - stream_us
        away.blocks += 1
        pictures_us = self._last_media_us - away.pictures_from_us
        if away.end_us - away.from_us < REBASE_US or pictures_us < REBASE_US // 2:
            return None
        self.repairs["sound_rebased"] += 1
        self._sound_offset_us = away.behind_us // away.blocks
        self._away = None
        self.bases += 1
        return stream_us + self._sound_offset_us
