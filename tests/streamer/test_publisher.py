"""Spots reach the broker in order, at least once, over any number of lost connections."""

import asyncio
import json
import logging
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.errors import DeliveryError, UsageError
from streamer.broker import EmbeddedBroker
from streamer.mqtt import connect, parse_broker_url, topics
from streamer.payload import spot_from_json
from streamer.publisher import Publisher

SECRET = "s3cr3t"

# When the TLS handshake fails, paho leaves the socket to the garbage collector.
pahos_socket_is_closed_late = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def spot(n: int, **changes: Any) -> Spot:
    return replace(Spot(str(n), "main", 1, 0, "Goal", float(n), 0.9, n + 8.0), **changes)


def early(n: int) -> Spot:
    return spot(n, id=f"early {n}", state="provisional")


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.connected: list[bool] = []
        self.published: list[float] = []
        self.pending: list[int] = []
        self.dropped = 0

    def on_connected(self, up: bool) -> None:
        self.connected.append(up)

    def on_published(self, duration_s: float) -> None:
        self.published.append(duration_s)

    def on_pending(self, depth: int) -> None:
        self.pending.append(depth)

    def on_dropped(self, count: int) -> None:
        self.dropped += count


class Subscriber:
    """Everything that arrives on the stream's topics."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.provisional: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.ready = asyncio.Event()

    async def run(self, url: str) -> None:
        async with connect(parse_broker_url(url)) as client:
            await client.subscribe([("touchline/main/#", 1)])
            self.ready.set()
            async for message in client.messages:
                if str(message.topic).endswith("/spots"):
                    self.ids.append(spot_from_json(message.payload)[0].id)
                elif str(message.topic).endswith("/spots/provisional"):
                    self.provisional.append(spot_from_json(message.payload)[0].id)
                else:
                    self.statuses.append(json.loads(message.payload))

    @property
    def states(self) -> list[str]:
        return [status["state"] for status in self.statuses]


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber()
    task = asyncio.create_task(subscriber.run(url))
    await subscriber.ready.wait()
    try:
        yield subscriber
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, DeliveryError):
            await task


class Wire:
    """Stands between a client and the broker; can be cut, and can lose what the broker answers."""

    def __init__(self, broker_url: str) -> None:
        self._port = parse_broker_url(broker_url).port
        self._writers: list[asyncio.StreamWriter] = []
        self.deaf = False
        self.connections = 0

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, broker_writer]
        await asyncio.gather(
            self._carry(reader, broker_writer, lambda: False), self._carry(broker_reader, writer, lambda: self.deaf)
        )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Callable[[], bool]
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                if not lost():
                    writer.write(data)
        writer.close()


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def a_closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def a_server_that(answers: bytes) -> AsyncIterator[str]:
    """Something that takes connections and answers the first bytes so; nothing, if that is empty."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1)
            writer.write(answers)
            while await reader.read(4096):
                pass
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.sleep(0.05)  # for the closing of what is still open


# What arrives


async def test_spots_arrive_in_order_and_once() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber:
        observer = Recorder()
        publisher = Publisher(broker.url, "main", observer=observer)
        await publisher.start()
        for n in range(100):
            publisher.say(spot(n))
        await publisher.stop()
        await until(lambda: len(subscriber.ids) >= 100 and subscriber.states[-1] == "stopped")
        assert subscriber.ids == [str(n) for n in range(100)]
        assert observer.connected == [True, False]
        assert len(observer.published) == 100
        assert min(observer.published) > 0
        assert max(observer.pending) == 100
        assert observer.pending[-1] == 0


async def test_a_spot_goes_out_while_the_stream_goes_on() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
        for n in range(3):
            publisher.say(spot(n))
            await until(lambda n=n: len(subscriber.ids) == n + 1)  # type: ignore[misc]
        await publisher.stop()


async def test_provisional_words_go_out_on_a_topic_of_their_own() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
        publisher.say(early(0))
        assert publisher.pending == 0
        await until(lambda: subscriber.provisional == ["early 0"])
        publisher.say(spot(0, state="retracted", revision=2))
        await publisher.stop()
        await until(lambda: subscriber.ids == ["0"])


async def test_provisional_words_do_not_wait_for_final_ones() -> None:
    """A broker that acknowledges nothing holds up the final words behind the first, and nothing else."""
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire, subscribed(broker.url) as subscriber:
        publisher = Publisher(wire.url, "main")
        await publisher.start()
        wire.deaf = True
        publisher.say(spot(0))
        publisher.say(spot(1))
        await until(lambda: subscriber.ids == ["0"])
        publisher.say(early(2))
        publisher.say(early(3))
        await until(lambda: subscriber.provisional == ["early 2", "early 3"])
        assert subscriber.ids == ["0"]
        wire.deaf = False
        wire.cut()
        await publisher.stop()


