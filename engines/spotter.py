"""The whole middle in one place: Seconds in, spots out.

Deterministic in its input: no clock, no randomness, no thread timing. Replay equals live because both feed this.
"""

import math
from collections.abc import Iterable

from engines.bundle import Bundle, Manifest
from engines.decider import Decider, Spot
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
        self._decider = Decider(manifest, stream, half)
        self._manifest = manifest
        self._promises_s = [_promise_s(manifest, look_ahead_s) for look_ahead_s in manifest.look_aheads_s]
        self._clock_s, self._epoch = 0, -1
        self.scored: list[Scores] = []
        """What the last second's scores were, for people to look at."""

    def push(self, second: Second) -> list[Spot]:
        """Take one second; return what is said when it has been seen."""
        words = self.flush() if second.epoch != self._epoch else []
        if self._clock_s > second.index and self._epoch == second.epoch:  # it had stalled, and goes on where it was
            self._decider.resume(second.index)
        self._clock_s, self._epoch = second.index + 1, second.epoch
        self.scored = self.score(second)
        return words + self.decide(self.scored) + self._decider.advance(second.index + 1)

    def set_threshold(self, label: str, threshold: float) -> None:
        """Let a label's scores count from `threshold` on, of rows that are scored from now on."""
        self._decider.set_threshold(label, threshold)

    def expire(self, now_s: float) -> list[Spot]:
        """Return what cannot wait any longer, though the stream has not come as far as media time `now_s` yet.

        A row that is not scored yet, and whose spots would be due, is scored without the rest of its look-ahead.
        """
        words: list[Spot] = []
        while self._clock_s and self._clock_s + 1 <= now_s:
            self._clock_s += 1
            words += self.decide(self._head.push(self._window.expire([self._due_row(s) for s in self._promises_s])))
            words += self._decider.advance(self._clock_s)
        return words

    def _due_row(self, promise_s: float) -> int:
        """Return the last row whose spots cannot wait for the next tick, where so long a delay is promised."""
        if math.isinf(promise_s):
            return -1
        head = self._manifest.head
        due_s = self._clock_s + 1 + head.max_displacement_s - promise_s - head.row_time_s
        return math.ceil(due_s * self._manifest.rate) - 1

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
        """Return what is said before the newest of these scores; the rest follows when time goes on."""
        return [spot for s in scores for spot in self._decider.push(s)]

    def flush(self) -> list[Spot]:
        """End the stream; return what was still pending."""
        return self.decide(self.flush_scores()) + self._decider.flush()


def _promise_s(manifest: Manifest, look_ahead_s: float) -> float:
    """Return the shortest delay that is promised for a label confirmed with a look-ahead; infinite if there is none."""
    whole_s, promises_s = manifest.head.look_ahead_s, [math.inf]
    for label, decision in manifest.decision.items():
        own_s = whole_s if decision.look_ahead_s is None else decision.look_ahead_s
        if own_s == look_ahead_s:
            promises_s.append(manifest.promised_delay_s(label))
    return min(promises_s)
