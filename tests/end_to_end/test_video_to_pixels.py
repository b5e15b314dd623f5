"""From the video to what people see: a lower third over the programme, and the dashboard, in a real browser.

Keeps its screenshots in the test's folder; `make screenshots` lets it play longer and puts them into docs/. `pytest
-rP` shows how long it took from a word to its pixels.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from browser import chromium
from overlay_page import LOWER_THIRD, new_page, open_overlay, pixels, settled, shoot
from playwright.async_api import Browser, Page, expect
from servers import is_open, wait_for

Start = Callable[..., "subprocess.Popen[str]"]

KEPT = os.environ.get("TOUCHLINE_SCREENSHOTS")
"""Where pictures for the documentation go."""
SPEED = 1 if KEPT else 4
LABELS = ("Goal", "Foul", "Kick-off", "Direct free-kick", "Yellow card", "Offside", "Corner")
WATCH = """
window.painted = [];
new MutationObserver(() => {
  const shown = document.querySelector(".lower-third:not(.leaving) .title");
  if (shown && shown !== window.lastShown) {
    window.lastShown = shown;
    requestAnimationFrame(() => requestAnimationFrame(() => painted.push([shown.textContent, Date.now()])));
  }
}).observe(document, {childList: true, subtree: true});
"""
"""Two frames later the first one with it has been painted."""


@pytest.fixture
def streamer(start: Start, sample: Path, free_port: int, tmp_path: Path) -> "subprocess.Popen[str]":
    options = ["--overlay", _overlay_config(tmp_path), "--clips", tmp_path / "clips", "--clip-post", "2", "--quiet"]
    deadline = ["--deadline", "5", "--json"]
    return start("live", sample, "--speed", str(SPEED), "--serve", str(free_port), *options, *deadline)


def _overlay_config(folder: Path) -> Path:
    path = folder / "overlay.toml"
    path.write_text(f"labels = {json.dumps(LABELS)}\nduration_s = 4.0\ndurations_s = {{}}\n")
    return path


@asynccontextmanager
async def open_pages(browser: Browser, port: int) -> AsyncIterator[tuple[Page, Page]]:
    """Give the overlay and the dashboard, as soon as the streamer is there."""
    await asyncio.to_thread(wait_for, lambda: is_open(port), lambda: "the streamer does not serve")
    base = f"http://127.0.0.1:{port}"
    overlay = await new_page(browser)
    await overlay.add_init_script(WATCH)
    await open_overlay(overlay, f"{base}/overlay")
    dashboard = await browser.new_page(viewport={"width": 1600, "height": 1000}, color_scheme="dark")
    await dashboard.goto(f"{base}/")
    yield overlay, dashboard


async def test_a_full_run_from_the_video_to_a_lower_third(
    streamer: "subprocess.Popen[str]", sample: Path, free_port: int, tmp_path: Path
) -> None:
    pictures = Path(KEPT) if KEPT else tmp_path
    async with chromium() as browser, open_pages(browser, free_port) as (overlay, dashboard):
        await overlay.wait_for_selector(LOWER_THIRD, timeout=60_000)
        await settled(overlay)
        alpha_HW = (await pixels(overlay))[..., 3]
        assert alpha_HW[800:].max() > 200, "something is drawn, at the bottom"
        assert not alpha_HW[:500].any(), "and nothing above it"
        frame = tmp_path / "frame.png"
        _write_frame(sample, 4.0, frame)
        await shoot(overlay, pictures / "overlay.png", over=frame)
        if KEPT:
            await asyncio.sleep(75)
        await _check_dashboard(dashboard)
        await dashboard.screenshot(path=pictures / "dashboard.png")
        await dashboard.set_viewport_size({"width": 390, "height": 844})
        await dashboard.emulate_media(color_scheme="light")
        await dashboard.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
        await dashboard.screenshot(path=pictures / "dashboard-phone.png")
        painted = await overlay.evaluate("painted")
    streamer.terminate()
    said, complaints = streamer.communicate(timeout=60)
    assert "Traceback" not in complaints
    _report(painted, said)


async def _check_dashboard(page: Page) -> None:
    """What the streamer says is there: the preview, spots, a clip, health, and the promise."""
    body = page.locator("body")
    await expect(body).to_contain_text("Foul", timeout=30_000)
    await expect(body).to_contain_text("small-hmtas-live")
    natural = "() => [...document.images].some((image) => image.naturalWidth > 300)"
    for _ in range(300):
        if await page.evaluate(natural):
            return
        await asyncio.sleep(0.1)
    pytest.fail("no preview is shown")


def _report(painted: list[tuple[str, int]], said: str) -> None:
    """Print how long it took from each word to its pixels: both clocks are this machine's."""
    words = [json.loads(line) for line in said.splitlines()]
    confirmed = [word for word in words if word["state"] == "confirmed" and word["label"] in LABELS]
    took_ms = []
    for title, at_ms in painted:
        before = [
            at_ms - datetime.fromisoformat(word["said_utc"]).timestamp() * 1000
            for word in confirmed
            if word["label"].casefold() == title.casefold()
        ]
        took_ms += [min(ms for ms in before if ms > -1)] if any(ms > -1 for ms in before) else []
    assert took_ms, (painted, [word["label"] for word in confirmed])
    print(f"\n{len(took_ms)} lower thirds; from the word to its pixels: p50 {np.median(took_ms):.0f} ms, ", end="")
    print(f"shortest {min(took_ms):.0f} ms, longest {max(took_ms):.0f} ms (those that waited for another one included)")
    assert min(took_ms) < 5000


def _write_frame(video: Path, at_s: float, path: Path) -> None:
    with av.open(str(video)) as source:
        start_s = float(source.streams.video[0].start_time or 0) * float(source.streams.video[0].time_base or 0)
        for frame in source.decode(video=0):
            if frame.time is not None and frame.time - start_s >= at_s:
                with av.open(str(path), "w", format="image2", options={"update": "1"}) as picture:
                    stream = picture.add_stream("png", width=frame.width, height=frame.height, pix_fmt="rgb24")
                    picture.mux([*stream.encode(frame.reformat(format="rgb24")), *stream.encode(None)])
                return
