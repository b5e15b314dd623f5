"""An independent subscriber shows every spot once, and says why when it cannot."""

import argparse
import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from broker_wire import until
from brokers import Authority, mosquitto
from rich.console import Console
from rich.text import Text

from engines.decider import Spot
from engines.errors import DeliveryError, UsageError
from streamer.broker import EmbeddedBroker
from streamer.cloudevents import Event, event, spot_event
from streamer.mqtt import Connection, Will, connect, parse_broker_url, topics
from streamer.payload import Received, SpotMessage, StatusMessage
from streamer.screen import clock
from streamer.watch import Watcher, _client_id, add_arguments, line, watch

SAID = datetime(2025, 5, 31, 19, 0, 0, 0, UTC)
NOBODY = "mqtt://127.0.0.1:9"  # the discard port: nothing listens there


def spot(n: int, **changes: Any) -> Spot:
    fields: dict[str, Any] = {
        "id": str(n),
        "stream": "main",
        "half": 1,
        "epoch": 0,
        "label": "Goal",
        "media_time": 754.5 + n,
        "confidence": 0.91,
        "emitted_at": 762.0 + n,
        "latency": {"grid": 0.5, "look_ahead": 4.0, "hold": 3.0, "compute": 0.25},
        "flags": ("no-audio",),
    }
    return Spot(**fields | changes)


class Streamer:
    """What a streamer says at a broker."""

    def __init__(self, connection: Connection, stream: str, run: str) -> None:
        self._connection, self._stream, self._run = connection, stream, run
        self._topics = topics("touchline", stream)

    async def say(self, *spots: Spot, at: datetime | None = None) -> None:
        """Publish words."""
        for one in spots:
            provisional = one.state == "provisional"
            topic = self._topics.provisional if provisional else self._topics.spots
            made = spot_event(SpotMessage.of(one, at or datetime.now(UTC)))
            await self._connection.publish(topic, made, qos=0 if provisional else 1)

    async def keep(self, state: str, **more: Any) -> None:
        """Publish a status."""
        await self._connection.publish(
            self._topics.status, status(state, self._stream, self._run, **more), qos=1, retain=True
        )


def status(state: Any, stream: str, run: str, **more: Any) -> Event:
    now = datetime.now(UTC)
    return event("status", StatusMessage(stream=stream, run=run, state=state, at_utc=now, **more), stream, now, state)


@asynccontextmanager
async def streaming(url: str, stream: str = "main", run: str = "1", **statistics: float) -> AsyncIterator[Streamer]:
    """A streamer for as long as the block lasts; it breaks off when that does."""
    will = Will(topics("touchline", stream).status, status("offline", stream, run))
    async with connect(parse_broker_url(url), will=will) as connection:
        streamer = Streamer(connection, stream, run)
        await streamer.keep("online")
        yield streamer
        await streamer.keep("stopped", statistics=statistics)


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(given)


def plain() -> Console:
    return Console(file=io.StringIO(), width=40)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


class Collector:
    """A Watcher and what it was given."""

    def __init__(self, url: str, stream: str | None = "main") -> None:
        self.received: list[Received] = []
        self.watcher = Watcher(parse_broker_url(url), stream, on_spot=self.received.append)

    @property
    def ids(self) -> list[str]:
        return [one.spot.id for one in self.received]

    async def has(self, n: int) -> None:
        async with asyncio.timeout(10):
            while len(self.received) < n:
                await asyncio.sleep(0.01)


async def started(watcher: Watcher, **options: Any) -> asyncio.Task[None]:
    """Return the task of a watcher that has had time to subscribe."""
    task = asyncio.create_task(watcher.run(**options))
    await asyncio.sleep(0.3)
    return task


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


# What is shown


async def test_a_run_is_shown_one_line_a_spot_until_it_stops() -> None:
    console = plain()
    async with EmbeddedBroker() as broker:
        task = asyncio.create_task(watch(arguments(broker.url, "--stream", "main", "--until-stopped"), console))
        await asyncio.sleep(0.3)
        async with streaming(broker.url) as streamer:
            await streamer.say(*map(spot, range(3)))
        async with asyncio.timeout(10):
            assert await task == 0
    lines = printed(console)
    assert [text.split()[:3] for text in lines] == [[f"12:3{n}", "Goal", "91%"] for n in (4, 5, 6)]
    assert all(text.endswith("no-audio") for text in lines)


