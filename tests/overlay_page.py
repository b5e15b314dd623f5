"""The overlay in a browser, words for it to show, and its pixels.

async with served() as (url, hub), chromium() as browser:
    page = await open_overlay(await new_page(browser), f"{url}/overlay")
    hub.send("spot", word("Goal"))
    await settled(page)
    await shoot(page, Path("goal.png"), over=Path("frame.png"))
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
from playwright.async_api import Browser, Page

from engines.second import UINT8
from streamer.config import ServeConfig
from streamer.metrics import Metrics
from streamer.pages.hub import Hub
from streamer.payload import SpotMessage
from streamer.web import serve

HD = (1920, 1080)
LOWER_THIRD = ".lower-third:not(.leaving)"
HELLO: Mapping[str, Any] = {
    "stream": "main",
    "run": "r1",
    "bundle": None,
    "labels": ["Goal"],
    "promise": {},
    "deadline": {},
    "clips": False,
    "preview": False,
    "live": True,
    "version": "0",
}


@asynccontextmanager
async def served(overlay: Path | None = None, port: int = 0) -> AsyncIterator[tuple[str, Hub]]:
    """Give the streamer's real server, and the hub by which it is told what to say."""
    hub = Hub(dict(HELLO))
    config = ServeConfig(port=port, overlay=overlay)
    async with serve(config, Metrics(), lambda: None, hub, None) as url:
        yield url, hub


def word(
    label: str = "Goal",
    *,
    state: str = "confirmed",
    name: str = "a1",
    ago_s: float = 3.0,
    media_time: float = 754.0,
    confidence: float = 0.87,
    said: datetime | None = None,
    utc: datetime | None = None,
) -> SpotMessage:
    """Return a word that is said now, unless said otherwise, about an action so many seconds before."""
    return SpotMessage.model_validate(
        {
            "id": name,
            "stream": "main",
            "half": 1,
            "epoch": 0,
            "label": label,
            "media_time": media_time,
            "utc": utc,
            "confidence": confidence,
            "state": state,
            "revision": 2 if state != "provisional" else 1,
            "emitted_at": media_time + ago_s,
            "said_utc": said or datetime.now(UTC),
            "latency": {"compute": 0.02},
            "flags": [],
        }
    )


def before(seconds: float) -> datetime:
    """Return the instant so long ago."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def new_page(browser: Browser) -> Page:
    """Return an empty page of 1920 by 1080."""
    return await browser.new_page(viewport={"width": HD[0], "height": HD[1]})


async def open_overlay(page: Page, url: str, ready: str = "/^(listening|none)/.test(window.sourceText())") -> Page:
    """Return the page with the overlay, which listens, or has nothing to listen to.

    Args:
        page: where it is opened.
        url: of the overlay.
        ready: what is waited for; `sourceText` says what the overlay says of its source.
    """
    await page.goto(url)
    await page.evaluate("window.sourceText = () => debug.lines.source")
    await until(page, ready)
    return page


async def title(page: Page) -> str:
    """Wait for a lower third; return what it says."""
    await page.wait_for_selector(LOWER_THIRD)
    return await page.locator(f"{LOWER_THIRD} .title").inner_text()


async def gone(page: Page) -> None:
    """Wait until nothing is on air."""
    await page.wait_for_selector(".lower-third", state="detached")


async def stays_away(page: Page, seconds: float = 0.3) -> None:
    """Check that nothing comes up for a while."""
    await asyncio.sleep(seconds)
    assert await page.locator(".lower-third").count() == 0


@asynccontextmanager
async def overlay(page: Page, folder: Path, config: str = "", query: str = "") -> AsyncIterator[Hub]:
    """Open the overlay, listening to the real server; give the hub."""
    path = folder / "overlay.toml"
    path.write_text(config)
    async with served(path) as (url, hub):
        await open_overlay(page, f"{url}/overlay{query}")
        yield hub


async def until(page: Page, condition: str, timeout_s: float = 30.0) -> None:
    """Wait until an expression holds; Playwright's own way needs eval, which the page's policy forbids."""
    async with asyncio.timeout(timeout_s):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.02)


async def settled(page: Page) -> None:
    """Wait until a lower third is there and nothing moves."""
    await page.wait_for_selector(".lower-third:not(.leaving)")
    await page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")


async def pixels(page: Page) -> UINT8:
    """Return what the page puts over the programme: RGBA (H, W, 4)."""
    return _decoded(await page.screenshot(omit_background=True))


async def shoot(page: Page, path: Path, over: Path | None = None) -> None:
    """Write what is to be seen as PNG: over a picture of the programme, or over nothing.

    Args:
        page: the overlay.
        path: of the PNG.
        over: a picture (PNG or JPEG), which is fitted into the page's size.
    """
    shot = await page.screenshot(omit_background=True)
    if over is None:
        path.write_bytes(shot)
        return
    size, browser = page.viewport_size, page.context.browser
    assert size is not None
    assert browser is not None
    viewer = await browser.new_page(viewport=size)
    layers = [f"data:;base64,{base64.b64encode(layer).decode()}" for layer in (over.read_bytes(), shot)]
    style = f"position:absolute;left:0;top:0;width:{size['width']}px;height:{size['height']}px"
    await viewer.set_content("".join(f'<img src="{layer}" style="{style}">' for layer in layers))
    await viewer.wait_for_function("[...document.images].every((image) => image.complete)")
    await viewer.screenshot(path=path)
    await viewer.close()


def _decoded(png: bytes) -> UINT8:
    with av.open(io.BytesIO(png), "r") as container:
        frame = next(container.decode(video=0))
    rgba: UINT8 = frame.to_ndarray(format="rgba").astype(np.uint8)
    return rgba