async def test_provisional_words_without_a_broker_are_lost_and_no_failure() -> None:
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
    await until(lambda: not publisher.connected)
    for n in range(1000):
        publisher.say(early(n))
    assert publisher.pending == 0
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port) as again, subscribed(again.url) as subscriber:
        await until(lambda: publisher.connected)
        publisher.say(spot(0))
        await publisher.stop()
        await until(lambda: subscriber.ids == ["0"])
        assert subscriber.provisional == []


async def test_spots_said_while_the_broker_is_down_arrive_after_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
    await until(lambda: not publisher.connected)
    for n in range(5):
        publisher.say(spot(n))
    await asyncio.sleep(0.5)
    assert publisher.pending == 5
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port) as again, subscribed(again.url) as subscriber:
        await until(lambda: len(subscriber.ids) == 5)
        assert subscriber.ids == ["0", "1", "2", "3", "4"]
        assert subscriber.states[-1] == "online"
        publisher.say(spot(5))
        await publisher.stop()
        await until(lambda: subscriber.ids[5:] == ["5"])
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING and r.name == "touchline.publisher"]
    assert len(warnings) == 1
    assert "Reconnecting" in warnings[0]


async def test_what_was_not_acknowledged_is_sent_again_under_the_same_id() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire, subscribed(broker.url) as subscriber:
        publisher = Publisher(wire.url, "main")
        await publisher.start()
        wire.deaf = True
        publisher.say(spot(0))
        publisher.say(spot(1))
        await until(lambda: subscriber.ids == ["0"])
        assert publisher.pending == 2
        wire.deaf = False
        wire.cut()
        await until(lambda: publisher.pending == 0)
        await publisher.stop()
        await until(lambda: len(subscriber.ids) == 3)
        assert subscriber.ids == ["0", "0", "1"]


async def test_a_broker_that_stops_answering_is_left_and_found_again() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire, subscribed(broker.url) as subscriber:
        publisher = Publisher(wire.url, "main", timeout_s=0.3)
        await publisher.start()
        wire.deaf = True
        publisher.say(spot(0))
        await until(lambda: not publisher.connected)
        wire.deaf = False
        await until(lambda: publisher.pending == 0)
        await publisher.stop()
        assert set(subscriber.ids) == {"0"}


async def test_when_too_many_wait_the_oldest_is_dropped_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    observer = Recorder()
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main", observer=observer, max_pending=3)
        await publisher.start()
    await until(lambda: not publisher.connected)
    for n in range(5):
        publisher.say(spot(n))
    assert (publisher.pending, publisher.dropped, observer.dropped) == (3, 2, 2)
    assert "the oldest was dropped" in caplog.text
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port) as again, subscribed(again.url) as subscriber:
        await until(lambda: len(subscriber.ids) == 3)
        assert subscriber.ids == ["2", "3", "4"]
        with pytest.raises(DeliveryError, match=r": 2 spots could not be delivered\.$"):
            await publisher.stop()


# The status


async def test_the_status_is_retained_and_follows_the_run() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as early:
        publisher = Publisher(broker.url, "main")
        await publisher.start({"bundle": "demo"})
        async with subscribed(broker.url) as late:
            await until(lambda: bool(late.states))
            assert late.statuses[0].items() >= {"state": "online", "bundle": "demo"}.items()
        await publisher.stop({"seconds": 90})
        await until(lambda: early.states == ["online", "stopped"])
        assert early.statuses[1].items() >= {"seconds": 90, "spots_lost": 0, "stream": "main"}.items()
        assert len({status["run"] for status in early.statuses}) == 1
        async with subscribed(broker.url) as last:
            await until(lambda: "stopped" in last.states)


async def test_a_cut_wire_leaves_the_will_and_then_online_again() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire, subscribed(broker.url) as subscriber:
        publisher = Publisher(wire.url, "main")
        await publisher.start()
        wire.cut()
        await until(lambda: subscriber.states == ["online", "offline", "online"])
        await publisher.stop()


async def test_a_program_that_breaks_off_does_not_leave_online_behind() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
        (task,) = (t for t in asyncio.all_tasks() if t.get_name() == "touchline-publisher")
        task.cancel()
        await until(lambda: subscriber.states == ["online", "offline"])
        async with subscribed(broker.url) as late:
            await until(lambda: "offline" in late.states)


