"""Scores in, spots out, by the bundle's rule and within its deadline.

Which scores are spots is the rule's business (`engines.rules`), what is said of them meanwhile the life cycle's
(`engines.lifecycle`); here are the clock, the deadline, and all labels together. The clock is media time in whole
seconds: the end of the newest second that has been seen, or that should have come. Each tick settles what can be
settled, and forces what could not wait for the next one.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, cast

import numpy as np

from engines.bundle import BundleName, Manifest
from engines.head import Scores
from engines.lifecycle import LifeCycle, Word
from engines.nms import INT64, reach_rows
from engines.rules import FAR_US, Candidate, Greedy, LocalMax, Rule
from engines.second import FORCED

_US = 1_000_000
State = Literal["provisional", "confirmed", "retracted"]


@dataclass(frozen=True, slots=True)
class Spot:
    """What the world sees: one word about one action.

    Under one id come provisional words, at will, and then exactly one final word, confirmed or retracted.

    Attributes:
        id: derived from stream, half, epoch, label and time; the same input says the same ids.
        half: which file of a match it is in, from 1; always 1 live.
        media_time: when it happened, seconds since the stream's first picture.
        confidence: score at the spot's peak.
        emitted_at: the media clock when this was said, in whole seconds; minus `media_time` it is the delay.
        revision: counts the words of an id from 1.
        latency: the delay by part, seconds: grid + look_ahead + hold = emitted_at − media_time; the live path adds
            compute, which is wall clock.
        flags: what was wrong with the seconds it rests on; `forced` if the deadline did not wait for the rule.
        utc: when it happened, by the wall clock; filled in by the live path. None if nobody knows.
        clock: who says so: rtcp, prft, hls, or arrival, which is our own clock when the picture came.
        pts: when it happened, by the stream's own timestamps, in ticks of 90 kHz and 33 bits, as a transport stream
            counts; filled in by the live path. None if nobody knows.
        bundle: what scored it; filled in by the live path.
    """

    id: str
    stream: str
    half: int
    epoch: int
    label: str
    media_time: float
    confidence: float
    emitted_at: float
    state: State = "confirmed"
    revision: int = 1
    latency: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    utc: datetime | None = None
    clock: str | None = None
    pts: int | None = None
    bundle: BundleName | None = None

    @property
    def delay_s(self) -> float:
        """Media seconds from the action to the word."""
        return self.emitted_at - self.media_time


class Decider:
    """Decides all labels of one stream.

    Args:
        manifest: of the bundle that scores; rules, thresholds, radii and deadlines come from it.
        stream: the broadcast's name, part of every id.
        half: part of every id.
    """

    def __init__(self, manifest: Manifest, stream: str, half: int = 1) -> None:
        self._manifest, self._stream, self._half = manifest, stream, half
        decisions = [manifest.decision[label] for label in manifest.labels]
        self._thresholds = np.array([d.threshold for d in decisions], np.float32)
        self._speaks_from = np.array(
            [2.0 if d.provisional_threshold is None else d.provisional_threshold for d in decisions], np.float32
        )
        self._held_back = _held_back_rows(manifest)
        self._look_aheads = np.array([_Label(manifest, label).look_ahead for label in manifest.labels])
        self._epoch = -1
        self._now_s = self._end_s = 0  # the clock, and where the next tick is to take it
        self._held: dict[int, Scores] = {}
        self._next_rows: dict[int, int] = {}  # look-ahead → first row without such scores
        self._labels: list[_Label] = []
        self._open: dict[str, int] = {}  # id → when its last word was said, of those without a final one

    def push(self, scores: Scores) -> list[Spot]:
        """Take one row's scores, in place of earlier ones of that row; return what became due before them."""
        words: list[Spot] = []
        if scores.epoch != self._epoch:
            words += self.flush()
            self._begin(scores.epoch, self._second(scores.newest) - 1)
        words += self.advance(self._second(scores.newest) - 1)
        self._end_s = max(self._end_s, self._second(scores.newest))
        if self._held_back is None:
            self._take(scores)
        else:
            self._held[scores.index] = scores
            for index in [i for i in self._held if i < scores.newest - self._held_back]:
                self._take(self._held.pop(index))
        return words

    def advance(self, now_s: int) -> list[Spot]:
        """Let the clock tick up to media second `now_s`; return what is to be said."""
        words: list[Spot] = []
        while self._now_s < now_s:
            self._now_s += 1
            words += self._said(self._step(label) for label in self._labels)
        self._end_s = max(self._end_s, self._now_s)
        return words

    def set_threshold(self, label: str, threshold: float) -> None:
        """Let a label's scores count from `threshold` on, of rows that are scored from now on."""
        self._thresholds[self._manifest.labels.index(label)] = threshold

    def resume(self, now_s: int) -> None:
        """Put the clock back to media second `now_s`: it was ahead of a stream that goes on there after all."""
        self._now_s = self._end_s = min(self._now_s, now_s)

    def flush(self) -> list[Spot]:
        """End the epoch: nothing can rival what is pending any more."""
        words = self.advance(self._end_s)
        unscored = self._manifest.head.unscored_rows
        if self._held:
            last = max(self._held)
            for index in sorted(self._held):
                if index <= last - unscored:
                    self._take(self._held[index])
        self._next_rows = dict.fromkeys(self._next_rows, FAR_US)
        words += self._said(self._step(label) for label in self._labels)
        self._begin(-1, self._now_s)
        return words

    def _begin(self, epoch: int, now_s: int) -> None:
        self._epoch = epoch
        self._now_s = self._end_s = now_s
        self._held = {}
        self._next_rows = dict.fromkeys(self._look_aheads.tolist(), 0)
        self._labels = [_Label(self._manifest, label) for label in self._manifest.labels]

    def _second(self, row: int) -> int:
        """Return the end of the second that a row is in."""
        return row // self._manifest.rate + 1

    def _take(self, scores: Scores) -> None:
        """Hand every score that matters to its label."""
        is_final = self._look_aheads == scores.look_ahead
        reached = (scores.scores_C >= np.where(is_final, self._thresholds, self._speaks_from)) & (scores.scores_C > 0)
        reached &= self._look_aheads >= scores.look_ahead
        if reached.any():
            times_C = times_us(scores, self._manifest)
            for c in np.flatnonzero(reached):
                candidate = Candidate(int(times_C[c]), float(scores.scores_C[c]), scores.index, scores.flags)
                self._labels[c].take(candidate, is_final=bool(is_final[c]))
        self._next_rows[scores.look_ahead] = scores.index + 1

    def _step(self, label: "_Label") -> list[tuple[str, Word]]:
        return label.step(self._now_s, self._next_rows[label.look_ahead])

    def _said(self, words: Iterator[list[tuple[str, Word]]]) -> list[Spot]:
        """Return the words of one step, in order: by time, then label."""
        order = {label: c for c, label in enumerate(self._manifest.labels)}
        flat = [word for some in words for word in some]
        flat.sort(key=lambda w: (w[1].state == "provisional", w[1].candidate.time_us, order[w[0]]))
        return [self._spot(label, word) for label, word in flat]

    def _spot(self, label: str, word: Word) -> Spot:
        own_id = spot_id(self._stream, self._half, self._epoch, label, word.first_us)
        now_s = max(self._now_s, self._open.pop(own_id, 0))  # the clock may have been put back
        if word.state == "provisional":
            self._open[own_id] = now_s
        time_us = word.candidate.time_us
        delay_us = now_s * _US - time_us
        grid_us = min(_US - time_us % _US, delay_us)  # to the end of the second it happened in
        look_ahead_us = min(round(self._manifest.look_ahead_s(label) * _US), delay_us - grid_us)
        parts_us = {"grid": grid_us, "look_ahead": look_ahead_us, "hold": delay_us - grid_us - look_ahead_us}
        return Spot(
            id=own_id,
            stream=self._stream,
            half=self._half,
            epoch=self._epoch,
            label=label,
            media_time=time_us / _US,
            confidence=word.candidate.score,
            emitted_at=float(now_s),
            state=cast(State, word.state),
            revision=word.revision,
            latency={part: us / _US for part, us in parts_us.items()},
            flags=tuple(sorted(word.candidate.flags | ({FORCED} if word.forced else set()))),
        )


