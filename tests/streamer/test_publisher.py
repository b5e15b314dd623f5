"""Spots reach the broker in order, at least once, over any number of lost connections, and runs."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from broker_wire import Wire, a_closed_port, a_server_that, subscribed, until
from brokers import mosquitto
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from engines.decider import Spot
from engines.errors import DeliveryError
from streamer.broker import EmbeddedBroker
from streamer.config import MqttConfig
from streamer.mqtt import parse_broker_url
from streamer.outbox import Outbox
from streamer.payload import AnswerMessage, ClockMessage, ScoresMessage, SpotMessage, StatusMessage
from streamer.publisher import Publisher


def word(n: int, **changes: Any) -> SpotMessage:
    fields: dict[str, Any] = {"id": str(n), "label": "Goal", "state": "confirmed", **changes}
    identifier, label = fields.pop("id"), fields.pop("label")
    return SpotMessage.of(Spot(identifier, "main", 1, 0, label, float(n), 0.9, n + 8.0, **fields), datetime.now(UTC))


def early(n: int) -> SpotMessage:
    return word(n, id=f"early {n}", state="provisional")


def status(state: str = "online", **more: Any) -> StatusMessage:
    return StatusMessage(stream="main", run="r", state=state, at_utc=datetime.now(UTC), **more)  # type: ignore[arg-type]


def clock(media_time: float) -> ClockMessage:
    return ClockMessage(stream="main", half=1, epoch=0, media_time=media_time, at_utc=datetime.now(UTC))


def scores(media_time: float) -> ScoresMessage:
    return ScoresMessage(stream="main", half=1, epoch=0, media_time=media_time, rows=[])


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.connected: list[bool] = []
        self.published: list[float] = []
        self.failed = 0

    def on_connected(self, up: bool) -> None:
        self.connected.append(up)

    def on_published(self, duration_s: float) -> None:
        self.published.append(duration_s)

    def on_publish_failed(self) -> None:
        self.failed += 1


class Run:
    """One run's outbox and publisher."""

    def __init__(self, publisher: Publisher, outbox: Outbox) -> None:
        self.publisher, self.outbox = publisher, outbox

    async def say(self, *words: SpotMessage) -> None:
        await self.outbox.put(words)
        for one in words:
            if one.state == "provisional":
                self.publisher.pass_on("spot", one)
        self.publisher.wake()

    async def stop(self, timeout_s: float = 10.0, **more: Any) -> None:
        await self.publisher.stop(status("stopped", **more), timeout_s)


@asynccontextmanager
async def a_run(
    url: str,
    path: Path | None = None,
    *,
    patient: bool = False,
    start: bool = True,
    capacity: int = 1000,
    timeout_s: float = 10.0,
    **options: Any,
) -> AsyncIterator[Run]:
    outbox = Outbox(path, capacity=capacity)
    await outbox.open()
    config = MqttConfig(url=url, timeout_s=timeout_s)
    run = Run(Publisher(parse_broker_url(url), "main", outbox, config, run="r", **options), outbox)
    try:
        if start:
            await run.publisher.start(status(), patient=patient)
        yield run
    finally:
        with suppress(DeliveryError):
            await run.stop(1.0)
        await outbox.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name == "touchline.publisher"]


# What arrives


async def test_spots_arrive_in_order_and_once_on_their_topic_and_their_labels() -> None:
    observer = Recorder()
    async with (
        EmbeddedBroker() as broker,
        subscribed(broker.url) as subscriber,
        a_run(broker.url, observer=observer) as run,
    ):
        for n in range(200):
            await run.say(word(n, label="Goal" if n % 2 else "Corner"))
        await run.stop()
        await until(lambda: subscriber.states[-1:] == ["stopped"] and len(subscriber.ids()) >= 200)
        assert subscriber.ids() == [str(n) for n in range(200)]
        assert subscriber.ids("spots/by-label/Goal") == [str(n) for n in range(1, 200, 2)]
        assert subscriber.ids("spots/by-label/Corner") == [str(n) for n in range(0, 200, 2)]
        sequences = [json.loads(payload)["sequence"] for topic, payload in subscriber.arrived if topic == "spots"]
        assert sequences == [f"{n:012d}" for n in range(1, 201)]
        assert observer.connected == [True, False]
        assert len(observer.published) == 200
        assert min(observer.published) > 0
        assert (run.outbox.pending, observer.failed) == (0, 0)


