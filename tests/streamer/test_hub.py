"""What pages are told, what a late one gets, and what becomes of a slow one."""

import json
from datetime import UTC, datetime

import pytest

from streamer.pages import hub as hub_module
from streamer.pages.hub import Hub, Page
from streamer.payload import ClipMessage, ClockMessage, Message, ScoredRow, ScoresMessage, SpotMessage

NOW = datetime(2025, 5, 31, 19, tzinfo=UTC)


def spot(name: str, state: str = "confirmed", revision: int = 1, at_s: float = 10.0) -> SpotMessage:
    fields = {"stream": "derby", "half": 1, "epoch": 0, "label": "Goal", "media_time": at_s, "confidence": 0.9}
    more = {"emitted_at": at_s + 4, "said_utc": NOW, "latency": {"grid": 0.5}, "flags": []}
    return SpotMessage.model_validate({"id": name, "state": state, "revision": revision, **fields, **more})


def scores(at_s: float, **of_label: float) -> ScoresMessage:
    row = ScoredRow(media_time=at_s, look_ahead=4.0, scores=of_label)
    return ScoresMessage(stream="derby", half=1, epoch=0, media_time=at_s + 4.5, rows=[row])


def clock(at_s: float) -> ClockMessage:
    return ClockMessage(stream="derby", half=1, epoch=0, media_time=at_s, at_utc=NOW)


class Event:
    """One server-sent event, taken apart."""

    def __init__(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        self.kind, self.id, self.data = fields["event"], fields.get("id"), json.loads(fields["data"])


async def told(page: Page) -> list[Event]:
    text = await page.text(0.01)
    return [Event(part) for part in (text or "").split("\n\n") if part]


def new_hub(*said: tuple[str, Message]) -> Hub:
    hub = Hub({"stream": "derby", "run": "r1", "labels": ["Goal", "Foul"]})
    for kind, message in said:
        hub.send(kind, message)
    return hub


async def test_a_late_page_hears_of_every_spot_its_last_word_and_how_things_are() -> None:
    hub = new_hub(
        ("spot", spot("a", "provisional")),
        ("scores", scores(1.5, Goal=0.8, Foul=0.004)),
        ("clock", clock(5)),
        ("spot", spot("b")),
        ("spot", spot("a", revision=2)),
        ("clip", ClipMessage(id="a", url="clips/a.mp4")),
        ("clock", clock(10)),
    )
    with hub.listening(history=True, last_id=None) as page:
        events = await told(page)
    assert [e.kind for e in events] == ["hello", "clock", "past", "spot", "spot", "clip", "present"]
    assert events[0].data["stream"] == "derby"
    assert events[1].data["media_time"] == 10
    assert events[2].data == {"rows": [[1, 0, 1.5, {"Goal": 0.8}]]}
    assert [(e.data["id"], e.data["revision"]) for e in events[3:5]] == [("b", 1), ("a", 2)]


async def test_a_page_that_wants_no_history_hears_only_how_things_are() -> None:
    hub = new_hub(("spot", spot("a")), ("clock", clock(5)))
    with hub.listening(history=False, last_id=None) as page:
        assert [e.kind for e in await told(page)] == ["hello", "clock", "present"]
        hub.send("spot", spot("b"))
        assert [e.data["id"] for e in await told(page)] == ["b"]


@pytest.mark.parametrize("history", [True, False])
async def test_a_page_that_comes_back_hears_what_it_has_missed(history: bool) -> None:
    hub = new_hub(("spot", spot("a")), ("scores", scores(1, Goal=0.5)))
    with hub.listening(history=True, last_id=None) as page:
        had = (await told(page))[-1].id
    hub.send("scores", scores(2, Goal=0.6))
    hub.send("spot", spot("b"))
    with hub.listening(history=history, last_id=had) as page:
        events = await told(page)
    assert [e.data["rows"][0][2] for e in events if e.kind == "past"] == [2]
    assert [e.data["id"] for e in events if e.kind == "spot"] == ["b"]


@pytest.mark.parametrize("identifier", ["", "-", "other-3", "other", "x-²", "-1"])
async def test_an_id_of_another_run_counts_for_nothing(identifier: str) -> None:
    hub = new_hub(("spot", spot("a")))
    with hub.listening(history=True, last_id=identifier) as page:
        assert "spot" in [e.kind for e in await told(page)]


async def test_a_slow_page_loses_the_oldest_and_is_told() -> None:
    hub = new_hub()
    with hub.listening(history=True, last_id=None) as slow, hub.listening(history=True, last_id=None) as quick:
        await told(slow)
        for i in range(hub_module._MOST_WAITING + 20):
            hub.send("spot", spot(f"s{i}"))
            if i % 100 == 0:
                await told(quick)
        events = await told(slow)
        assert (await told(quick))[0].kind == "spot"
    assert events[0].kind == "missed"
    assert events[0].data["count"] >= 18
    assert events[-1].data["id"] == f"s{hub_module._MOST_WAITING + 19}"
    assert hub.pages == 0


async def test_the_history_is_bounded() -> None:
    hub = new_hub()
    for i in range(hub_module._MOST_SPOTS + 5):
        hub.send("spot", spot(f"s{i}"))
    for i in range(hub_module._MOST_ROWS + 5):
        hub.send("scores", scores(i, Goal=0.5))
    with hub.listening(history=True, last_id=None) as page:
        events = await told(page)
    spots = [e.data["id"] for e in events if e.kind == "spot"]
    assert (len(spots), spots[0]) == (hub_module._MOST_SPOTS, "s5")
    rows = [row for e in events if e.kind == "past" for row in e.data["rows"]]
    assert (len(rows), rows[0][2]) == (hub_module._MOST_ROWS, 5)


async def test_pictures_are_wanted_from_the_first_viewer_to_the_last_and_the_newest_counts() -> None:
    hub = new_hub()
    wanted: list[bool] = []
    hub.viewers = wanted.append
    hub.picture(b"nobody")
    with hub.viewing() as first:
        with hub.viewing() as second:
            for picture in (b"1", b"2", b"3"):
                hub.picture(picture)
            assert await first.take(0.01) == [b"3"]
            assert await second.take(0.01) == [b"3"]
        assert wanted == [True]
    assert wanted == [True, False]


async def test_everybody_can_be_sent_away() -> None:
    hub = new_hub()
    with hub.listening(history=True, last_id=None) as page, hub.viewing() as viewer:
        hub.dismiss()
        assert await page.text(1) is None
        assert await viewer.take(1) is None
    with hub.listening(history=True, last_id=None) as later:
        assert await told(later), "whoever comes afterwards is welcome"
