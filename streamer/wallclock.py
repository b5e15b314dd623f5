"""Media time to wall clock and to the stream's own timestamps, for people and other systems; never for decisions.

In: seconds, as they come. Out: when a moment of them was taken, who says so, and its PTS. Remembers the last hour,
since a word may be said long after its action.
"""

from collections import deque
from datetime import UTC, datetime, timedelta

from engines.second import Second

_REMEMBERED = 3600
_START = datetime(1970, 1, 1, tzinfo=UTC)
_PTS_TURN = 2**33


class WallClock:
    """The clocks of one half."""

    def __init__(self) -> None:
        self._walls = _Readings()
        self._stamps = _Readings()

    def note(self, second: Second) -> None:
        """Take a second."""
        if second.utc_us is not None and second.clock is not None:
            self._walls.note(second.epoch, second.index, second.utc_us, second.clock)
        if second.stream_us is not None:
            self._stamps.note(second.epoch, second.index, second.stream_us)

    def at(self, epoch: int, media_s: float) -> tuple[datetime | None, str | None]:
        """Return when a moment was taken (UTC), and who says so; None twice if nobody knows."""
        utc_us, clock = self._walls.at(epoch, media_s)
        return (_START + timedelta(microseconds=utc_us), clock) if utc_us is not None else (None, None)

    def pts_at(self, epoch: int, media_s: float) -> int | None:
        """Return a moment's PTS in ticks of 90 kHz and 33 bits; None if nobody knows."""
        stream_us, _ = self._stamps.at(epoch, media_s)
        return round(stream_us * 9 / 100) % _PTS_TURN if stream_us is not None else None


class _Readings:
    """What a clock showed at the start of each second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int, int, str]] = deque(maxlen=_REMEMBERED)  # epoch, index, us, clock

    def note(self, epoch: int, index: int, us: int, clock: str = "") -> None:
        self._seconds.append((epoch, index, us, clock))

    def at(self, epoch: int, media_s: float) -> tuple[int | None, str | None]:
        """Return what it showed at a moment, and which clock it was.

        Told from the newest second that it is not before, or, if it is before all of its epoch, from the first of them.
        """
        nearest = None
        for second in reversed(self._seconds):
            if second[0] == epoch:
                nearest = second
            if second[0] < epoch or (second[0] == epoch and second[1] <= media_s):
                break
        if nearest is None:
            return None, None
        _, index, us, clock = nearest
        return us + round((media_s - index) * 1e6), clock