class _Label:
    """One label of one epoch: its rule, its life cycle, its deadline."""

    def __init__(self, manifest: Manifest, label: str) -> None:
        decision = manifest.decision[label]
        self._label, self._row_time_us = label, row_time(manifest)
        whole_s, own_s = manifest.head.look_ahead_s, decision.look_ahead_s
        self.look_ahead = round((whole_s if own_s is None else own_s) * manifest.rate)
        self._reach_us = round(manifest.head.max_displacement_s * _US)
        if decision.rule == "greedy":
            before, after = reach_rows(round((decision.window_s or 0) * manifest.rate))
            self._rule: Rule = Greedy(before * _US // manifest.rate, after * _US // manifest.rate)
        else:
            self._rule = LocalMax(round((decision.radius_s or 0) * _US))
        self._life = LifeCycle(decision.provisional_threshold, self._rule.reach_us)
        deadline_s = manifest.promised_delay_s(label)
        self._deadline_us = FAR_US if math.isinf(deadline_s) else round(deadline_s * _US)

    def take(self, candidate: Candidate, *, is_final: bool) -> None:
        """Take a candidate, or what speaks for one with a smaller look-ahead than the one that confirms."""
        if is_final:
            self._rule.add(candidate)
        else:
            self._life.see(candidate)

    def step(self, now_s: int, next_row: int) -> list[tuple[str, Word]]:
        """Return what is to be said when the clock is at `now_s`.

        Args:
            now_s: the clock.
            next_row: the first row without its final scores; FAR_US if no row will come any more.
        """
        if self._life.idle and not self._rule.open:
            return []
        next_us = FAR_US if next_row == FAR_US else self._row_time_us(next_row) - self._reach_us
        due_us = (now_s + 1) * _US - self._deadline_us  # what is earlier cannot wait for the next tick
        settled = self._rule.settle(next_us, due_us)
        words = self._life.step(settled, self._rule.open, next_row, next_us, due_us)
        return [(self._label, word) for word in words]


def _held_back_rows(manifest: Manifest) -> int | None:
    """Return how many rows behind the newest one a row's scores can still change, or turn out not to count; None: 0."""
    head = manifest.head
    if head.edges != "inside" and not head.unscored_rows:
        return None
    rescored = round(head.look_ahead_s * manifest.rate) + head.window_stride_rows if head.edges == "inside" else 0
    return max(rescored, head.unscored_rows)


def row_time(manifest: Manifest) -> Callable[[int], int]:
    """Return the function from a row to the media time that its scores are for, microseconds."""
    row_us, offset_us = _US // manifest.rate, round(manifest.head.row_time_s * _US)
    return lambda index: index * row_us + offset_us


def times_us(scores: Scores, manifest: Manifest) -> INT64:
    """Return when each label's action is (C,), microseconds, by row and displacement.

    Never before the stream's first picture, and never after the end of what was seen when the row was scored.
    """
    reach_us, row_us = round(manifest.head.max_displacement_s * _US), _US // manifest.rate
    shift_us = np.round(scores.displacement_C.astype(np.float64) * 1000).astype(np.int64) * 1000
    seen_us = (scores.newest + 1) * row_us
    shift_us = np.minimum(np.maximum(shift_us, -reach_us), reach_us)  # np.clip is slower on integers
    times: INT64 = np.minimum(np.maximum(row_time(manifest)(scores.index) + shift_us, 0), seen_us)
    return times


def spot_id(stream: str, half: int, epoch: int, label: str, time_us: int) -> str:
    """Return the id of a spot: the same for the same stream, half, epoch, label and time, in every run."""
    return hashlib.sha256(f"{stream}\n{half}\n{epoch}\n{label}\n{time_us}".encode()).hexdigest()[:20]
