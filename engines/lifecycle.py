"""What is said of one label before it is settled: provisional words, and what becomes of them.

In: what is known at each step, and what the rule has settled. Out: words. Promise: every id gets exactly one final
word, by its deadline; nothing said here changes what the rule confirms, or when.

A provisional spot stands for the best score around it. It lives as long as its own row has no final score, or any
candidate near it is not settled; at its deadline it moves to such a candidate that has time left, or is retracted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engines.rules import Candidate, Standing


@dataclass(slots=True, eq=False)
class Open:
    """A provisional spot: what was said of it last.

    Attributes:
        first_us: its time when it was first said; the id is derived from it.
        candidate: what it stands for now.
        revision: of the last word.
    """

    first_us: int
    candidate: Candidate
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Word:
    """A word to be said: what `Spot` says, of one label."""

    candidate: Candidate
    state: str
    first_us: int
    revision: int
    forced: bool = False


class LifeCycle:
    """The open provisional spots of one label of one epoch.

    Args:
        threshold: score from which something is said before it is settled; None: never.
        near_us: two candidates this near are about one action.
    """

    def __init__(self, threshold: float | None, near_us: int) -> None:
        self._threshold, self._near_us = threshold, near_us
        self._open: list[Open] = []
        self._early: dict[int, Candidate] = {}
        self._final_us: list[int] = []  # times of late final words; nothing near them is said again
        self._used_us: set[int] = set()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do in a step where no candidate is known."""
        return not self._open and not self._early

    def see(self, candidate: Candidate) -> None:
        """Take a row's score with less than the look-ahead that confirms, in place of one with still less."""
        self._early[candidate.row] = candidate

    def step(
        self, settled: Sequence[Standing], pending: Sequence[Candidate], next_row: int, next_us: int, due_us: int
    ) -> list[Word]:
        """Return what is to be said now.

        Args:
            settled: what stands since the last step.
            pending: candidates whose row has its final score, not settled.
            next_row: the first row without a final score.
            next_us: no candidate still to come has an earlier time.
            due_us: what is earlier cannot wait any longer.
        """
        self._early = {row: c for row, c in self._early.items() if row >= next_row}
        known = [*pending, *self._early.values()]
        words = [self._confirmed(one) for one in settled]
        words += [word for o in list(self._open) for word in self._followed(o, known, next_row, due_us)]
        if self._threshold is not None:
            words += self._new(known, due_us)
        horizon_us = next_us - 4 * self._near_us - 60_000_000
        self._final_us = [t for t in self._final_us if t > horizon_us]
        self._used_us = {t for t in self._used_us if t > horizon_us}
        return words

    def _confirmed(self, one: Standing) -> Word:
        candidate = one.candidate
        self._final_us.append(candidate.time_us)
        near = [o for o in self._open if self._is_near(o.candidate, candidate)]
        if not near:
            return Word(candidate, "confirmed", self._fresh(candidate.time_us), 1, one.forced)
        mine = min(near, key=lambda o: (abs(o.candidate.time_us - candidate.time_us), o.first_us))
        self._open.remove(mine)
        return Word(candidate, "confirmed", mine.first_us, mine.revision + 1, one.forced)

    def _followed(self, o: Open, known: Sequence[Candidate], next_row: int, due_us: int) -> list[Word]:
        """Return the word on an open spot, if one is due: moved or retracted."""
        near = [c for c in known if self._is_near(c, o.candidate)]
        is_due = o.candidate.time_us < due_us
        if not is_due and (near or o.candidate.row >= next_row):
            return []
        in_time = [c for c in near if c.time_us >= due_us and not self._is_said(c, but=o)]
        if is_due and in_time:
            o.candidate = max(in_time, key=lambda c: (c.score, -c.time_us, -c.row))
            o.revision += 1
            return [Word(o.candidate, "provisional", o.first_us, o.revision)]
        self._open.remove(o)
        return [Word(o.candidate, "retracted", o.first_us, o.revision + 1)]

    def _new(self, known: Sequence[Candidate], due_us: int) -> list[Word]:
        """Return the words on what is worth saying and has not been said."""
        words = []
        for one in sorted(known, key=lambda c: (-c.score, c.time_us, c.row)):
            if one.score < (self._threshold or 0) or one.time_us < due_us or self._is_said(one):
                continue
            o = Open(self._fresh(one.time_us), one)
            self._open.append(o)
            words.append(Word(one, "provisional", o.first_us, o.revision))
        return words

    def _is_said(self, one: Candidate, but: Open | None = None) -> bool:
        """Return whether something near it is confirmed, or said and open."""
        return any(abs(t - one.time_us) <= self._near_us for t in self._final_us) or any(
            self._is_near(o.candidate, one) for o in self._open if o is not but
        )

    def _is_near(self, one: Candidate, other: Candidate) -> bool:
        return abs(one.time_us - other.time_us) <= self._near_us

    def _fresh(self, time_us: int) -> int:
        """Return a time that no id of this label was derived from yet: this one, or the next free one."""
        while time_us in self._used_us:
            time_us += 1
        self._used_us.add(time_us)
        return time_us