async def test_a_spot_goes_out_while_the_stream_goes_on() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber, a_run(broker.url) as run:
        for n in range(3):
            await run.say(word(n))
            await until(lambda n=n: len(subscriber.ids()) == n + 1)  # type: ignore[misc]
            await until(lambda: run.outbox.pending == 0)


async def test_provisional_words_and_scores_go_out_on_topics_of_their_own() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber, a_run(broker.url) as run:
        await run.say(early(0))
        run.publisher.pass_on("scores", scores(7.0))
        assert run.outbox.pending == 0
        await until(lambda: subscriber.ids("spots/provisional") == ["early 0"] and bool(subscriber.on("scores")))
        assert subscriber.on("scores")[0]["media_time"] == 7.0
        await run.say(word(0, state="retracted", revision=2))
        await run.stop()
        await until(lambda: subscriber.ids() == ["0"])


async def test_provisional_words_do_not_wait_for_final_ones() -> None:
    """A broker that acknowledges nothing holds up the final words, and nothing else."""
    async with (
        EmbeddedBroker() as broker,
        Wire(broker.url) as wire,
        subscribed(broker.url) as subscriber,
        a_run(wire.url) as run,
    ):
        wire.deaf = True
        for n in range(50):
            await run.say(word(n))
        await run.say(early(2), early(3))
        await until(lambda: subscriber.ids("spots/provisional") == ["early 2", "early 3"])
        assert run.outbox.pending == 50
        wire.deaf = False
        wire.cut()
        await run.stop()


async def test_provisional_words_without_a_broker_are_lost_and_no_failure() -> None:
    port = a_closed_port()
    async with a_run(f"mqtt://127.0.0.1:{port}", patient=True) as run:
        await run.say(*(early(n) for n in range(1000)))
        async with EmbeddedBroker(port=port) as again, subscribed(again.url) as subscriber:
            await until(lambda: run.publisher.connected)
            await run.say(word(0))
            await run.stop()
            await until(lambda: subscriber.ids() == ["0"])
            assert subscriber.ids("spots/provisional") == []


async def test_a_label_that_no_topic_can_be_made_of_stops_nothing() -> None:
    async with EmbeddedBroker() as broker, subscribed(broker.url) as subscriber, a_run(broker.url) as run:
        await run.say(word(0, label="x" * 201), word(1))
        await run.stop()
        await until(lambda: subscriber.ids() == ["0", "1"])


# Lost connections


async def test_spots_said_while_the_broker_is_down_arrive_after_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker() as broker:
        run_of = a_run(broker.url)
        run = await run_of.__aenter__()
    await until(lambda: not run.publisher.connected)
    for n in range(5):
        await run.say(word(n))
    await asyncio.sleep(0.5)
    assert run.outbox.pending == 5
    port = parse_broker_url(broker.url).port
    async with EmbeddedBroker(port=port) as again, subscribed(again.url) as subscriber:
        await until(lambda: len(subscriber.ids()) == 5)
        assert subscriber.ids() == ["0", "1", "2", "3", "4"]
        assert subscriber.states[-1] == "online"
        await run.say(word(5))
        await run.stop()
        await until(lambda: subscriber.ids()[5:] == ["5"])
    await run_of.__aexit__(None, None, None)
    assert len(warnings(caplog)) == 1
    assert "Reconnecting; 0 spots pending." in warnings(caplog)[0]


