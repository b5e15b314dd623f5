"""Real clients of every kind read the same spot from a real broker, whatever version of MQTT they speak."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from aiohttp import web
from amqtt.client import ClientConfig, MQTTClient
from brokers import Mosquitto, mosquitto
from browser import chromium
from cloudevents.core.formats.json import JSONFormat
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from spots import SAID, SPOT

from streamer.cloudevents import CONTENT_TYPE, spot_event, spot_of
from streamer.mqtt import connect, parse_broker_url, topics
from streamer.payload import SpotMessage

MESSAGE = SpotMessage.of(SPOT, SAID)
EVENT = spot_event(MESSAGE, 7)
TOPIC = topics("touchline", SPOT.stream).spots
VENDOR = Path(__file__).parents[2] / "streamer" / "pages" / "static" / "vendor" / "mqtt.min.js"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path, websockets=True) as server:
        yield server


async def publish(broker: Mosquitto) -> None:
    async with connect(parse_broker_url(broker.url)) as connection:
        await connection.publish(TOPIC, EVENT, qos=1)


def is_the_spot(payload: str | bytes) -> bool:
    """Return whether the official library, and ours, read the spot from a payload."""
    theirs = JSONFormat().read(None, payload)
    return theirs.get_id() == "a1.1" and theirs.get_data()["id"] == "a1" and spot_of(payload) == MESSAGE  # type: ignore[index, call-overload]


# mosquitto_sub


@pytest.mark.parametrize("version", ["mqttv5", "mqttv311"])
async def test_mosquitto_sub_reads_the_spot(broker: Mosquitto, version: str) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed")
    sub = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", version, "-t", "touchline/#"),
        *("-q", "1", "-C", "1", "-W", "20", "-F", "%C|%P|%p"),
        stdout=asyncio.subprocess.PIPE,
    )
    printing = asyncio.create_task(sub.communicate())
    while not printing.done():  # until it has subscribed
        await publish(broker)
        await asyncio.sleep(0.2)
    content_type, properties, payload = printing.result()[0].decode().split("|", 2)
    assert is_the_spot(payload)
    if version == "mqttv5":
        assert content_type == CONTENT_TYPE
        assert all(f"{name}:{text}" in properties for name, text in EVENT.attributes.items())


# paho


@pytest.mark.parametrize("protocol", [paho.MQTTv5, paho.MQTTv311])
async def test_paho_reads_the_spot(broker: Mosquitto, protocol: int) -> None:
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[paho.MQTTMessage] = loop.create_future()
    subscribed = asyncio.Event()
    client: Any = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(protocol))
    client.on_connect = lambda *_: client.subscribe("touchline/#", 1)
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
    client.on_message = lambda _, __, message: loop.call_soon_threadsafe(heard.set_result, message)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        async with asyncio.timeout(20):
            await subscribed.wait()
            await publish(broker)
            message = await heard
    finally:
        client.disconnect()
        client.loop_stop()
    assert message.topic == TOPIC
    assert is_the_spot(bytes(message.payload))
    if protocol == paho.MQTTv5:
        properties: Any = message.properties
        assert properties.ContentType == CONTENT_TYPE
        assert dict(properties.UserProperty) == EVENT.attributes


# amqtt


async def test_amqtt_reads_the_spot(broker: Mosquitto) -> None:
    client = MQTTClient(config=ClientConfig(auto_reconnect=False))
    await client.connect(broker.url)
    try:
        await client.subscribe([("touchline/#", 1)])
        await publish(broker)
        message = await client.deliver_message(timeout_duration=20)
    finally:
        await client.disconnect()
    assert message is not None
    assert message.topic == TOPIC
    assert is_the_spot(bytes(message.data))


# mqtt.js


PAGE = """<!doctype html><script src="/mqtt.min.js"></script><script>
  window.heard = (url, version) => new Promise((resolve, reject) => {
    const client = mqtt.connect(url, {protocolVersion: version, reconnectPeriod: 0});
    client.on("error", reject);
    client.on("connect", () => client.subscribe("touchline/#", {qos: 1}, () => document.title = "subscribed"));
    client.on("message", (topic, payload, packet) => {
      const {contentType, userProperties} = packet.properties || {};
      resolve({topic, payload: payload.toString(), contentType, properties: {...userProperties}});
      client.end(true);
    });
  });
</script>"""


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """Give the address of a page with the vendored library."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def library(_: web.Request) -> web.Response:
        return web.Response(body=VENDOR.read_bytes(), content_type="text/javascript")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/mqtt.min.js", library)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_mqtt_js_in_a_browser_reads_the_spot(broker: Mosquitto) -> None:
    async with page_server() as url, chromium() as browser:
        for version in (5, 4):
            page = await browser.new_page()
            await page.goto(url)
            heard = asyncio.create_task(
                page.evaluate("([url, version]) => heard(url, version)", [broker.ws_url, version])
            )
            try:
                await page.wait_for_function("document.title === 'subscribed'")
                await publish(broker)
                async with asyncio.timeout(20):
                    message = await heard
            finally:
                heard.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await heard
            assert message["topic"] == TOPIC
            assert is_the_spot(message["payload"])
            if version == 5:
                assert message["contentType"] == CONTENT_TYPE
                assert message["properties"] == EVENT.attributes
            await page.close()


def test_the_vendored_library_comes_with_its_licence() -> None:
    assert "MIT License" in VENDOR.with_name("mqtt.LICENSE").read_text(encoding="utf-8")
