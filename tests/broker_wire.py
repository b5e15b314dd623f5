"""What stands around a broker in tests: a wire that can be cut, a subscriber that remembers, and what is no broker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from engines.errors import DeliveryError
from streamer.cloudevents import data_of
from streamer.mqtt import Connection, connect, parse_broker_url


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return as soon as a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def a_closed_port() -> int:
    """Return a port at which nobody listens."""
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


class Wire:
    """Stands between a client and the broker; can be cut, and can lose what the broker answers.

    Attributes:
        url: where clients connect.
        deaf: whether what the broker says is lost.
        connections: so far.
    """

    def __init__(self, broker_url: str) -> None:
        self._port = parse_broker_url(broker_url).port
        self._writers: list[asyncio.StreamWriter] = []
        self._joined: set[asyncio.Task[None]] = set()
        self.deaf = False
        self.connections = 0

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self._joined:
            self.cut()
            await asyncio.wait(self._joined, timeout=0.1)

    def cut(self) -> None:
        """Break every connection, in the middle of whatever it carries."""
        while self._writers:
            self._writers.pop().transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joined.add(task)
        task.add_done_callback(self._joined.discard)
        self.connections += 1
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionError:
            writer.transport.abort()
            return
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
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()


class Subscriber:
    """Everything that arrives on a stream's topics.

    Attributes:
        arrived: topic, after the stream's own, and payload, in order.
    """

    def __init__(self) -> None:
        self.arrived: list[tuple[str, bytes]] = []
        self.ready, self.leaving = asyncio.Event(), asyncio.Event()

    async def run(self, url: str, base: str) -> None:
        """Listen until it is time to leave, or the connection is lost."""
        async with connect(parse_broker_url(url)) as connection:
            await connection.subscribe([f"{base}/#"])
            self.ready.set()
            tasks = {asyncio.create_task(self._listen(connection, base)), asyncio.create_task(self.leaving.wait())}
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*done, *left, return_exceptions=True)

    async def _listen(self, connection: Connection, base: str) -> None:
        async for message in connection.messages():
            self.arrived.append((message.topic.removeprefix(f"{base}/"), message.payload))

    def on(self, topic: str) -> list[dict[str, Any]]:
        """Return what arrived on one topic."""
        return [data_of(payload) for name, payload in self.arrived if name == topic]

    def ids(self, topic: str = "spots") -> list[str]:
        """Return the ids of the spots that arrived on one topic."""
        return [data["id"] for data in self.on(topic)]

    @property
    def states(self) -> list[str]:
        """The states of the stream that were said."""
        return [data["state"] for data in self.on("status")]


@asynccontextmanager
async def subscribed(url: str, base: str = "touchline/main") -> AsyncIterator[Subscriber]:
    """A subscriber for as long as the block lasts."""
    subscriber = Subscriber()
    task = asyncio.create_task(subscriber.run(url, base))
    await subscriber.ready.wait()
    try:
        yield subscriber
    finally:
        subscriber.leaving.set()
        with suppress(DeliveryError):
            await task