async def test_json_is_the_message_itself_and_how_long_it_took() -> None:
    console = plain()
    async with EmbeddedBroker() as broker:
        task = asyncio.create_task(watch(arguments(broker.url, "--json", "--until-stopped"), console))
        await asyncio.sleep(0.3)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0), at=datetime.now(UTC) - timedelta(seconds=5))
        async with asyncio.timeout(10):
            await task
    (message,) = map(json.loads, printed(console))
    publish_s = message.pop("publish")
    assert 5 <= publish_s < 8
    said = SpotMessage.of(spot(0), datetime.fromisoformat(message["said_utc"]))
    assert message == json.loads(said.model_dump_json())


def test_lateness_is_delay_plus_compute_plus_publish() -> None:
    assert Received(spot(0), 0.125, {}).late_s == 7.5 + 0.25 + 0.125


def test_a_line_holds_clock_label_confidence_lateness_and_flags() -> None:
    assert line(Received(spot(0), 0.125, {})).plain == " 12:34  Goal                91%    7.9 s late  no-audio"
    assert line(Received(spot(0), 0, {}), with_stream=True).plain.startswith("main   12:34")
    assert clock(6307.9) == "105:07"


def test_what_is_not_settled_is_quiet_and_what_is_taken_back_is_struck_out() -> None:
    said, confirmed, retracted = (
        line(Received(spot(0, state=state), 0, {})) for state in ("provisional", "confirmed", "retracted")
    )
    assert said.plain.endswith("provisional  no-audio")
    assert retracted.plain.endswith("retracted  no-audio")
    assert "confirmed" not in confirmed.plain

    def styles(text: Text) -> str:
        return " ".join(str(span.style) for span in text.spans)

    assert "bold" not in styles(said)
    assert "bold" in styles(confirmed)
    assert "strike" in styles(retracted)


def test_a_message_cannot_steer_the_terminal() -> None:
    evil = spot(0, label="Goal\x1b[2J", stream="\x9bm", flags=("\r", "[red]"))
    shown = line(Received(evil, 0, {}), with_stream=True).plain
    assert shown.isprintable()
    assert "[red]" in shown


# What arrives


async def test_a_spot_delivered_twice_is_shown_once() -> None:
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url)
        task = await started(collector.watcher)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0), spot(0), spot(1), spot(0), spot(1, revision=2))
        await collector.has(3)
        await ended(task)
    assert collector.ids == ["0", "1", "1"]


async def test_a_word_that_was_overtaken_is_not_shown() -> None:
    """Provisional words come by a way of their own: one may be late, and would contradict the final word."""
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url)
        task = await started(collector.watcher)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0, revision=3), spot(0, state="provisional", revision=2), spot(1))
        await collector.has(2)
        await ended(task)
    assert [one.spot.state for one in collector.received] == ["confirmed", "confirmed"]


@pytest.mark.parametrize(("options", "states"), [((), ["provisional", "confirmed"]), (("--final",), ["confirmed"])])
async def test_provisional_words_are_shown_unless_only_final_ones_are_wanted(
    options: tuple[str, ...], states: list[str]
) -> None:
    console = plain()
    async with EmbeddedBroker() as broker:
        task = asyncio.create_task(watch(arguments(broker.url, "--json", "--until-stopped", *options), console))
        await asyncio.sleep(0.3)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0, state="provisional"))
            await asyncio.sleep(0.2)
            await streamer.say(spot(0, revision=2))
        async with asyncio.timeout(10):
            await task
    assert [json.loads(text)["state"] for text in printed(console)] == states


