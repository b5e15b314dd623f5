"""The online rules against their offline forms, on random and adversarial traces."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.nms import greedy, local_maxima, reach_rows
from engines.rules import FAR_US, Candidate, Greedy, LocalMax, Rule, Standing
from training.nms import spivak_suppress

ROW_US = 500_000
levels = st.sampled_from([0.2, 0.5, 0.6, 0.6, 0.9, 1.0])
traces = st.lists(levels, max_size=50)


def staircase(length: int, teeth: int) -> list[float]:
    """Ever higher neighbours: the fate of each hangs on the next."""
    return [((i % teeth) + 1) / (teeth + 1) for i in range(length)]


adversarial = st.one_of(
    traces,
    st.builds(staircase, st.integers(0, 60), st.integers(1, 30)),
    st.builds(lambda n, t: staircase(n, t)[::-1], st.integers(0, 60), st.integers(1, 30)),
    st.builds(lambda n: [0.5] * n, st.integers(0, 40)),
)


def candidates(trace: Sequence[float], shifts_us: Sequence[int] | None = None) -> list[Candidate]:
    shifts = shifts_us or [0] * len(trace)
    return [Candidate(i * ROW_US + shifts[i], score, i) for i, score in enumerate(trace)]


def settled(rule: Rule, found: Sequence[Candidate], reach_us: int = 0, wait_us: int = FAR_US) -> list[Standing]:
    """Feed a row at a time; `reach_us` is how far a candidate can be off its row, `wait_us` the deadline."""
    standing: list[Standing] = []
    for one in found:
        rule.add(one)
        next_us = (one.row + 1) * ROW_US - reach_us
        standing += rule.settle(next_us, (one.row + 2) * ROW_US - wait_us)
    return standing + rule.settle(FAR_US, -FAR_US)


@given(adversarial, st.integers(0, 14), st.sampled_from([0.0, 0.5]))
def test_greedy_without_a_deadline_equals_the_offline_rule(
    trace: list[float], window_rows: int, threshold: float
) -> None:
    before, after = (rows * ROW_US for rows in reach_rows(window_rows))
    standing = settled(Greedy(before, after), [c for c in candidates(trace) if c.score >= threshold])
    wanted, _ = greedy(np.array(trace, np.float64), window_rows, threshold)
    assert sorted(s.candidate.row for s in standing) == sorted(wanted.tolist())
    assert not any(s.forced for s in standing)


@given(adversarial, st.integers(0, 6))
def test_greedy_has_the_symmetric_window_of_other_originals_too(trace: list[float], half: int) -> None:
    standing = settled(Greedy(half * ROW_US, (half + 1) * ROW_US), candidates(trace))
    wanted, _ = spivak_suppress(np.array(trace, np.float64), 2 * half)
    assert sorted(s.candidate.row for s in standing) == wanted.tolist()


@given(adversarial, st.integers(2, 12), st.data())
def test_greedy_with_displaced_times_equals_best_first_over_all_of_them(
    trace: list[float], window_rows: int, data: st.DataObject
) -> None:
    shifts = data.draw(st.lists(st.integers(-900_000, 900_000), min_size=len(trace), max_size=len(trace)))
    before, after = (rows * ROW_US for rows in reach_rows(window_rows))
    found = candidates(trace, shifts)
    wanted: list[Candidate] = []
    for one in sorted(found, key=lambda c: (-c.score, c.row)):
        if not any(w.time_us - before <= one.time_us < w.time_us + after for w in wanted):
            wanted.append(one)
    standing = settled(Greedy(before, after), found, reach_us=900_000)
    assert {s.candidate.row for s in standing} == {w.row for w in wanted}


@given(adversarial, st.sampled_from([0, 400_000, 1_000_000, 3_500_000]), st.data())
def test_local_max_equals_its_offline_form(trace: list[float], radius_us: int, data: st.DataObject) -> None:
    shifts = data.draw(st.lists(st.integers(-900_000, 900_000), min_size=len(trace), max_size=len(trace)))
    found = candidates(trace, shifts)
    standing = settled(LocalMax(radius_us), found, reach_us=900_000)
    times, scores = np.array([c.time_us for c in found], np.int64), np.array([c.score for c in found], np.float32)
    assert sorted(s.candidate.row for s in standing) == np.flatnonzero(local_maxima(times, scores, radius_us)).tolist()
    assert not any(s.forced for s in standing)


@pytest.mark.parametrize("kind", ["local-max", "greedy"])
@given(trace=adversarial, reach_rows_=st.integers(1, 10), wait_rows=st.integers(1, 12))
def test_a_deadline_bounds_the_wait_and_nothing_stands_beside_what_it_forced(
    kind: str, trace: list[float], reach_rows_: int, wait_rows: int
) -> None:
    rule: Rule = (
        LocalMax(reach_rows_ * ROW_US) if kind == "local-max" else Greedy(reach_rows_ * ROW_US, reach_rows_ * ROW_US)
    )
    wait_us, standing = wait_rows * ROW_US, []
    for one in candidates(trace):
        rule.add(one)
        now_us = (one.row + 1) * ROW_US
        standing += rule.settle(now_us, now_us + ROW_US - wait_us)
        assert all(c.time_us + wait_us >= now_us + ROW_US for c in rule.open)
    standing += rule.settle(FAR_US, -FAR_US)
    times = [s.candidate.time_us for s in standing]
    assert len(set(times)) == len(times)
    closest = min((abs(a - b) for a, b in itertools.combinations(times, 2)), default=FAR_US)
    assert closest > reach_rows_ * ROW_US if kind == "local-max" else closest >= reach_rows_ * ROW_US


def test_a_chain_of_ever_higher_neighbours_waits_without_a_bound_unless_a_deadline_forces_it() -> None:
    chain = candidates(staircase(40, 40))
    patient, hurried = Greedy(2 * ROW_US, 2 * ROW_US), Greedy(2 * ROW_US, 2 * ROW_US)
    for one in chain:
        patient.add(one)
        assert patient.settle((one.row + 1) * ROW_US, -FAR_US) == []
    assert [s.forced for s in settled(hurried, chain, wait_us=4 * ROW_US)].count(True) > 5


@pytest.mark.parametrize("kind", ["local-max", "greedy"])
def test_what_is_kept_does_not_grow_with_the_match(kind: str) -> None:
    rule: Rule = LocalMax(3 * ROW_US) if kind == "local-max" else Greedy(6 * ROW_US, 6 * ROW_US)
    rng = np.random.default_rng(0)
    most = 0
    for row in range(5000):
        rule.add(Candidate(row * ROW_US, float(rng.random()), row))
        rule.settle((row + 1) * ROW_US, row * ROW_US - 40 * ROW_US)
        most = max(most, len(rule.open) + sum(len(x) for x in vars(rule).values() if isinstance(x, list)))
    assert most < 150
