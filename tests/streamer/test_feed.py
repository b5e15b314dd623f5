"""Words leave on time, whatever comes and whatever does not."""

from dataclasses import replace
from pathlib import Path

from fakes import fake_bundle, fake_manifest, second

from engines.decider import Spot
from streamer.config import IngestConfig, RunConfig
from streamer.decision import decided
from streamer.feed import Advanced, Feed
from streamer.ingest.messages import Arrived, Counts, HalfEnded, Opened, SourceChanged
from streamer.metrics import Metrics
from streamer.progress import Progress
from streamer.sources.base import StreamInfo

INFO = StreamInfo("mpegts", "h264", None, 320, 180, 25.0, None, recording=False)
START_S, DEADLINE_S, POLL_S = 1000.0, 3.0, 0.2
BRIGHT = 250


class World:
    """A feed, the clock that it reads, and what it has said, with the wall clock of the word."""

    def __init__(self, *, live: bool = True) -> None:
        self.now_s = START_S
        self.said_at: list[tuple[float, Spot]] = []
        self.seconds: list[Advanced] = []
        manifest = decided(fake_manifest(radius_s=3.0), deadlines_s={"*": DEADLINE_S}, provisional_threshold=0.3)
        config = RunConfig(Path("fake"), "main", IngestConfig(("x",), live=live))
        self.feed = Feed(fake_bundle(manifest), config, self, Metrics(), Progress(), clock=lambda: self.now_s)
        self.feed.take(Opened(1, INFO))

    def opened(self, opened: Opened) -> None:
        pass

    def changed(self, change: SourceChanged) -> None:
        pass

    def advanced(self, second: Advanced) -> None:
        self.seconds.append(second)

    def said(self, spot: Spot) -> None:
        self.said_at.append((self.now_s, spot))

    @property
    def final(self) -> list[Spot]:
        return [spot for _, spot in self.said_at if spot.state != "provisional"]

    def wait_until(self, wall_s: float) -> None:
        """Hear nothing until then."""
        while self.now_s + POLL_S < wall_s:
            self.now_s += POLL_S
            self.feed.take(None)
        self.now_s = max(self.now_s, wall_s)

    def receive(self, indices: range, bright: set[int], late_s: float = 0.0) -> None:
        """Receive seconds as they end, or so much later; what happens in a bright one is a Goal and a Foul."""
        for index in indices:
            self.wait_until(START_S + index + 1 + late_s)
            self.push(index, self.now_s, BRIGHT if index in bright else 0)

    def push(self, index: int, arrived_s: float, level: int = 0) -> None:
        self.feed.take(Arrived(1, second(index, level, arrived_mono_s=arrived_s), Counts()))

    def keeps_its_deadlines(self) -> bool:
        return all(spot.delay_s <= DEADLINE_S for spot in self.final)


def essence(spots: list[Spot]) -> list[Spot]:
    return [replace(spot, latency={}) for spot in spots]


def test_what_is_pending_goes_out_by_the_wall_clock_when_nothing_comes() -> None:
    world = World()
    world.receive(range(12), bright={10})
    assert world.final == []
    world.wait_until(world.now_s + 10)
    assert {(spot.label, spot.media_time, spot.emitted_at) for spot in world.final} == {
        ("Goal", 10.5, 13.0),
        ("Foul", 10.5, 13.0),
    }
    (said_s,) = {wall_s for wall_s, spot in world.said_at if spot.state == "confirmed"}
    assert START_S + 13.5 <= said_s <= START_S + 13.5 + POLL_S
    assert all("forced" in spot.flags and 0.5 <= spot.latency["compute"] < 0.8 for spot in world.final)


def test_a_replay_looks_at_no_clock() -> None:
    world = World(live=False)
    world.receive(range(12), bright={10})
    world.wait_until(world.now_s + 100)
    assert world.final == []
    world.feed.take(HalfEnded(1, None))
    assert len(world.final) == 2


def test_jitter_changes_no_word() -> None:
    live, replay = World(), World(live=False)
    for index in range(60):
        live.wait_until(START_S + index + 1 + index * 7 % 5 / 12)
        for world in (live, replay):
            world.push(index, live.now_s, BRIGHT - index if index % 7 == 0 else 0)
    assert len(replay.final) > 10
    assert [spot for _, spot in live.said_at if spot.state == "provisional"]
    assert essence([spot for _, spot in live.said_at]) == essence([spot for _, spot in replay.said_at])