async def test_nonsense_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url)
        task = await started(collector.watcher)
        good = spot_event(SpotMessage.of(spot(0), SAID)).json()
        envelope = b'{"specversion": "1.0", "data": %s}'
        async with aiomqtt.Client("127.0.0.1", parse_broker_url(broker.url).port) as client:
            for payload in (b"", b"\xff", b"{}", b"[" * 10_000, envelope % b"{}", good.replace("1.0", "2.0").encode()):
                await client.publish("touchline/main/spots", payload, qos=1)
            states = (b'{"state": "online"}', b'{"state":"online","stream":[],"run":1}', b'"online"')
            for payload in (b"online", b"[]", *(envelope % state for state in states)):
                await client.publish("touchline/main/status", payload, qos=1)
            await client.publish("touchline/main/spots", good, qos=1)
        await collector.has(1)
        await ended(task)
    assert collector.ids == ["0"]
    assert caplog.text.count("was passed over") == 10


async def test_only_the_asked_stream_is_shown_and_without_one_all_are() -> None:
    async with EmbeddedBroker() as broker:
        one, every = Collector(broker.url, "b"), Collector(broker.url, None)
        tasks = [await started(one.watcher), await started(every.watcher)]
        for name in ("a", "b"):
            async with streaming(broker.url, name) as streamer:
                await streamer.say(spot(0, id=name, stream=name))
        await every.has(2)
        await one.has(1)
        for task in tasks:
            await ended(task)
    assert (one.ids, every.ids) == (["b"], ["a", "b"])


# Brokers that are not there


async def test_a_broker_that_comes_later_is_waited_for() -> None:
    async with EmbeddedBroker() as broker:
        pass
    collector = Collector(broker.url)
    task = await started(collector.watcher, until_stopped=True)
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port):
        await asyncio.sleep(0.6)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0))
        async with asyncio.timeout(10):
            await task
    assert collector.ids == ["0"]


async def test_a_broker_that_goes_and_returns_is_subscribed_to_again() -> None:
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url)
        task = await started(collector.watcher)
    async with EmbeddedBroker(port=parse_broker_url(broker.url).port):
        await asyncio.sleep(0.6)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0))
        await collector.has(1)
        await ended(task)


async def test_a_broker_that_never_comes_is_one_sentence_in_time() -> None:
    started_mono_s = time.monotonic()
    with pytest.raises(DeliveryError, match=rf"^{NOBODY}: connection refused; .* Waited 0.6 s\.$"):
        await watch(arguments(NOBODY, "--wait", "0.6"), plain())
    assert 0.5 < time.monotonic() - started_mono_s < 3


async def test_a_wrong_password_is_not_waited_for() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(bytes([0x20, 2, 0, 5]))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"mqtt://me:s3cr3t@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(5):
            with pytest.raises(DeliveryError, match="not authorised") as caught:
                await watch(arguments(url), plain())
        assert "s3cr3t" not in str(caught.value)


async def test_a_bad_url_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        await watch(arguments("http://localhost"), plain())


# The end of a run


async def test_a_run_that_stopped_long_ago_does_not_end_the_watch() -> None:
    async with EmbeddedBroker() as broker:
        async with streaming(broker.url, seconds=1):
            pass
        collector = Collector(broker.url)
        task = await started(collector.watcher, until_stopped=True)
        assert not task.done()
        async with streaming(broker.url, run="2", seconds=2) as streamer:
            await streamer.say(spot(0))
        async with asyncio.timeout(10):
            await task
        assert collector.ids == ["0"]
        assert collector.watcher.status["main"]["statistics"] == {"seconds": 2}


async def test_a_run_that_broke_off_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url)
        task = await started(collector.watcher, until_stopped=True)
        with suppress(ZeroDivisionError):
            async with streaming(broker.url):
                raise ZeroDivisionError
        await until(lambda: "is gone" in caplog.text)
        assert not task.done()
        async with streaming(broker.url, run="2"):
            pass
        async with asyncio.timeout(10):
            await task


async def test_without_a_stream_the_watch_ends_when_all_have_stopped() -> None:
    async with EmbeddedBroker() as broker:
        collector = Collector(broker.url, None)
        task = await started(collector.watcher, until_stopped=True)
        async with streaming(broker.url, "a"):
            async with streaming(broker.url, "b"):
                pass
            await asyncio.sleep(0.2)
            assert not task.done()
        async with asyncio.timeout(10):
            await task


# Sessions, and brokers that are careful


