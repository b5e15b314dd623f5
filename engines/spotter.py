"""The whole middle in one place: Seconds in, spots out.

Deterministic in its input: no clock, no randomness, no thread timing. Replay equals live because both feed this.
"""

from collections.abc import Iterable

from engines.bundle import Bundle
from engines.decider import Spot, decider_of
from engines.frontend import Embeddings, FrontEnds
from engines.head import Head, Scores
from engines.second import Second
from engines.window import RollingWindow


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
        self._window = RollingWindow(manifest)
        self._head = Head(bundle)
        self._decider = decider_of(manifest, stream, half)

    def push(self, second: Second) -> list[Spot]:
        """Take one second; return the spots that it settles."""
        return self.decide(self.score(second))

    def score(self, second: Second) -> list[Scores]:
        """Take one second; return the scores that its look-ahead completes."""
        return self.score_rows(self._front_ends.push(second))

    def score_rows(self, embeddings: Iterable[Embeddings]) -> list[Scores]:
        """Take some seconds' rows, from a features file for instance; return the scores that they complete."""
        return self._head.push([window for e in embeddings for window in self._window.push(e)])

    def flush_scores(self) -> list[Scores]:
        """Return the scores of the last seconds, whose look-ahead will never come."""
        return self._head.push(self._window.flush())

    def decide(self, scores: list[Scores]) -> list[Spot]:
        """Return the spots that these scores settle."""
        return [spot for s in scores for spot in self._decider.push(s)]

    def flush(self) -> list[Spot]:
        """End the stream; return what was still pending."""
        return self.decide(self.flush_scores()) + self._decider.flush()
