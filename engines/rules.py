"""The two rules by which one label's scores become spots, a step at a time.

In: candidates, that is scores that reach the label's threshold, each at its time. Out: those that stand, as soon as
that is settled. Promise: without a deadline a rule lets stand what its offline form (`engines.nms`) does, exactly; a
deadline may force a decision, which is then taken from what is known and marked; nothing that stands is ever taken
back, and nothing stands within reach of what a deadline has forced. What a step costs depends on the candidates that
are not settled and on those within their reach, never on how long the match has lasted; only greedy without a deadline
has no bound for them, where ever higher scores follow one another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

FAR_US = 1 << 62
"""Later than any time: as the time of what is still to come, nothing is; as a deadline's, there is none."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A score that reaches its label's threshold.

    Attributes:
        time_us: when the action is, by row and displacement.
        score: in (0, 1].
        row: that it comes from.
        flags: of the seconds it rests on.
    """

    time_us: int
    score: float
    row: int
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate that stands; `forced` if the deadline did not wait for the rule."""

    candidate: Candidate
    forced: bool = False


class Rule(Protocol):
    """Decides one label of one epoch.

    Attributes:
        open: candidates that are not settled.
        reach_us: how far apart two candidates can be rivals at most.
    """

    open: list[Candidate]
    reach_us: int

    def add(self, candidate: Candidate) -> None:
        """Take a candidate; rows come in order, times may cross."""

    def settle(self, next_us: int, due_us: int) -> list[Standing]:
        """Return the candidates that are settled now, and stand.

        Args:
            next_us: no candidate still to come has an earlier time; FAR_US: none will come.
            due_us: what is earlier cannot wait any longer.
        """


class LocalMax:
    """A candidate stands if no other within the radius beats it; settled when nothing to come can be within the radius.

    Of equal scores the earlier time beats, of equal times the earlier row. Offline form: `nms.local_maxima`.
    """

    def __init__(self, radius_us: int) -> None:
        self.reach_us = radius_us
        self.open: list[Candidate] = []
        self._past: list[Candidate] = []  # settled, and still the rivals of others
        self._forced_us: list[int] = []

    def add(self, candidate: Candidate) -> None:
        """See Rule."""
        self.open.append(candidate)

    def settle(self, next_us: int, due_us: int) -> list[Standing]:
        """See Rule."""
        if not self.open:
            return []
        known = self._past + self.open
        standing, still_open = [], []
        for one in self.open:
            forced = one.time_us + self.reach_us >= next_us
            if forced and one.time_us >= due_us:
                still_open.append(one)
                continue
            self._past.append(one)
            if self._stands(one, known):
                standing.append(Standing(one, forced))
        self._forced_us += [s.candidate.time_us for s in standing if s.forced]
        self.open = still_open
        self._forget(min([next_us, *(c.time_us for c in still_open)]))
        return standing

    def _stands(self, one: Candidate, known: Iterable[Candidate]) -> bool:
        near = (c for c in known if abs(c.time_us - one.time_us) <= self.reach_us)
        blocked = any(abs(time_us - one.time_us) <= self.reach_us for time_us in self._forced_us)
        return not blocked and not any(_beats_in_time(other, one) for other in near if other is not one)

    def _forget(self, from_us: int) -> None:
        """Drop what is out of reach of everything from here on."""
        self._past = [c for c in self._past if c.time_us + self.reach_us >= from_us]
        self._forced_us = [t for t in self._forced_us if t + self.reach_us >= from_us]


def _beats_in_time(other: Candidate, one: Candidate) -> bool:
    if other.score != one.score:
        return other.score > one.score
    return (other.time_us, other.row) < (one.time_us, one.row)


class Greedy:
    """The originals' suppression: the best stands and suppresses those in its window, and so on with the rest.

    A candidate is settled when everything that beats it and whose window it is in is settled, and nothing still to come
    can have it in its window. Since a rival may itself wait for a rival, the wait has no bound; a deadline gives it
    one. Of equal scores the earlier row beats. Offline form: `nms.greedy`.

    Args:
        before_us: the window begins so long before its peak,
        after_us: and ends so long after it; what lies exactly there is outside.
    """

    def __init__(self, before_us: int, after_us: int) -> None:
        self._before_us, self._after_us = before_us, after_us
        self.reach_us = max(before_us, after_us)
        self.open: list[Candidate] = []  # best first
        self._standing: list[Standing] = []

    def add(self, candidate: Candidate) -> None:
        """See Rule."""
        self.open.append(candidate)
        self.open.sort(key=lambda c: (-c.score, c.row))

    def settle(self, next_us: int, due_us: int) -> list[Standing]:
        """See Rule."""
        if not self.open:
            return []
        standing = self._natural(next_us)
        due = [c for c in self.open if c.time_us < due_us]
        if due:
            guess, _ = self._fates(FAR_US)  # as if nothing else would come
            forced = [Standing(c, forced=True) for c in guess if c in due]
            self._standing += forced
            self.open = [c for c in self.open if c not in due]
            standing += forced + self._natural(next_us)
        from_us = min([next_us, *(c.time_us for c in self.open)])
        self._standing = [s for s in self._standing if s.candidate.time_us + self.reach_us >= from_us]
        return standing

    def _natural(self, next_us: int) -> list[Standing]:
        """Return what stands for certain, and leave open only what is not settled."""
        stands, self.open = self._fates(next_us)
        standing = [Standing(c) for c in stands]
        self._standing += standing
        return standing

    def _fates(self, next_us: int) -> tuple[list[Candidate], list[Candidate]]:
        """Return who stands for certain, and whose fate is open, best first; the others are suppressed for certain."""
        stands: list[Candidate] = []
        waiting: list[Candidate] = []
        for one in self.open:
            if self._is_suppressed(one) or any(self._covers(s, one) for s in stands):
                continue
            if next_us <= one.time_us + self._before_us or any(self._covers(w, one) for w in waiting):
                waiting.append(one)
            else:
                stands.append(one)
        return stands, waiting

    def _is_suppressed(self, one: Candidate) -> bool:
        """Return whether something that stands already suppresses it; what was forced does so from either side."""
        return any(
            (self._covers(s.candidate, one) and _beats_in_rows(s.candidate, one))
            or (s.forced and (self._covers(s.candidate, one) or self._covers(one, s.candidate)))
            for s in self._standing
        )

    def _covers(self, peak: Candidate, other: Candidate) -> bool:
        return peak.time_us - self._before_us <= other.time_us < peak.time_us + self._after_us


def _beats_in_rows(other: Candidate, one: Candidate) -> bool:
    return (-other.score, other.row) < (-one.score, one.row)
