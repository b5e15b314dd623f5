"""The guard notices a stream that is late, and no other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config import GuardConfig
from streamer.guard import Guard

SLACK_S, POLL_S = 0.5, 0.2
CONFIG = GuardConfig(slack_s=SLACK_S, window_seconds=60)


class World:
    """A guard, the wall clock that it reads, and what it has said."""

    def __init__(self, speed: float = 1.0) -> None:
        self.now_s = 1000.0
        self.guard = Guard(CONFIG, speed, clock=lambda: self.now_s)
        self.overdue: list[tuple[float, int]] = []

    def look(self) -> None:
        due_s = self.guard.overdue()
        if due_s is not None:
            self.overdue.append((self.now_s, due_s))

    def wait_until(self, wall_s: float) -> None:
        """Look at the guard five times a second, as the pipeline does."""
        while self.now_s + POLL_S < wall_s:
            self.now_s += POLL_S
            self.look()
        self.now_s = max(self.now_s, wall_s)
        self.look()

    def receive(self, arrivals: list[float], first: int = 0) -> None:
        """Receive seconds `first`, `first` + 1, … at these times of the wall clock."""
        for index, arrived_s in enumerate(arrivals, first):
            self.wait_until(arrived_s)
            self.guard.arrived(index + 1, arrived_s)
            self.look()


def test_before_anything_has_come_nothing_is_overdue() -> None:
    world = World()
    world.wait_until(2000)
    assert world.overdue == []


@given(st.lists(st.floats(0, 0.45), min_size=5, max_size=150), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_jitter_below_the_slack_is_not_overdue(jitter_s: list[float], speed: float) -> None:
    world = World(speed)
    world.receive([1000 + (k + 1) / speed + late_s for k, late_s in enumerate(jitter_s)])
    assert world.overdue == []


@given(st.integers(1, 12), st.lists(st.floats(0, 0.45), min_size=2, max_size=14), st.integers(1, 3))
def test_bursts_are_not_overdue(length: int, jitter_s: list[float], at_once: int) -> None:
    """HLS: segments come whole, as often as they are long; at the start some come at once."""
    world = World()
    segments_s = [1000.0] * (at_once - 1) + [1000 + i * length + late_s for i, late_s in enumerate(jitter_s)]
    world.receive([arrived_s for arrived_s in segments_s for _ in range(length)])
    assert world.overdue == []


@given(st.lists(st.floats(0, 0.4), min_size=5, max_size=90), st.floats(2, 30), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_a_stall_is_noticed_second_by_second(jitter_s: list[float], stall_s: float, speed: float) -> None:
    world = World(speed)
    world.receive([1000 + (k + 1) / speed + late_s for k, late_s in enumerate(jitter_s)])
    assert world.overdue == []
    world.wait_until(world.now_s + stall_s)
    for due_s in range(len(jitter_s) + 1, len(jitter_s) + math.floor((stall_s - 1.2) * speed)):
        when_s = min(wall_s for wall_s, said_s in world.overdue if said_s >= due_s)
        on_time_s = 1000 + due_s / speed
        assert on_time_s + SLACK_S <= when_s + 1e-6
        assert when_s <= on_time_s + SLACK_S + max(jitter_s) + POLL_S + 1e-6


@given(st.floats(1.5, 60))
def test_a_stream_that_goes_on_later_is_followed_at_once(stall_s: float) -> None:
    world = World()
    world.receive([1001.0 + k for k in range(70)])
    world.wait_until(1070 + stall_s)
    assert world.overdue
    world.overdue.clear()
    world.receive([1071 + stall_s + k for k in range(20)], first=70)
    world.overdue.clear()  # what was said while the first of them was still out
    world.receive([1091 + stall_s + k for k in range(60)], first=90)
    assert world.overdue == []
    world.wait_until(world.now_s + 3)
    assert world.overdue[0][1] == 151


def test_a_stream_that_catches_up_is_trusted_again_when_its_late_seconds_are_long_past() -> None:
    world = World()
    world.receive([1001.0 + k for k in range(30)])
    world.receive([1050.0] * 20, first=30)
    world.overdue.clear()
    world.receive([1051.0 + k for k in range(30)], first=50)
    world.wait_until(1085)
    assert world.overdue == []
    world.receive([1085.0] * 5 + [1086.0 + k for k in range(60)], first=80)
    world.wait_until(1147)
    assert [due_s for _, due_s in world.overdue] == [146, 146, 146]


def test_a_second_that_waited_is_overdue_only_when_the_next_ones_are() -> None:
    """Under overload: what has arrived and is fed next says its own words; only what must go before it is asked for."""
    world = World()
    world.receive([1001.0, 1002.0, 1003.0])
    world.now_s = 1004.9
    world.guard.arrived(4, 1004.0)
    assert world.guard.overdue() is None
    world.now_s = 1008.0
    world.guard.arrived(5, 1005.0)
    assert world.guard.overdue() == 7


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_how_long_the_stream_should_have_been_past_a_time(speed: float) -> None:
    world = World(speed)
    world.receive([1000 + (k + 1) / speed for k in range(5)])
    world.now_s += 3
    assert world.guard.since(5) == pytest.approx(3)


@pytest.mark.parametrize("step_s", [5, 9])
def test_a_stall_after_a_step_in_media_time_is_noticed_as_soon_as_any(step_s: int) -> None:
    world = World()
    world.receive([1000.0 + k for k in range(1, 11)])
    for k in range(11, 21):
        world.wait_until(1000.0 + k)
        world.guard.arrived(k + step_s, 1000.0 + k)
    world.overdue.clear()
    world.wait_until(1025.0)
    assert world.overdue
    assert world.overdue[0][0] < 1020.0 + 1 + SLACK_S + 2 * POLL_S
