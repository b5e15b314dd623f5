"""When a second should have come, by the wall clock; live only, since a replay waits for whatever comes.

In: when seconds arrived. Out: the media second that the stream should have got to. Promise: what comes in bursts (HLS)
or with jitter is not overdue, since the estimate follows the latest of the last arrivals; a stream that goes on late is
followed at once.
"""

import time
from collections import deque
from collections.abc import Callable

from streamer.config import GuardConfig

_STEP_S = 2.0
"""Two seconds of media that arrive one after the other are never further apart than this, but for a step in time."""


class Guard:
    """Estimates where a stream is by now.

    Args:
        config: how patient it is.
        speed: media seconds per second of wall clock: 1 for a stream, more for a file that is played faster.
        clock: the monotonic clock that arrivals are measured by.
    """

    def __init__(self, config: GuardConfig, speed: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._slack_s, self._speed, self._clock = config.slack_s, speed, clock
        self._leads_s: deque[float] = deque(maxlen=config.window_seconds)
        self._end_s = 0

    def arrived(self, end_s: int, arrived_mono_s: float) -> None:
        """Take a second that is about to be worked on: where in media time it ends, and when it arrived."""
        lead_s = end_s - arrived_mono_s * self._speed
        if self._leads_s and lead_s > self._leads_s[-1] + _STEP_S:
            self._leads_s.clear()  # the stream's clock has stepped: what came before tells nothing any more
        self._leads_s.append(lead_s)
        self._end_s = end_s

    def head_s(self) -> float:
        """Return where in media time the stream should be by now, by the latest of the last arrivals."""
        return self._clock() * self._speed + min(self._leads_s)

    def overdue(self, within_s: float = 0.0) -> int | None:
        """Return the end of the newest second that should have come; None if all that should have come have.

        Args:
            within_s: count what will be overdue so soon, by the wall clock, since nobody looks again before.
        """
        if not self._leads_s:
            return None
        due_s = int(self.head_s() + (within_s - self._slack_s) * self._speed)
        return due_s if due_s > self._end_s else None

    def since(self, media_s: float) -> float:
        """Return for how long, by the wall clock, the stream should have been past a media time."""
        return (self.head_s() - media_s) / self._speed
