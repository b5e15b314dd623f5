"""The whole middle in one place: Seconds in, spots out.

Deterministic in its input: no clock, no randomness, no thread timing. Replay equals live because both feed this.
"""

from engines.bundle import Bundle
from engines.decider import LocalMaxDecider, Spot
from engines.frontend import FrontEnds
from engines.head import Head, Scores
from engines.second import Second
from engines.window import RollingWindow, Window


class Spotter:
    """Front ends, window, head and decider of one stream.

    Args:
        bundle: what to spot with.
        stream: the broadcast's name; part of every spot's id.
        half: which file of a match this is, from 1.
    """

    def __init__(self, bundle: Bundle, stream: str, half: int = 1) -> None:
        manifest = bundle.manifest
        self._front_ends = FrontEnds(bundle)
        self._window = RollingWindow(
            {s.name: s.width for s in manifest.streams}, manifest.head.rows, round(manifest.head.look_ahead_s)
        )
        self._head = Head(bundle)
        self._decider = LocalMaxDecider(manifest, stream, half)

    def push(self, second: Second) -> list[Spot]:
        """Take one second; return the spots that it settles."""
        return self.decide(self.score(second))

    def score(self, second: Second) -> list[Scores]:
        """Take one second; return the scores that its look-ahead completes."""
        windows = [w for e in self._front_ends.push(second) for w in self._window.push(e)]
        return self._scores(windows)

    def flush_scores(self) -> list[Scores]:
        """Return the scores of the last seconds, whose look-ahead will never come."""
        return self._scores(self._window.flush())

    def decide(self, scores: list[Scores]) -> list[Spot]:
        """Return the spots that these scores settle."""
        return [spot for s in scores for spot in self._decider.push(s)]

    def flush(self) -> list[Spot]:
        """End the stream; return what was still pending."""
        return self.decide(self.flush_scores()) + self._decider.flush()

    def _scores(self, windows: list[Window]) -> list[Scores]:
        return [s for w in windows for s in self._head.push(w)]
