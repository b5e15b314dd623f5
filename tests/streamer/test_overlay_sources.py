import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import pytest_asyncio
from aiohttp import web
from brokers import Mosquitto, mosquitto
from browser import chromium
from overlay_page import HELLO, gone, new_page, open_overlay, overlay, pixels, served, stays_away, title, until, word
from playwright.async_api import Page
from servers import free_port

from streamer.cloudevents import spot_event
from streamer.metrics import Metrics
from streamer.pages.app import STATIC, application
from streamer.pages.hub import Hub
from streamer.pages.overlay import read_overlay
from streamer.payload import SpotMessage

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = (STATIC / "overlay.html").as_uri()
QUICK = "duration_s = 1.0\ndurations_s = {}\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page() -> AsyncIterator[Page]:
    async with chromium() as browser:
        yield await new_page(browser)


# the streamer


async def test_a_server_that_dies_and_returns_is_found_again(page: Page, tmp_path: Path) -> None:
    port = free_port()
    async with served(port=port) as (url, _):
        await open_overlay(page, f"{url}/overlay")
    await asyncio.sleep(0.5)
    assert not (await pixels(page)).any()
    config = tmp_path / "other.toml"
    config.write_text('language = "es"')
    async with served(config, port) as (_, hub):
        await until(page, "settings.config.language === 'es'")
        hub.send("spot", word("Goal"))
        assert await title(page) == "GOL"


async def test_opened_from_a_file_it_draws_nothing_and_obeys(page: Page) -> None:
    await open_overlay(page, FILE)
    assert not (await pixels(page)).any()
    await page.evaluate("update({ label: 'Goal', language: 'pt' })")
    assert await title(page) == "GOLO"


async def test_opened_from_a_file_it_listens_to_a_streamer_that_lets_it(page: Page) -> None:
    hub = Hub(dict(HELLO))
    config = read_overlay(None).model_copy(update={"language": "de"}).model_dump_json()
    app = application(hub, Metrics(), lambda: None, None, config, None)
    app.on_response_prepare.append(_let_everybody)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await open_overlay(page, f"{FILE}?server={server}")
    hub.send("spot", word("Goal"))
    assert await title(page) == "TOR"
    await runner.cleanup()


async def _let_everybody(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"


# a broker


async def publish(broker: Mosquitto, said: SpotMessage, topic: str = "touchline/main/spots", **more: Any) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish(topic, spot_event(said).json(), qos=1, **more)


async def test_it_listens_to_a_broker_and_passes_over_what_is_old_or_broken(page: Page, tmp_path: Path) -> None:
    with mosquitto(tmp_path, websockets=True) as broker:
        await publish(broker, word("Penalty", name="old"), retain=True)
        async with overlay(page, tmp_path, f'{QUICK}[mqtt]\nurl = "{broker.ws_url}"'):
            await stays_away(page)
            async with aiomqtt.Client("127.0.0.1", broker.port) as client:
                for nonsense in ("", "{", "7", '{"data": {}}', '{"data": {"id": "x", "label": "Goal"}}'):
                    await client.publish("touchline/main/spots", nonsense, qos=1)
            await publish(broker, word("Goal"))
            await publish(broker, word("Goal"))
            assert await title(page) == "GOAL"
            await gone(page)
            await publish(broker, word("Goal"))
            await stays_away(page)


async def test_a_broker_that_dies_and_returns_is_found_again(page: Page, tmp_path: Path) -> None:
    with mosquitto(tmp_path, websockets=True) as broker:
        await open_overlay(page, f"{FILE}?mqtt={broker.ws_url}&stream=a/b&prefix=my/games")
        broker.kill()
        await until(page, "!document.querySelector('.lower-third') && window.sourceText().startsWith('looking')")
        broker.restart()
        await until(page, "window.sourceText().startsWith('listening')")
        await publish(broker, word("Goal"), "my/games/a-b/spots")
        assert await title(page) == "GOAL"


async def test_user_and_password_come_from_the_config_and_never_from_the_address(page: Page, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"screen:{_hashed('secret')}\n")
    passwords.chmod(0o600)
    with mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}", websockets=True) as broker:
        assert broker.ws_url is not None
        told = broker.ws_url.replace("ws://", "ws://screen:secret@")
        await open_overlay(page, f"{FILE}?mqtt={told}", ready="window.sourceText().includes('Not authorized')")
        assert "secret" not in await page.evaluate("window.sourceText()")
        config = f'[mqtt]\nurl = "{broker.ws_url}"\nuser = "screen"\npassword = "secret"\n'
        async with overlay(page, tmp_path, config):
            async with aiomqtt.Client("127.0.0.1", broker.port, username="screen", password="secret") as client:
                await client.publish("touchline/main/spots", spot_event(word("Goal")).json(), qos=1)
            assert await title(page) == "GOAL"


async def test_a_link_to_another_broker_is_not_followed(page: Page, tmp_path: Path) -> None:
    visitors: list[object] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(await reader.read(1))
        writer.close()

    config = tmp_path / "overlay.toml"
    config.write_text('[mqtt]\nurl = "ws://127.0.0.1:9"\nuser = "screen"\npassword = "secret"\n')
    async with await asyncio.start_server(note, "127.0.0.1", 0) as evil, served(config) as (url, _):
        address = f"ws://127.0.0.1:{evil.sockets[0].getsockname()[1]}/"
        await open_overlay(page, f"{url}/overlay?mqtt={address}", ready="/^looking/.test(window.sourceText())")
        assert address in await page.evaluate("window.sourceText()")
        await page.goto("about:blank")
    assert visitors == []


def _hashed(password: str) -> str:
    salt = b"sea and rock"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