# The end


async def test_stop_says_how_many_spots_could_not_be_delivered() -> None:
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
    await until(lambda: not publisher.connected)
    for n in range(3):
        publisher.say(spot(n))
    with pytest.raises(DeliveryError, match=rf"^{broker.url}: 3 spots could not be delivered\.$"):
        await publisher.stop(timeout_s=0.5)
    await publisher.stop()  # a second time does nothing


async def test_stop_waits_for_a_broker_that_returns_in_time() -> None:
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
    await until(lambda: not publisher.connected)
    publisher.say(spot(0))
    stopping = asyncio.create_task(publisher.stop(timeout_s=10))
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port):
        await stopping
    assert publisher.pending == 0


async def test_stop_says_so_when_only_the_status_could_not_be_told() -> None:
    async with EmbeddedBroker() as broker:
        publisher = Publisher(broker.url, "main")
        await publisher.start()
    with pytest.raises(DeliveryError, match="every spot was delivered, but"):
        await publisher.stop(timeout_s=0.3)


async def test_stop_ends_in_time_when_the_broker_does_not_answer() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire:
        publisher = Publisher(wire.url, "main")
        await publisher.start()
        wire.deaf = True
        publisher.say(spot(0))
        async with asyncio.timeout(5):
            with pytest.raises(DeliveryError, match=": 1 spot could not be delivered"):
                await publisher.stop(timeout_s=0.3)


async def test_it_leaves_no_task_behind() -> None:
    async with EmbeddedBroker() as broker:
        before = asyncio.all_tasks()
        publisher = Publisher(broker.url, "main")
        await publisher.start()
        publisher.say(spot(0))
        await publisher.stop()
        await until(lambda: not {t for t in asyncio.all_tasks() - before if "touchline" in t.get_name()})


# What can be wrong at the start


async def test_a_broker_that_refuses_is_one_sentence() -> None:
    port = a_closed_port()
    with pytest.raises(DeliveryError, match=rf"^mqtt://127.0.0.1:{port}: connection refused; is a broker .*\?$"):
        await Publisher(f"mqtt://127.0.0.1:{port}", "main").start()


async def test_a_host_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(DeliveryError, match=r"^mqtt://no-such-host.invalid:1883: there is no such host\.$"):
        await Publisher("mqtt://no-such-host.invalid", "main").start()


@pytest.mark.parametrize("code", [4, 5])
async def test_a_wrong_password_is_one_sentence(code: int) -> None:
    async with a_server_that(bytes([0x20, 2, 0, code])) as where:
        with pytest.raises(DeliveryError, match=rf"^mqtt://{where}: not authorised; check user and password\.$"):
            await Publisher(f"mqtt://me:{SECRET}@{where}", "main").start()


async def test_a_broker_of_another_mind_is_one_sentence() -> None:
    async with a_server_that(bytes([0x20, 2, 0, 3])) as where:
        with pytest.raises(DeliveryError, match=rf"^mqtt://{where}: the broker refused \(.*\)\.$"):
            await Publisher(f"mqtt://{where}", "main").start()


async def test_a_server_that_never_answers_is_one_sentence() -> None:
    async with a_server_that(b"") as where:
        with pytest.raises(DeliveryError, match=rf"^mqtt://{where}: nothing that speaks MQTT answers there\.$"):
            await Publisher(f"mqtt://{where}", "main", timeout_s=0.2).start()


@pahos_socket_is_closed_late
async def test_a_server_without_tls_is_one_sentence() -> None:
    async with a_server_that(b"HTTP/1.1 400 Bad Request\r\n\r\n") as where:
        with pytest.raises(DeliveryError, match=rf"^mqtts://{where}: TLS failed \(.*\); is this its port for mqtts\?$"):
            await Publisher(f"mqtts://{where}", "main").start()


async def test_a_start_that_failed_can_be_tried_again() -> None:
    port = a_closed_port()
    publisher = Publisher(f"mqtt://127.0.0.1:{port}", "main")
    with pytest.raises(DeliveryError):
        await publisher.start()
    async with EmbeddedBroker(port=port):
        await publisher.start()
        await publisher.stop()


# URLs, topics, secrets


def test_ports_follow_the_scheme() -> None:
    assert (parse_broker_url("mqtt://a").port, parse_broker_url("mqtts://a").port) == (1883, 8883)
    assert parse_broker_url("mqtts://[::1]:99/").host == "::1"
    assert str(parse_broker_url("mqtts://[::1]:99")) == "mqtts://[::1]:99"


