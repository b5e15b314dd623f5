"""Media time to wall clock, for people and other systems; never for decisions.

In: seconds, as they come. Out: when a moment of them was taken, and who says so. Remembers the last hour, since a word
may be said long after its action.
"""

from collections import deque
from datetime import UTC, datetime, timedelta

from engines.second import Second

_REMEMBERED = 3600
_START = datetime(1970, 1, 1, tzinfo=UTC)


class WallClock:
    """The wall clock of one half."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int, int, str]] = deque(maxlen=_REMEMBERED)  # epoch, index, utc_us, clock

    def note(self, second: Second) -> None:
        """Take a second."""
        if second.utc_us is not None and second.clock is not None:
            self._seconds.append((second.epoch, second.index, second.utc_us, second.clock))

    def at(self, epoch: int, media_s: float) -> tuple[datetime | None, str | None]:
        """Return when a moment was taken (UTC), and who says so; None twice if nobody knows.

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
        _, index, utc_us, clock = nearest
        return _START + timedelta(microseconds=utc_us + round((media_s - index) * 1e6)), clock
