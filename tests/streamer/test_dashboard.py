"""The dashboard in a real browser, fed by hand."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import av
import pytest
import pytest_asyncio
from browser import chromium
from playwright.async_api import Browser, Page, expect

from streamer.config import ServeConfig
from streamer.metrics import Metrics
from streamer.pages.hub import Hub
from streamer.payload import (
    BundleRef,
    ClipMessage,
    Health,
    Percentiles,
    ScoredRow,
    ScoresMessage,
    SpotMessage,
    StatsMessage,
    StatusMessage,
)
from streamer.sources.jpeg import JpegEncoder
from streamer.sources.picture import AvPicture
from streamer.web import serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLE = Path(__file__).parents[2] / "samples" / "broadcast.ts"
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
LABELS = ["Goal", "Foul", "Corner", "Yellow card"]
NOW = datetime(2025, 5, 31, 19, tzinfo=UTC)
BUNDLE = {"name": "small", "digest": "ab" * 32}
HELLO = {
    **{"stream": "derby", "run": "r1", "bundle": BUNDLE, "labels": LABELS, "promise": dict.fromkeys(LABELS, 5.0)},
    **{"deadline": {}, "clips": True, "preview": True, "live": True, "version": "0"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three seconds of the sample as `goal.mp4`."""
    folder = tmp_path_factory.mktemp("clips")
    with av.open(str(SAMPLE)) as source, av.open(str(folder / "goal.mp4"), "w") as clip:
        track = source.streams.video[0]
        written = clip.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.pts is None or (packet.pts - (track.start_time or 0)) * packet.time_base > 3:
                break
            packet.stream = written
            clip.mux(packet)
    return folder


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    with av.open(str(SAMPLE)) as source:
        return JpegEncoder().encode(AvPicture(next(source.decode(video=0))))


def spot(
    name: str, label: str = "Goal", state: str = "confirmed", at_s: float = 65.0, delay_s: float = 4.0, epoch: int = 0
) -> SpotMessage:
    return SpotMessage.model_validate(
        {
            **{"id": name, "stream": "derby", "half": 1, "epoch": epoch, "label": label, "media_time": at_s},
            **{"confidence": 0.91, "state": state, "revision": 1 if state == "provisional" else 2},
            **{"emitted_at": at_s + delay_s, "said_utc": NOW, "flags": ["forced"], "bundle": BundleRef(**BUNDLE)},
            "latency": {"grid": 0.5, "look_ahead": 3.0, "hold": 0.5, "compute": 0.1},
        }
    )


def scores(at_s: float, epoch: int = 0, **of_label: float) -> ScoresMessage:
    row = ScoredRow(media_time=at_s, look_ahead=4.0, scores=of_label)
    return ScoresMessage(stream="derby", half=1, epoch=epoch, media_time=at_s + 4.5, rows=[row])


def status(**changed: Any) -> StatusMessage:
    ailing = Health(state="warning", reason="the broker is not connected; spots wait for it")
    fields = {"stream": "derby", "run": "r1", "state": "online", "at_utc": NOW, "source": {"state": "running"}}
    health = {"source": Health(state="ok"), "broker": ailing}
    return StatusMessage.model_validate({**fields, "health": health, **changed})


def stats() -> StatsMessage:
    of_part = {part: Percentiles(p50=1.0, p95=2.0, max=3.0) for part in ("grid", "look_ahead", "compute", "total")}
    counted: dict[str, float] = {"seconds_shed": 7, "deadlines_missed": 0}
    return StatsMessage(
        stream="derby", run="r1", at_utc=NOW, statistics=counted, latency=of_part, outbox={"pending": 3}
    )


def match() -> Hub:
    """A hub that has said a minute of a match."""
    hub = Hub(HELLO)
    for message in (status(), stats()):
        hub.send("status" if isinstance(message, StatusMessage) else "stats", message)
    for second in range(60):
        hub.send("scores", scores(second + 0.5, Goal=0.8 if second == 20 else 0.02, Foul=0.3 if second % 9 == 0 else 0))
    hub.send("spot", spot("early", "Foul", at_s=20.5))
    hub.send("spot", spot("taken-back", "Corner", "retracted", at_s=30.5))
    return hub


