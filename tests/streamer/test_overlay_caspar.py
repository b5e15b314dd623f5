from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser import chromium
from overlay_page import gone, new_page, overlay, stays_away, title, word
from playwright.async_api import Page

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


NONSENSE = ["", "nonsense", "<templateData>", "null", "[1]", '{"__proto__": {"a": 1}}', '{"look.scale": "x"}', 7]


async def test_nonsense_from_an_operator_changes_nothing(page: Page, tmp_path: Path) -> None:
    async with overlay(page, tmp_path) as hub:
        earlier = await page.evaluate("settings.config")
        await page.evaluate("(all) => all.forEach((data) => { update(data); stop(); next(); play(); })", NONSENSE)
        assert await page.evaluate("settings.config") == earlier
        assert await page.evaluate("({}).a") is None
        hub.send("spot", word("Goal"))
        assert await title(page) == "GOAL"