def test_the_deadline_ticks_through_seconds_that_were_shed() -> None:
    for live in (True, False):
        world = World(live=live)
        world.receive(range(12), bright={10})
        world.receive(range(20, 22), bright=set())
        assert [spot.emitted_at for spot in world.final] == [13.0, 13.0]
        assert world.keeps_its_deadlines()


def test_a_stream_that_goes_on_after_a_stall_keeps_its_deadlines_again() -> None:
    """Media time stood still meanwhile: what happens after the stall is said as soon as ever."""
    world = World()
    world.receive(range(12), bright={10})
    world.wait_until(START_S + 50)
    world.said_at.clear()
    world.receive(range(12, 30), bright={20}, late_s=40)
    assert [(spot.media_time, spot.emitted_at) for spot in world.final] == [(20.5, 23.0)] * 2
    (said_s,) = {wall_s for wall_s, spot in world.said_at if spot.state == "confirmed"}
    assert said_s == START_S + 23 + 40


def test_what_is_due_goes_out_before_seconds_that_wait_are_worked_on() -> None:
    world = World()
    world.receive(range(12), bright={10})
    world.now_s = START_S + 16  # busy for four seconds; 12 to 15 have arrived meanwhile
    world.push(12, START_S + 13)
    assert [spot.emitted_at for spot in world.final] == [13.0, 13.0]
    assert all(2.9 < spot.latency["compute"] < 3.1 for spot in world.final)
    assert world.keeps_its_deadlines()


def test_no_deadline_is_broken_when_work_lags_behind_the_stream() -> None:
    """The clock of the stream runs ahead of the seconds that are worked on by more than a deadline."""
    world = World()
    world.receive(range(10), bright={5})
    for index in range(10, 40):
        world.now_s = START_S + index + 6
        world.push(index, START_S + index + 1, BRIGHT if index % 6 == 0 else 0)
    assert len(world.final) > 6
    assert world.keeps_its_deadlines()


def test_a_threshold_counts_from_the_next_second_on() -> None:
    world = World()
    world.receive(range(10), {2})
    assert [spot.label for spot in world.final] == ["Goal", "Foul"]
    world.feed.set_threshold("Foul", 1.0)
    world.receive(range(10, 20), {12})
    assert [spot.label for spot in world.final[2:]] == ["Goal"]


def test_a_threshold_stays_when_the_next_half_begins() -> None:
    world = World()
    world.feed.set_threshold("Foul", 1.0)
    world.feed.take(HalfEnded(1, None))
    world.feed.take(Opened(2, INFO))
    world.receive(range(10), {2})
    assert [spot.label for spot in world.final] == ["Goal"]


def test_each_second_tells_its_scores_and_its_clocks() -> None:
    world = World()
    world.now_s += 1
    utc_us, stream_us = 1_700_000_000_000_000, 5_000_000
    for index in range(3):
        shifted = {"utc_us": utc_us + index * 1_000_000, "stream_us": stream_us + index * 1_000_000}
        one = second(index, BRIGHT, clock="rtcp", arrived_mono_s=world.now_s, **shifted)
        world.feed.take(Arrived(1, one, Counts()))
    last = world.seconds[-1]
    assert (last.half, last.epoch, last.media_s, last.clock) == (1, 0, 3.0, "rtcp")
    assert last.utc is not None
    assert last.utc.timestamp() == 1_700_000_003
    assert last.pts == 8 * 90_000
    assert [row.index for row in last.scores] == [1]


def test_a_spot_carries_its_pts_and_its_bundle() -> None:
    world = World()
    for index in range(10):
        world.wait_until(START_S + index + 1)
        level = BRIGHT if index == 2 else 0
        one = second(index, level, arrived_mono_s=world.now_s, stream_us=2**33 * 100 // 9 + index * 1_000_000)
        world.feed.take(Arrived(1, one, Counts()))
    spot = world.final[0]
    assert spot.bundle == ("fake", "fake")
    assert spot.pts is not None
    assert abs(spot.pts - spot.media_time * 90_000) <= 1  # the counter has turned