class Watched:
    """A page that is open, and all that it asked for and complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    @property
    def entries(self) -> Any:
        return self.page.locator("#spots li")


@asynccontextmanager
async def opened(browser: Browser, hub: Hub, clips: Path | None = None, **context: Any) -> AsyncIterator[Watched]:
    async with serve(ServeConfig(0), Metrics(), lambda: None, hub, clips) as url:
        page = await browser.new_page(**{"viewport": {"width": 1600, "height": 900}, **context})
        watched = Watched(page, url)
        try:
            await page.goto(url)
            await expect(page.locator("#stream")).to_have_text("derby")
            yield watched
        finally:
            await page.context.close() if context else await page.close()
    assert watched.complaints == []
    assert {asked.split("/")[2] for asked in watched.asked} == {url.split("/")[2]}, "nothing is asked of others"


async def test_a_page_opened_late_shows_what_was_said(browser: Browser) -> None:
    async with opened(browser, match()) as watched:
        await expect(watched.entries).to_have_count(1)
        await expect(watched.entries.first).to_contain_text(re.compile("0:20.*Foul.*confirmed"))
        await expect(watched.page.locator("#latest-label")).to_have_text("Foul")
        await expect(watched.page.locator("#media-time")).to_have_text(re.compile(r"1:0\d"))
        await expect(watched.page.locator("#said")).to_be_empty()
        await expect(watched.page.locator("#health")).to_contain_text("the broker is not connected")
        await expect(watched.page.locator("#counts")).to_contain_text("seconds shed7")
        await expect(watched.page.locator("#kept")).to_have_text("1 of 1")
        await expect(watched.page.locator("#latency")).to_contain_text("look-ahead")
        await watched.page.keyboard.press("t")
        await expect(watched.page.locator("#table-rows")).to_contain_text("0:30 retracted")
        await expect(watched.page.locator("#table-rows")).to_contain_text("80%")


async def test_a_word_is_shown_as_it_changes_and_a_confirmed_one_is_read_out(browser: Browser) -> None:
    hub = match()
    async with opened(browser, hub) as watched:
        await expect(watched.entries).to_have_count(1)
        hub.send("spot", spot("a", state="provisional"))
        hub.send("spot", spot("b", "Corner", state="provisional", at_s=66))
        await expect(watched.entries).to_have_count(3)
        await expect(watched.page.locator("#said")).to_be_empty()
        hub.send("spot", spot("a"))
        hub.send("spot", spot("b", "Corner", state="retracted", at_s=66))
        await expect(watched.entries).to_have_count(2)
        await expect(watched.page.locator("#said")).to_have_text("Goal, confirmed at 1:05")
        await expect(watched.page.locator("#latest-label")).to_have_text("Goal")
        await watched.page.locator("#filter").select_option("Foul")
        await expect(watched.entries).to_have_count(1)


async def test_the_keyboard_alone_finds_a_spot_and_plays_its_clip(browser: Browser, clips: Path) -> None:
    hub = match()
    hub.send("spot", spot("a"))
    hub.send("clip", ClipMessage(id="a", url="clips/goal.mp4"))
    async with opened(browser, hub, clips) as watched:
        page = watched.page
        await expect(watched.entries.first).to_contain_text("plays the clip")
        for _ in range(30):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.closest('#spots') !== null"):
                break
        await page.keyboard.press("Enter")
        await expect(page.locator("#clip")).to_be_visible()
        await expect(page.locator("#clip-title")).to_have_text("Goal · 1:05")
        for _ in range(100):
            if await page.evaluate("document.getElementById('video').currentTime") > 0.1:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("it does not play")
        await expect(page.locator("#clip-fault")).to_be_hidden()
        await expect(page.locator("#preview")).not_to_have_attribute("src", re.compile("."))
        await expect(page.locator("#clip-facts")).to_contain_text("forced")
        await page.keyboard.press("Escape")
        await expect(page.locator("#clip")).to_be_hidden()
        await expect(page.locator("#preview")).to_have_attribute("src", re.compile("^/preview"))
        assert await page.evaluate("document.activeElement.closest('#spots') !== null"), "focus is where it was"
        await expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
        await page.keyboard.press("l")
        await expect(page.locator("#live")).to_have_attribute("aria-pressed", "true")


async def test_the_timeline_says_what_is_under_the_arrow_keys(browser: Browser) -> None:
    async with opened(browser, match()) as watched:
        canvas = watched.page.locator("#canvas")
        await canvas.focus()
        await watched.page.keyboard.press("Home")
        await expect(canvas).to_have_attribute("aria-valuetext", re.compile("Foul · 0:20 · confirmed, 91%"))
        await watched.page.keyboard.press("ArrowRight")
        await expect(canvas).to_have_attribute("aria-valuetext", re.compile("Corner · 0:30 · retracted"))
        await expect(watched.page.locator("#tip")).to_contain_text("Corner")
        await watched.page.keyboard.press("?")
        await expect(watched.page.locator("#help")).to_be_visible()
        await watched.page.locator("#shortcuts").uncheck()
        await watched.page.keyboard.press("Escape")
        await watched.page.keyboard.press("t")
        await expect(watched.page.locator("#table-rows")).to_be_hidden()


async def test_a_spot_beyond_the_promise_is_counted(browser: Browser) -> None:
    hub = match()
    async with opened(browser, hub) as watched:
        hub.send("spot", spot("late", delay_s=5.5))
        await expect(watched.page.locator("#kept")).to_have_text("1 of 2")
        await expect(watched.page.locator("#strips .late")).to_have_count(1)


async def test_commands_and_a_lost_source_are_shown(browser: Browser) -> None:
    hub = match()
    async with opened(browser, hub) as watched:
        await expect(watched.page.locator("#state")).to_have_text("Live")
        hub.send("status", status(source={"state": "waiting"}, muted=["Goal"], thresholds={"Foul": 0.6}))
        await expect(watched.page.locator("#state")).to_have_text("Source waiting")
        await expect(watched.page.locator("#notice")).to_have_text(
            "Muted by command: Goal. Foul: threshold set to 60%."
        )
        hub.send("status", status(paused=True))
        await expect(watched.page.locator("#state")).to_have_text("Paused")
        hub.send("status", status(state="offline"))
        await expect(watched.page.locator("#state")).to_have_text("Offline")


async def test_the_picture_is_fetched_while_it_is_shown(browser: Browser, jpeg: bytes) -> None:
    hub = match()
    wanted: list[bool] = []
    hub.viewers = wanted.append
    async with opened(browser, hub) as watched:
        for _ in range(100):
            hub.picture(jpeg)
            if await watched.page.evaluate("document.getElementById('preview').naturalWidth") == 640:
                break
            await asyncio.sleep(0.05)
        assert wanted == [True]
        await expect(watched.page.locator("#preview")).to_be_visible()
        await watched.page.keyboard.press("v")
        for _ in range(100):
            hub.picture(jpeg)
            await asyncio.sleep(0.02)
            if len(wanted) == 2:
                break
        assert wanted == [True, False]


@asynccontextmanager
async def back_again(page: Page, url: str, *said: SpotMessage | ScoresMessage) -> AsyncIterator[Hub]:
    """Serve another run at the address of one that has ended, which has said so much."""
    again = Hub({**HELLO, "run": "r2"})
    again.send("status", status(run="r2"))
    for message in said:
        again.send("spot" if isinstance(message, SpotMessage) else "scores", message)
    async with serve(ServeConfig(int(url.rsplit(":", 1)[1])), Metrics(), lambda: None, again, None):
        await expect(page.locator("#alert")).to_be_hidden(timeout=10_000)
        await expect(page.locator("#state")).to_have_text("Live")
        yield again


async def test_a_server_that_comes_back_is_found_and_nothing_is_lost(browser: Browser, jpeg: bytes) -> None:
    page = await browser.new_page()
    async with serve(ServeConfig(0), Metrics(), lambda: None, match(), None) as url:
        await page.goto(url)
        await expect(page.locator("#spots li")).to_have_count(1)
        await expect(page.locator("#latest-age")).not_to_be_empty()
        before = await page.locator("#preview").get_attribute("src")
    await expect(page.locator("#alert")).to_contain_text("lost")
    await expect(page.locator("#state")).to_have_text("Not connected")
    await expect(page.locator("#spots li")).to_have_count(1)
    await expect(page.locator("#preview")).not_to_have_attribute("src", re.compile("."))
    await expect(page.locator("#latest-age")).to_be_empty()
    taken_back = spot("early", "Foul", "retracted", at_s=20.5)
    async with back_again(page, url, taken_back, scores(70, epoch=1), spot("new", at_s=71, epoch=1)) as again:
        await expect(page.locator("#spots li")).to_have_count(1)
        again.send("spot", spot("newer", at_s=73, epoch=1))
        await expect(page.locator("#spots li")).to_have_count(2)
        await expect(page.locator("#spots li").first).to_contain_text("Goal")
        await page.locator("#table summary").click()
        await expect(page.locator("#table-rows")).to_contain_text("0:30 retracted")
        await expect(page.locator("#preview")).not_to_have_attribute("src", before or "")
        async with asyncio.timeout(10):
            while await page.evaluate("document.getElementById('preview').naturalWidth") != 640:
                again.picture(jpeg)
                await asyncio.sleep(0.05)
    await page.close()


async def test_a_recording_that_begins_anew_takes_the_place_of_the_run_before(browser: Browser) -> None:
    page = await browser.new_page()
    hub = match()
    async with serve(ServeConfig(0), Metrics(), lambda: None, hub, None) as url:
        await page.goto(url)
        await expect(page.locator("#media-time")).to_have_text("1:04")
        hub.send("status", status(state="stopped"))
        await expect(page.locator("#notice")).to_contain_text("Stopped: the run has ended.")
    await expect(page.locator("#state")).to_have_text("Stopped")
    await page.wait_for_timeout(200)
    await expect(page.locator("#alert")).to_be_hidden()
    async with back_again(page, url, scores(0.5, Goal=0.5)) as again:
        await expect(page.locator("#media-time")).to_have_text("0:05")
        await expect(page.locator("#spots li")).to_have_count(0)
        again.send("spot", spot("early", "Goal", at_s=2))
        await expect(page.locator("#spots li")).to_have_text([re.compile("0:02.*Goal")])
    await page.close()


async def test_a_page_that_nobody_sees_gives_its_connections_back(browser: Browser) -> None:
    hub = match()
    see = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    see += " document.dispatchEvent(new Event('visibilitychange')); }"
    page = await browser.new_page()
    await page.clock.install()
    async with serve(ServeConfig(0), Metrics(), lambda: None, hub, None) as url:
        await page.goto(url)
        await expect(page.locator("#spots li")).to_have_count(1)
        await page.evaluate(see, True)
        await page.clock.fast_forward(11_000)
        hub.send("spot", spot("a"))
        async with asyncio.timeout(10):
            while hub.pages:
                await asyncio.sleep(0.02)
        await page.clock.fast_forward(60_000)
        await expect(page.locator("#spots li")).to_have_count(1)
        await page.evaluate(see, False)
        await expect(page.locator("#spots li")).to_have_count(2)
        await expect(page.locator("#alert")).to_be_hidden()
        await page.close()


async def test_words_beyond_the_last_300_are_said_to_be_left_out(browser: Browser) -> None:
    hub = match()
    for number in range(310):
        hub.send("spot", spot(f"many{number}", at_s=number))
    async with opened(browser, hub) as watched:
        await expect(watched.page.locator("#kept")).to_have_text("300 of the last 300")


@pytest.mark.parametrize("width", [360, 1600])
async def test_axe_finds_nothing_and_nothing_sticks_out(browser: Browser, width: int) -> None:
    hub = match()
    hub.send("spot", spot("p", state="provisional"))
    hub.send("status", status(muted=["Goal"]))
    look: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
    async with opened(browser, hub, **look) as watched:
        page = watched.page
        await expect(watched.entries).to_have_count(2)
        await page.locator("summary").click()
        await page.evaluate(AXE)
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            await page.emulate_media(color_scheme=scheme)
            assert await violations(page) == []
            await page.locator("#help-open").click()
            assert await violations(page) == []
            await page.keyboard.press("Escape")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        middles = "['#help-open', '.clock'].map((name) => document.querySelector(name).getBoundingClientRect())"
        button, clock = await page.evaluate(f"{middles}.map((box) => box.top + box.height / 2)")
        assert abs(button - clock) < 10, "in one row"


async def violations(page: Page) -> list[str]:
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {[n['target'] for n in v['nodes']]} {v['nodes'][0].get('failureSummary')}"
        for v in found["violations"]
    ]
