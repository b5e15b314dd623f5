"""What a run tells of itself."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from fakes import fake_bundle, fake_manifest

from engines.decider import Spot
from engines.head import Scores
from streamer.desk import Desk
from streamer.feed import Advanced
from streamer.ingest.messages import SourceChanged
from streamer.progress import Progress
from streamer.reports import Reports


def reports(progress: Progress | None = None) -> Reports:
    desk = Desk({"Goal": 0.5, "Foul": 0.5})
    return Reports("main", "run", fake_bundle(fake_manifest()), desk, progress or Progress())


def row(index: int, scores: Sequence[float], look_ahead: int = 1) -> Scores:
    return Scores(0, index, index + 1, np.array(scores, np.float32), np.zeros(2, np.float32), frozenset(), look_ahead)


def test_the_promise_and_the_bundle_are_in_the_status() -> None:
    status = reports().status("online", {})
    promised_s = fake_manifest().promised_delay_s("Goal")
    assert status.promise == {"Goal": promised_s, "Foul": promised_s}
    assert status.bundle is not None
    assert status.bundle.name == "fake"
    assert status.statistics is None
    assert set(status.health) == {"source", "engines"}


@pytest.mark.parametrize(
    ("change", "health"),
    [
        (SourceChanged(1, "opening"), "warning"),
        (SourceChanged(1, "running"), "ok"),
        (SourceChanged(1, "waiting", "stalled", "x: nothing came within 10 s.", 1, 0.5), "warning"),
        (SourceChanged(1, "failed", "unreachable", "x: no such host."), "failed"),
        (SourceChanged(1, "ended"), "ok"),
    ],
)
def test_the_sources_health_follows_its_state(change: SourceChanged, health: str) -> None:
    one = reports()
    one.changed(change)
    status = one.status("online", {})
    assert status.health["source"].state == health
    assert status.source is not None
    assert status.source["state"] == change.state
    assert change.reason is None or status.health["source"].reason == change.reason


def test_seconds_that_are_shed_are_the_engines_fault() -> None:
    progress = Progress()
    one = reports(progress)
    assert one.status("online", {}).health["engines"].state == "ok"
    progress.shed = 3
    health = one.status("online", {}).health["engines"]
    assert (health.state, health.reason) == ("warning", "the engines are late; 3 seconds were shed")


def test_each_label_is_scored_with_its_own_look_ahead() -> None:
    manifest = fake_manifest(early_look_ahead_s=(0.0,))
    own = manifest.decision["Foul"].model_copy(update={"look_ahead_s": 0.0})
    manifest = manifest.model_copy(update={"decision": {**manifest.decision, "Foul": own}})
    one = Reports("main", "run", fake_bundle(manifest), Desk({}), Progress())
    said = one.scores(Advanced(1, 0, 5.0, scores=[row(3, (0.9, 0.8)), row(4, (0.7, 0.6), look_ahead=0)]))
    rows = [(r.media_time, r.look_ahead, r.scores) for r in said.rows]
    assert rows == [(3.5, 1.0, {"Goal": 0.9}), (4.5, 0.0, {"Foul": 0.6})]


def test_latency_is_told_by_part_of_confirmed_spots() -> None:
    one = reports()
    for n in range(1, 101):
        latency = {"grid": n / 100, "look_ahead": 1.0, "hold": 2.0, "compute": 0.01}
        one.said(Spot(str(n), "main", 1, 0, "Goal", 10.0, 0.9, 13.0 + n / 100, "confirmed", 1, latency))
        one.said(Spot(str(n), "main", 1, 0, "Goal", 10.0, 0.9, 99.0, "retracted", 1, {"grid": 99.0}))
        one.published(0.001 * n)
    told = one.stats(None).latency
    assert set(told) == {"grid", "look_ahead", "hold", "compute", "total", "publish"}
    assert (told["grid"].p50, told["grid"].p95, told["grid"].max) == (0.5, 0.95, 1.0)
    assert told["publish"].p50 == 0.05


def test_the_clock_puts_media_time_beside_the_wall_and_the_stream() -> None:
    noon = datetime(2026, 5, 30, 12, tzinfo=UTC)
    clock = reports().clock(Advanced(1, 2, 61.0, noon, "rtcp", 5_490_000))
    assert (clock.epoch, clock.media_time, clock.pts, clock.utc, clock.clock) == (2, 61.0, 5_490_000, noon, "rtcp")


def test_only_the_last_status_has_the_statistics() -> None:
    progress = Progress()
    progress.seconds = 90
    status = reports(progress).status("stopped", {}, "interrupted")
    assert status.statistics is not None
    assert status.statistics["seconds"] == 90
    assert status.health == {}
    assert status.reason == "interrupted"
