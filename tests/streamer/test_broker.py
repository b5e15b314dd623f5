"""The embedded broker starts, says why it cannot, and leaves nothing behind."""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack

import pytest

from engines.errors import DeliveryError, UsageError
from streamer.broker import EmbeddedBroker
from streamer.cloudevents import Event
from streamer.mqtt import connect, parse_broker_url


def saying(text: str) -> Event:
    return Event({"id": "1"}, f'"{text}"')


async def test_a_subscriber_gets_what_was_published() -> None:
    async with EmbeddedBroker() as broker, connect(parse_broker_url(broker.url)) as connection:
        await connection.subscribe(["a/b"])
        await connection.publish("a/b", saying("hello"), qos=1)
        assert (await anext(connection.messages())).payload == saying("hello").json().encode()


async def test_two_brokers_take_two_free_ports() -> None:
    async with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.url.startswith("mqtt://127.0.0.1:")
        assert one.url != other.url


async def test_a_taken_port_is_one_sentence() -> None:
    async with EmbeddedBroker() as broker:
        port = parse_broker_url(broker.url).port
        with pytest.raises(DeliveryError, match=rf"^No broker can listen at {broker.url}: another program uses .*\.$"):
            async with EmbeddedBroker(port=port):
                pass


async def test_a_broker_may_return_to_its_port_at_once() -> None:
    async with EmbeddedBroker() as broker:
        port = parse_broker_url(broker.url).port
        async with connect(parse_broker_url(broker.url)):
            pass
    async with EmbeddedBroker(port=port) as again, connect(parse_broker_url(again.url)):
        assert again.url == broker.url


async def test_what_was_acknowledged_is_handed_out_before_the_end() -> None:
    received: list[bytes] = []
    subscribed = asyncio.Event()

    async def subscriber(url: str) -> None:
        async with connect(parse_broker_url(url)) as connection:
            await connection.subscribe(["a"])
            subscribed.set()
            async for message in connection.messages():
                received.append(message.payload)

    events = [saying(f"{n}" * 200_000) for n in range(50)]
    async with AsyncExitStack() as stack:
        async with EmbeddedBroker() as broker:
            task = asyncio.create_task(subscriber(broker.url))
            await subscribed.wait()
            connection = await stack.enter_async_context(connect(parse_broker_url(broker.url)))
            await connection.publish_many(("a", event) for event in events)
        async with asyncio.timeout(10):
            with pytest.raises(DeliveryError):
                await task
        assert received == [event.json().encode() for event in events]


async def test_it_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with EmbeddedBroker() as broker, connect(parse_broker_url(broker.url)):
        pass
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before


async def test_it_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with EmbeddedBroker() as broker, connect(parse_broker_url(broker.url)) as connection:
            await connection.publish("a", saying("1"), qos=1)
    assert not [r for r in caplog.records if r.name.startswith(("amqtt", "transitions"))]


async def test_without_amqtt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(UsageError, match="extra `broker`"):
        async with EmbeddedBroker():
            pass