async def test_what_was_not_acknowledged_is_sent_again_under_the_same_id_and_sequence() -> None:
    observer = Recorder()
    async with (
        EmbeddedBroker() as broker,
        Wire(broker.url) as wire,
        subscribed(broker.url) as subscriber,
        a_run(wire.url, observer=observer) as run,
    ):
        wire.deaf = True
        await run.say(word(0), word(1))
        await until(lambda: subscriber.ids() == ["0", "1"])
        assert run.outbox.pending == 2
        wire.deaf = False
        wire.cut()
        await run.stop()
        await until(lambda: len(subscriber.ids()) == 4)
        assert subscriber.ids() == ["0", "1", "0", "1"]
        first, _, again, _ = (payload for topic, payload in subscriber.arrived if topic == "spots")
        assert first == again
        assert observer.failed == 1


async def test_a_broker_that_stops_answering_is_left_and_found_again() -> None:
    async with (
        EmbeddedBroker() as broker,
        Wire(broker.url) as wire,
        subscribed(broker.url) as subscriber,
        a_run(wire.url, timeout_s=0.3) as run,
    ):
        wire.deaf = True
        await run.say(word(0))
        await until(lambda: not run.publisher.connected)
        wire.deaf = False
        await until(lambda: run.outbox.pending == 0)
        assert set(subscriber.ids()) == {"0"}