def test_user_and_password_are_percent_decoded() -> None:
    address = parse_broker_url("mqtt://a%40b:c%3Ad%2F@host")
    assert (address.user, address.password) == ("a@b", "c:d/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        f"me:{SECRET}@host",
        f"http://me:{SECRET}@host",
        "mqtt://",
        f"mqtt://me:{SECRET}",
        f"mqtt://me:{SECRET}@",
        f"mqtt://me:{SECRET}@host:x",
        f"mqtt://me:{SECRET}@host:70000",
        f"mqtt://me:{SECRET}@host:0",
        f"mqtt://me:{SECRET}@host/topic",
        f"mqtt://me:pa/{SECRET}@host",
        f"mqtt://me:pa#{SECRET}@host",
        f"mqtt://me:{SECRET}%ff@host",
        f"mqtt://host?password={SECRET}",
        f"mqtt://me:{SECRET}@a..b",
        f"mqtt://me:{SECRET}@[::1",
        f"mqtt://me:{SECRET}@ho st",
    ],
)
def test_a_url_of_another_form_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="mqtt://\\[user:password@\\]host") as caught:
        parse_broker_url(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


@pahos_socket_is_closed_late
async def test_credentials_reach_no_error_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    refused = bytes([0x20, 2, 0, 5])
    async with (
        a_server_that(refused) as strict,
        a_server_that(b"") as silent,
        a_server_that(b"HTTP/1.1 400\r\n") as web,
    ):
        for scheme, where in (
            ("mqtt", strict),
            ("mqtt", silent),
            ("mqtts", web),
            ("mqtt", f"127.0.0.1:{a_closed_port()}"),
            ("mqtt", "no-such-host.invalid"),
        ):
            with pytest.raises(DeliveryError) as caught:
                await Publisher(f"{scheme}://me:{SECRET}@{where}", "main", timeout_s=0.3).start()
            error: BaseException | None = caught.value
            while error is not None:
                said.append(repr(error) + str(error))
                error = error.__context__
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire:
        publisher = Publisher(wire.url.replace("//", f"//me:{SECRET}@"), "main")
        await publisher.start()
        wire.cut()
        await until(lambda: wire.connections > 1 and publisher.connected)
        said.append(repr(publisher) + repr(publisher._address))
        await publisher.stop()
    assert said
    assert SECRET not in "".join(said) + caplog.text


@given(st.text(max_size=60), st.text(max_size=60))
def test_topics_are_allowed_by_mqtt_whatever_the_names(prefix: str, stream: str) -> None:
    try:
        made = topics(prefix, stream)
    except UsageError:
        return
    levels = made.spots.split("/")
    assert len(levels) == prefix.strip("/").count("/") + 3
    assert all(levels)
    assert not set("+#\x00") & set(made.spots + made.status)
    assert made.spots.encode()
    assert not made.spots.startswith("$")


def test_a_name_that_needs_no_change_keeps_its_letters() -> None:
    assert topics("clubs/first", "Cup final 2025").spots == "clubs/first/Cup final 2025/spots"
    assert topics("touchline", "rtsp://a/b").status == "touchline/rtsp:--a-b/status"
    assert topics("touchline", None).spots == "touchline/+/spots"
    assert topics("touchline", "final").provisional == "touchline/final/spots/provisional"


@pytest.mark.parametrize(("prefix", "stream"), [("", "a"), ("a", " "), ("$SYS", "a"), ("a//b", "c"), ("a", "x" * 201)])
def test_an_impossible_topic_is_a_usage_error(prefix: str, stream: str) -> None:
    with pytest.raises(UsageError):
        topics(prefix, stream)


# Against a second implementation of the broker


@pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")
async def test_mosquitto_keeps_order_and_says_the_will(tmp_path: Path) -> None:
    port = a_closed_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    server = subprocess.Popen(["mosquitto", "-c", str(settings)], stderr=subprocess.DEVNULL)
    url = f"mqtt://127.0.0.1:{port}"
    try:
        for _ in range(50):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            await asyncio.sleep(0.1)
        async with Wire(url) as wire, subscribed(url) as subscriber:
            publisher = Publisher(wire.url, "main")
            await publisher.start()
            for n in range(100):
                publisher.say(spot(n))
                if n == 50:
                    wire.cut()
            await publisher.stop()
            await until(lambda: subscriber.states[-1:] == ["stopped"])
            assert list(dict.fromkeys(subscriber.ids)) == [str(n) for n in range(100)]
            assert subscriber.states == ["online", "offline", "online", "stopped"]
    finally:
        server.terminate()
        server.wait(10)