async def session(url: str, *options: str, count: int) -> list[str]:
    """Return the ids that `touchline watch --session` prints, of so many words."""
    console = plain()
    task = asyncio.create_task(
        watch(arguments(url, "--stream", "main", "--session", "me", "--json", *options), console)
    )
    await until(lambda: task.done() or len(printed(console)) >= count)
    await asyncio.sleep(0.2)
    await ended(task)  # type: ignore[arg-type]
    return [json.loads(text)["id"] for text in printed(console)]


async def test_a_session_shows_what_was_said_while_it_was_away(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        assert await session(broker.url, count=0) == []
        async with streaming(broker.url) as streamer:
            await streamer.say(*map(spot, range(100)))
        assert await session(broker.url, count=100) == [str(n) for n in range(100)]
        assert await session(broker.url, count=0) == []


async def test_a_session_is_one_of_its_prefix(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        assert await session(broker.url, count=0) == []
        task = asyncio.create_task(session(broker.url, "--prefix", "b", count=0))
        assert await session(broker.url, count=0) == []
        assert await task == []
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0))
        assert await session(broker.url, "--prefix", "b", count=0) == []
        assert await session(broker.url, count=1) == ["0"]


def test_the_id_of_a_session_is_short_and_its_own_whatever_the_names() -> None:
    names = ("me", "you/+#", "é" * 500)
    made = {_client_id(name, base) for name in names for base in ("touchline/main", "touchline/+", "b/main")}
    assert len(made) == 9
    assert all(re.fullmatch("touchline-watch-[A-Za-z0-9-]{1,40}", one) for one in made)


async def test_of_two_in_one_session_one_ends_with_a_sentence_and_the_other_goes_on(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        given = arguments(broker.url, "--stream", "main", "--session", "me", "--json")
        consoles = plain(), plain()
        tasks = [asyncio.create_task(watch(given, console)) for console in consoles]
        done, (other,) = await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        says = rf"^{broker.url}: another watch uses this session; give another --session name\.$"
        with pytest.raises(DeliveryError, match=says):
            done.pop().result()
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0))
        await until(lambda: bool(printed(consoles[tasks.index(other)])))
        await ended(other)  # type: ignore[arg-type]


async def test_a_session_outlives_the_broker(tmp_path: Path) -> None:
    with mosquitto(tmp_path, persistent=True) as broker:
        await session(broker.url, count=0)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(0), spot(0, state="provisional", revision=2), spot(1))
        broker.stop()
        broker.start()
        assert await session(broker.url, count=2) == ["0", "1"]


async def test_a_session_that_now_wants_final_words_alone_gets_no_other(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        await session(broker.url, count=0)
        task = asyncio.create_task(session(broker.url, "--final", count=1))
        await asyncio.sleep(0.3)
        async with streaming(broker.url) as streamer:
            await streamer.say(spot(1, state="provisional"), spot(0))
        assert await task == ["0"]


async def test_a_broker_that_asks_who_we_are_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates by options; a password, which others must not read, by the environment."""
    authority = Authority(tmp_path)
    ours = authority.client("me")
    wanted = (f"cafile {authority.ca}", "require_certificate true")
    with mosquitto(tmp_path, *wanted, tls=authority.server()) as broker:
        files = ("--mqtt-ca", str(authority.ca), "--mqtt-cert", str(ours.cert), "--mqtt-key", str(ours.key))
        assert await session(broker.url, *files, count=0) == []
        with pytest.raises(DeliveryError, match="give --mqtt-cert and --mqtt-key"):
            await watch(arguments(broker.url, "--mqtt-ca", str(authority.ca)), plain())
    monkeypatch.setenv("TOUCHLINE_MQTT_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="TOUCHLINE_MQTT_PASSWORD_FILE"):
        await watch(arguments(broker.url), plain())


async def test_a_topic_that_may_not_be_read_is_one_sentence() -> None:
    async def forbid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(bytes([0x20, 3, 0, 0, 0]))
        subscribe = await reader.read(1000) or bytes(4)
        writer.write(bytes([0x90, 6, subscribe[2], subscribe[3], 0, 1, 1, 135]))
        await reader.read(1000)
        writer.close()

    async with await asyncio.start_server(forbid, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DeliveryError, match=r": not authorised to read touchline/\+/status\.$"):
            await watch(arguments(url), plain())
    await asyncio.sleep(0.05)
