"""When a source is given up, and when it is opened again: a state machine without I/O.

In: what happened to the source, and the monotonic clock. Out: states. It looks at the progress of media time, since a
source can hang, or send without saying anything, and raise no error. Promise: whatever happens, a source that gives
nothing is left after a time that is known beforehand.
"""

import random
from dataclasses import replace

from streamer.config import WatchConfig
from streamer.ingest.messages import SourceChanged
from streamer.sources.base import SourceFault


class Watchdog:
    """Watches one source through all its connections.

    Args:
        half: whose source it is.
        config: how patient it is.
        live: whether there is anything to wait for after a fault; a recording is never opened again.
        chance: for the jitter of the waiting times.
    """

    def __init__(self, half: int, config: WatchConfig, *, live: bool, chance: random.Random | None = None) -> None:
        self._config, self._live = config, live
        self._chance = chance or random.Random()
        self._known_good = False  # it could be opened once: what goes wrong from now on is a fault, not a mistake
        self._listened = False
        self._running_since_s: float | None = None
        self._patience_s = config.stall_s
        self._limit: tuple[float, float] | None = None  # by when the next sign of life must come; how long that took
        self._open_at_s = 0.0
        self.state = SourceChanged(half, "waiting")

    def opening(self, now_s: float) -> SourceChanged:
        """A connection is being opened."""
        self._running_since_s = None
        self._wait(now_s, self._config.open_s)
        return self._become(replace(self.state, state="opening", retry_in_s=None))

    def listening(self, address: str) -> SourceChanged:
        """It waits for somebody who sends: as long as that takes."""
        self._listened, self._limit = True, None
        return self._become(replace(self.state, state="listening", reason=f"waiting for a sender at {address}"))

    def opened(self, now_s: float, burst_s: float) -> None:
        """It is open; the first second may take a key frame's time, and any second may wait for a burst."""
        self._known_good = True
        self._patience_s = self._config.stall_s + burst_s
        self._wait(now_s, self._config.first_s + burst_s)

    def progressed(self, now_s: float) -> SourceChanged | None:
        """A second came; return the new state, if it is one."""
        self._wait(now_s, self._patience_s)
        if self._running_since_s is None:
            self._running_since_s = now_s
            return self._become(SourceChanged(self.state.half, "running", failures=self.state.failures))
        if self.state.failures and now_s - self._running_since_s >= self._config.steady_s:
            self.state = replace(self.state, failures=0)
        return None

    def alive(self, now_s: float) -> None:
        """A recording is being read, though no second of it is wanted yet."""
        self._wait(now_s, self._patience_s)

    def stalled(self, now_s: float) -> SourceFault | None:
        """Return what is wrong, if the last sign of life is too long ago."""
        if self._limit is None or now_s < self._limit[0]:
            return None
        return SourceFault(f"nothing came within {self._limit[1]:g} s", "stalled")

    def ended(self) -> SourceChanged:
        """The recording is over."""
        return self._become(SourceChanged(self.state.half, "ended"))

    def failed(self, now_s: float, fault: SourceFault) -> SourceChanged:
        """The connection is lost, or was not made; return `waiting` or, if nothing more is to be tried, `failed`."""
        failures = self.state.failures + 1
        change = SourceChanged(self.state.half, "failed", fault.cause, str(fault), failures)
        if not self._tries_again(failures, fault):
            return self._become(change)
        longest_s = min(self._config.longest_backoff_s, self._config.first_backoff_s * 2 ** min(failures - 1, 10))
        wait_s = self._chance.uniform(longest_s / 2, longest_s)
        self._open_at_s = now_s + wait_s
        return self._become(replace(change, state="waiting", retry_in_s=round(wait_s, 3)))

    def until_open_s(self, now_s: float) -> float:
        """Return how long to wait before it is opened again."""
        return max(0.0, self._open_at_s - now_s)

    def _wait(self, now_s: float, patience_s: float) -> None:
        self._limit = (now_s + patience_s, patience_s)

    def _tries_again(self, failures: int, fault: SourceFault) -> bool:
        if not self._live:
            return False
        if self._config.retries is not None:
            return failures <= self._config.retries
        return self._known_good or (self._listened and fault.cause != "unreachable")  # the address cannot be had

    def _become(self, state: SourceChanged) -> SourceChanged:
        self.state = state
        return state
