import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser import chromium
from overlay_page import gone, new_page, overlay, stays_away, title, word
from playwright.async_api import Page

from engines.errors import UsageError
from streamer.pages.overlay import read_overlay

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page() -> AsyncIterator[Page]:
    async with chromium() as browser:
        yield await new_page(browser)


async def test_in_caspars_hands_nothing_comes_before_play_nor_after_stop(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path, query="?control=caspar") as hub:
        hub.send("spot", word("Goal"))
        await stays_away(page)
        await page.evaluate("play()")
        assert await title(page) == "GOAL"
        await page.evaluate("stop()")
        await gone(page)
        hub.send("spot", word("Red card", name="a2"))
        await stays_away(page)


async def test_caspar_is_recognised(page: Page, tmp_path: Path) -> None:
    assert page.context.browser is not None
    caspars = await new_page(page.context.browser)
    await caspars.add_init_script("window.caspar = {}")
    async with overlay(caspars, tmp_path) as hub:
        hub.send("spot", word("Goal"))
        await stays_away(caspars)
        await caspars.evaluate("play()")
        assert await title(caspars) == "GOAL"
    await caspars.close()


async def test_an_operator_shows_one_by_hand_with_json(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path, query="?control=caspar"):
        await page.evaluate("(data) => update(data)", '{"label": "Goal", "text": "Milla 23’", "language": "it"}')
        await stays_away(page)
        await page.evaluate("play()")
        assert await title(page) == "GOL"
        assert await page.locator(".detail").inner_text() == "Milla 23’"
        await page.evaluate("update({ label: 'Half-time' })")
        await page.wait_for_selector("[data-label='Half-time']")
        await page.evaluate("next()")
        await gone(page)


XML = """<templateData>
  <componentData id="label"><data id="text" value="Red card" /></componentData>
  <componentData id="text"><data id="text" value="Roy &amp; Söhne" /></componentData>
  <componentData id="look.position"><data id="text" value="right" /></componentData>
  <componentData id="look.clock"><data id="text" value="true" /></componentData>
  <componentData id="duration_s"><data id="text" value="60" /></componentData>
  <componentData id="labels"><data id="text" value="Corner, Foul" /></componentData>
</templateData>"""


async def test_an_operator_shows_one_by_hand_and_sets_keys_with_xml(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path) as hub:
        await page.evaluate("(data) => update(data)", XML)
        assert await title(page) == "RED CARD"
        assert await page.locator(".detail").inner_text() == "Roy & Söhne"
        assert await page.locator("#stage").get_attribute("data-position") == "right"
        await page.evaluate("next()")
        await gone(page)
        hub.send("spot", word("Goal"))
        await stays_away(page)
        hub.send("spot", word("Corner", name="a2"))
        assert await title(page) == "CORNER"
        assert await page.locator(".clock").inner_text() == "12:34"


REFUSED: list[tuple[str, object]] = [
    *(("duration_s", -5), ("duration_s", 1e9), ("durations_s.Goal", 0), ("latest_s", -1), ("programme_delay_s", 1e9)),
    *(("min_confidence", 2), ("labels", ""), ("look.scale", 50), ("look.bottom_margin", -1), ("look.position", "top")),
    *(("look.accent", "red"), ("look.font", "x; y")),
]


async def test_what_the_config_refuses_an_operator_cannot_set(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path):
        earlier = await page.evaluate("settings.config")
        for key, value in REFUSED:
            table, _, name = key.rpartition(".")
            path = tmp_path / "refused.toml"
            path.write_text(f"{f'[{table}]' if table else ''}\n{name} = {json.dumps(value)}")
            with pytest.raises(UsageError):
                read_overlay(path)
            await page.evaluate("(data) => update(data)", {key: value})
            assert await page.evaluate("settings.config") == earlier, key
        await page.evaluate("update({ 'durations_s.Goal': '2', 'look.scale': 2 })")
        assert await page.evaluate("[settings.durationMs('Goal'), settings.config.look.scale]") == [2000, 2]


@pytest.mark.parametrize("command", ["next()", "stop(), play()"])
async def test_a_provisional_one_that_was_sent_away_does_not_come_back(
    page: Page, tmp_path: Path, command: str
) -> None:
    async with overlay(page, tmp_path, "provisional = true") as hub:
        hub.send("spot", word("Goal", state="provisional"))
        assert await title(page) == "GOAL?"
        await page.evaluate(command)
        await gone(page)
        hub.send("spot", word("Goal"))
        await stays_away(page)


NONSENSE = ["", "nonsense", "<templateData>", "null", "[1]", '{"__proto__": {"a": 1}}', '{"look.scale": "x"}', 7]


async def test_nonsense_from_an_operator_changes_nothing(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path) as hub:
        earlier = await page.evaluate("settings.config")
        await page.evaluate("(all) => all.forEach((data) => { update(data); stop(); next(); play(); })", NONSENSE)
        assert await page.evaluate("settings.config") == earlier
        assert await page.evaluate("({}).a") is None
        hub.send("spot", word("Goal"))
        assert await title(page) == "GOAL"