async def test_cuts_in_the_middle_lose_nothing_and_keep_order_with_mosquitto(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with (
            Wire(broker.url) as wire,
            subscribed(broker.url) as subscriber,
            a_run(wire.url, tmp_path / "outbox") as run,
        ):
            for n in range(600):
                await run.say(word(n))
                if n in (50, 200, 201, 450):
                    wire.cut()
            await run.stop()
            await until(lambda: subscriber.states[-1:] == ["stopped"])
            assert list(dict.fromkeys(subscriber.ids())) == [str(n) for n in range(600)]
            assert set(subscriber.ids("spots/by-label/Goal")) == {str(n) for n in range(600)}
            assert subscriber.states[0] == "online"
            assert subscriber.states.count("offline") >= 1


async def test_when_the_disk_fails_what_was_acknowledged_is_not_sent_again(tmp_path: Path) -> None:
    async with (
        EmbeddedBroker() as broker,
        Wire(broker.url) as wire,
        subscribed(broker.url) as subscriber,
        a_run(wire.url, tmp_path / "outbox") as run,
    ):
        await run.say(word(0))
        await until(lambda: run.outbox.pending == 0)
        # stands in for a disk that takes no write any more, a DELETE included
        await run.outbox._do(lambda: run.outbox._file._db.execute("PRAGMA query_only = ON").fetchall())
        await run.say(word(1), word(2))
        await until(lambda: run.outbox.pending == 0)
        assert run.outbox.fault is not None
        wire.cut()
        await run.say(word(3))
        await run.stop()
        await until(lambda: len(subscriber.ids()) >= 4)
        assert subscriber.ids() == ["0", "1", "2", "3"]


# Runs that follow each other


async def test_what_an_earlier_run_left_goes_out_first_in_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    observer = Recorder()
    async with a_run(f"mqtt://127.0.0.1:{a_closed_port()}", path, patient=True) as run:
        await run.say(word(0), word(1))
        with pytest.raises(
            DeliveryError, match=rf": 2 spots could not be delivered yet \(kept in {path} for the next run\)\.$"
        ):
            await run.stop(0.1)
    async with (
        EmbeddedBroker() as broker,
        subscribed(broker.url) as subscriber,
        a_run(broker.url, path, observer=observer) as run,
    ):
        await run.say(word(2))
        await run.stop()
        await until(lambda: len(subscriber.ids()) == 3)
        assert subscriber.ids() == ["0", "1", "2"]
        assert len(observer.published) == 1  # how long the others took tells nothing


async def test_what_had_to_be_dropped_is_said_at_the_end() -> None:
    port = a_closed_port()
    async with a_run(f"mqtt://127.0.0.1:{port}", patient=True, capacity=3) as run:
        for n in range(5):
            await run.say(word(n))
        async with EmbeddedBroker(port=port) as broker, subscribed(broker.url) as subscriber:
            await until(lambda: len(subscriber.ids()) == 3)
            assert subscriber.ids() == ["2", "3", "4"]
            with pytest.raises(DeliveryError, match=rf"^{broker.url}: 2 spots had to be dropped\.$"):
                await run.stop()


# What is retained


async def test_the_status_is_retained_and_follows_the_run(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with subscribed(broker.url) as first, a_run(broker.url) as run:
            async with subscribed(broker.url) as late:
                await until(lambda: late.states == ["online"])
            run.publisher.keep(status(paused=True))
            await until(lambda: len(first.states) == 2)
            await run.stop(statistics={"seconds": 90.0})
            await until(lambda: first.states == ["online", "online", "stopped"])
            assert first.on("status")[1]["paused"] is True
            assert first.on("status")[2]["statistics"] == {"seconds": 90.0}
        async with subscribed(broker.url) as last:
            await until(lambda: last.states == ["stopped"])


async def test_the_newest_status_and_clock_are_said_again_at_every_connection(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with Wire(broker.url) as wire, subscribed(broker.url) as subscriber, a_run(wire.url) as run:
            for n in range(3):
                run.publisher.keep(clock(float(n)))
            await until(lambda: subscriber.on("clock")[-1:] != [] and subscriber.on("clock")[-1]["media_time"] == 2.0)
            before = len(subscriber.arrived)
            wire.cut()
            await until(lambda: len(subscriber.on("clock")) > 1 and subscriber.states[-1] == "online")
            after = [topic for topic, _ in subscriber.arrived[before:]]
            assert after == ["status", "status", "clock"]  # offline, online, clock
            assert subscriber.states == ["online", "offline", "online"]
            assert subscriber.on("status")[1]["run"] == "r"
        async with subscribed(broker.url) as late:
            await until(lambda: bool(late.on("clock")))
            assert late.on("clock")[0]["media_time"] == 2.0


async def test_a_program_that_breaks_off_does_not_leave_online_behind(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with subscribed(broker.url) as subscriber, a_run(broker.url):
            (task,) = (t for t in asyncio.all_tasks() if t.get_name() == "touchline-publisher")
            task.cancel()
            await until(lambda: subscriber.states == ["online", "offline"])
        async with subscribed(broker.url) as late:
            await until(lambda: late.states == ["offline"])


# Commands


def obedient(heard: list[tuple[str, bytes]]) -> Any:
    def obey(command: str, payload: bytes) -> AnswerMessage:
        heard.append((command, payload))
        return AnswerMessage(command=command, ok=payload != b"junk", paused=False, muted=[], thresholds={})

    return obey


async def command(url: str, name: str, payload: bytes, *, retain: bool = False, correlation: bytes = b"") -> None:
    address = parse_broker_url(url)
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if correlation:
        properties.ResponseTopic, properties.CorrelationData = "touchline/main/mine", correlation
    async with aiomqtt.Client(address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(f"touchline/main/cmd/{name}", payload, 1, retain, properties)


async def test_commands_are_answered_on_the_streams_topic_and_where_it_is_asked(tmp_path: Path) -> None:
    heard: list[tuple[str, bytes]] = []
    with mosquitto(tmp_path) as broker:
        async with subscribed(broker.url) as subscriber, a_run(broker.url, obey=obedient(heard)):
            await command(broker.url, "pause", b"{}", correlation=b"\x00\xff")
            await command(broker.url, "mute", b"junk")
            await until(lambda: len(subscriber.on("answers")) == 2)
            assert heard == [("pause", b"{}"), ("mute", b"junk")]
            assert [(a["command"], a["ok"]) for a in subscriber.on("answers")] == [("pause", True), ("mute", False)]
            assert [a["command"] for a in subscriber.on("mine")] == ["pause"]


async def test_a_retained_command_is_not_obeyed_at_every_connection(tmp_path: Path) -> None:
    heard: list[tuple[str, bytes]] = []
    with mosquitto(tmp_path) as broker:
        await command(broker.url, "pause", b"{}", retain=True)
        async with subscribed(broker.url) as subscriber, a_run(broker.url, obey=obedient(heard)):
            await command(broker.url, "mute", b"{}")
            await until(lambda: bool(subscriber.on("answers")))
            assert heard == [("mute", b"{}")]


async def test_without_leave_commands_are_not_heard_and_do_no_harm(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with subscribed(broker.url) as subscriber, a_run(broker.url) as run:
            await command(broker.url, "pause", b"{}")
            await run.say(word(0))
            await run.stop()
            await until(lambda: subscriber.ids() == ["0"] and subscriber.states[-1] == "stopped")
            assert subscriber.on("answers") == []


async def test_a_broker_that_forbids_commands_is_an_error_at_the_start() -> None:
    async def forbid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(bytes([0x20, 3, 0, 0, 0]))  # welcome
        asked = await reader.read(4096)
        writer.write(bytes([0x90, 4, *asked[2:4], 0, 135]))  # not authorised
        await reader.read()
        writer.close()

    async with await asyncio.start_server(forbid, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DeliveryError, match=f"^{url}: .*touchline/main/cmd/"):
            async with a_run(url, patient=True, obey=obedient([])):
                pass


# The end


async def test_stop_says_how_many_spots_could_not_be_delivered() -> None:
    url = f"mqtt://127.0.0.1:{a_closed_port()}"
    async with a_run(url, patient=True) as run:
        await run.say(word(0), word(1), word(2))
        with pytest.raises(DeliveryError, match=rf"^{url}: 3 spots could not be delivered\.$"):
            await run.stop(0.3)
        await run.stop()  # a second time does nothing


async def test_stop_waits_for_a_broker_that_returns_in_time() -> None:
    port = a_closed_port()
    async with a_run(f"mqtt://127.0.0.1:{port}", patient=True) as run:
        await run.say(word(0))
        stopping = asyncio.create_task(run.stop())
        async with EmbeddedBroker(port=port):
            await stopping
        assert run.outbox.pending == 0


async def test_stop_says_so_when_only_the_status_could_not_be_told() -> None:
    async with a_run(f"mqtt://127.0.0.1:{a_closed_port()}", patient=True) as run:
        with pytest.raises(DeliveryError, match="every spot was delivered, but"):
            await run.stop(0.3)


async def test_stop_ends_in_time_when_the_broker_does_not_answer() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire, a_run(wire.url) as run:
        wire.deaf = True
        await run.say(word(0))
        async with asyncio.timeout(5):
            with pytest.raises(DeliveryError, match=": 1 spot could not be delivered"):
                await run.stop(0.3)


async def test_it_leaves_no_task_behind() -> None:
    async with EmbeddedBroker() as broker:
        before = asyncio.all_tasks()
        async with a_run(broker.url) as run:
            await run.say(word(0))
            await run.stop()
            await until(lambda: not {t for t in asyncio.all_tasks() - before if "touchline" in t.get_name()})


# The start


async def test_a_broker_that_cannot_be_reached_is_one_sentence_unless_somebody_is_patient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = a_closed_port()
    sentence = f"mqtt://127.0.0.1:{port}: connection refused; is a broker running there?"
    async with a_run(f"mqtt://127.0.0.1:{port}", start=False) as run:
        with pytest.raises(DeliveryError) as caught:
            await run.publisher.start(status(), patient=False)
        assert str(caught.value) == sentence
        await run.publisher.start(status(), patient=True)
        assert not run.publisher.connected
        await run.say(word(0))
        async with EmbeddedBroker(port=port) as broker, subscribed(broker.url) as subscriber:
            await until(lambda: subscriber.ids() == ["0"])
            await run.stop()
    assert warnings(caplog) == [f"{sentence} Trying again."]


@pytest.mark.parametrize("patient", [True, False])
async def test_a_wrong_password_is_an_error_however_patient_one_is(patient: bool) -> None:
    async with a_server_that(bytes([0x20, 3, 0, 134, 0])) as where:
        with pytest.raises(DeliveryError, match=rf"^mqtt://{where}: .*user and password"):
            async with a_run(f"mqtt://{where}", patient=patient):
                pass


async def test_a_server_that_never_answers_is_one_sentence() -> None:
    async with a_server_that(b"") as where:
        with pytest.raises(DeliveryError, match=rf"^mqtt://{where}: "):
            async with a_run(f"mqtt://{where}", timeout_s=0.2):
                pass
