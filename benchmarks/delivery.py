"""How fast words reach a subscriber, how many a second, and whether any is lost when something dies.

    python -m benchmarks.delivery [latency rate outages deaths kills] [--seconds 60] [--seed 1]

Outbox (on disk) and publisher as in a run, Mosquitto (or the embedded broker, in a process of its own), and a
subscriber in a process of its own with a persistent session, all on loopback. `latency`: from before a word is put to
its arrival. `rate`: 1,000 spots a second, each published on two topics. `outages`: Mosquitto is stopped and started,
frozen, and the network cut, at random. `deaths`: it is killed (SIGKILL) instead; it then forgets what it had
acknowledged and not saved, up to a second of words, so those cannot be expected. `kills`: the publishing process is
killed and started again; sent is what `put` had returned from. Lost is what was sent and never arrived. Tables are
Markdown.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

from engines.decider import Spot
from streamer.broker import EmbeddedBroker
from streamer.config import MqttConfig
from streamer.mqtt import parse_broker_url
from streamer.outbox import Outbox
from streamer.payload import SpotMessage, StatusMessage
from streamer.publisher import Publisher

BEFORE_KILL_S = (0.3, 4.0)
DOWN_S = (0.5, 3.0)
UP_S = (1.0, 5.0)
TIMEOUT_S = 2.0
"""How long the publisher waits for an answer; shorter than some of the outages."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which; all unless given")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each part but `latency` takes")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and kinds of outages")
    for hidden in ("--broker", "--subscribe", "--publish"):
        parser.add_argument(hidden, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.broker:
        asyncio.run(embedded_broker(int(args.broker[0])))
    elif args.subscribe:
        subscribe(int(args.subscribe[0]), Path(args.subscribe[1]))
    elif args.publish:
        asyncio.run(publish_until_killed(args.publish[0], Path(args.publish[1]), args.publish[2], args.publish[3]))
    else:
        for name in args.parts or PARTS:
            random.seed(args.seed)
            with tempfile.TemporaryDirectory() as folder:
                print(asyncio.run(PARTS[name](Path(folder), args.seconds)), flush=True)


# What runs in processes of its own


@contextmanager
def child(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Run a part of this file in a process of its own; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.delivery", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def embedded_broker(port: int) -> None:
    async with EmbeddedBroker(port=port):
        await asyncio.Event().wait()


def subscribe(port: int, out: Path) -> None:
    """Write down when each word arrived, in a session that outlives connections."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, "tally", clean_session=False)
    client.on_connect = lambda client, *_: client.subscribe("touchline/main/spots", qos=1)
    client.reconnect_delay_set(1, 1)
    with out.open("w", buffering=1) as file:
        client.on_subscribe = lambda *_: print("0 ready", file=file)
        client.on_message = lambda _client, _data, message: print(
            time.monotonic(), json.loads(message.payload)["data"]["id"], file=file
        )
        client.connect("127.0.0.1", port)
        client.loop_forever(retry_first_connection=True)


async def publish_until_killed(url: str, state: Path, name: str, rate: str) -> None:
    """Say each word's id when it is put; end in good order at end of input."""
    async with publishing(url, state) as (outbox, publisher):
        async for words in paced(float(rate), 3600.0, name):
            await outbox.put(words)
            publisher.wake()
            print(*(word.id for word in words), sep="\n", flush=True)


# What is measured


@dataclass
class Tally:
    """What was sent and what arrived."""

    out: Path
    sent: dict[str, float] = field(default_factory=dict)

    def arrived(self) -> list[tuple[float, str]]:
        lines = (line.split() for line in self.out.read_text().splitlines())
        return [(float(line[0]), line[1]) for line in lines if len(line) == 2 and line[1] != "ready"]

    def row(self, name: str) -> str:
        """Return sent, received, lost, twice and order, as cells."""
        ids = [identifier for _, identifier in self.arrived()]
        arrived = set(ids)
        lost = len(self.sent.keys() - arrived)
        first = [identifier for identifier in dict.fromkeys(ids) if identifier in self.sent]
        in_order = "yes" if first == [identifier for identifier in self.sent if identifier in arrived] else "no"
        return f"| {name} | {len(self.sent)} | {len(ids)} | {lost} | {len(ids) - len(arrived)} | {in_order} |"

    async def complete(self, limit_s: float = 20.0) -> None:
        """Wait until everything has arrived, or nothing does any more."""
        for _ in range(int(limit_s / 0.5)):
            if self.sent.keys() <= {identifier for _, identifier in self.arrived()}:
                return
            await asyncio.sleep(0.5)


HEAD = "sent | received | lost | twice | in order |"


@asynccontextmanager
async def publishing(url: str, state: Path) -> AsyncIterator[tuple[Outbox, Publisher]]:
    outbox = Outbox(state)
    await outbox.open()
    config = MqttConfig(url=url, timeout_s=TIMEOUT_S)
    publisher = Publisher(parse_broker_url(url), "main", outbox, config, run="r")
    await publisher.start(status("online", "r"), patient=True)
    try:
        yield outbox, publisher
        await publisher.stop(status("stopped", "r"), 120.0)
    finally:
        await outbox.close()


def status(state: Literal["online", "stopped"], run: str) -> StatusMessage:
    return StatusMessage(stream="main", run=run, state=state, at_utc=datetime.now(UTC))


async def paced(rate: float, seconds: float, name: str = "") -> AsyncIterator[list[SpotMessage]]:
    """Yield the words that are due, so many a second."""
    start_s, count = time.monotonic(), 0
    while count < rate * seconds:
        due = min(int((time.monotonic() - start_s) * rate) + 1, round(rate * seconds))
        if due > count:
            now_utc = datetime.now(UTC)
            yield [word(f"{name}{n}", now_utc) for n in range(count, due)]
            count = due
        await asyncio.sleep(max(start_s + count / rate - time.monotonic(), 0.001))


def word(identifier: str, said_utc: datetime) -> SpotMessage:
    return SpotMessage.of(Spot(identifier, "main", 1, 0, "Goal", 63.0, 0.9, 71.0, state="confirmed"), said_utc)


@contextmanager
def subscribed(port: int, folder: Path) -> Iterator[Tally]:
    out = folder / "arrived"
    with child("--subscribe", port, out):
        wait_until(lambda: out.is_file() and out.read_text().startswith("0 ready"))
        yield Tally(out)


async def send(url: str, folder: Path, tally: Tally, rate: float, seconds: float) -> None:
    async with publishing(url, folder / "outbox") as (outbox, publisher):
        async for words in paced(rate, seconds):
            at_s = time.monotonic()
            tally.sent.update((one.id, at_s) for one in words)
            await outbox.put(words)
            publisher.wake()


# Brokers


class Mosquitto:
    """A Mosquitto that saves what it keeps every second."""

    def __init__(self, folder: Path) -> None:
        self.port = a_free_port()
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        lines.append("set_tcp_nodelay true")  # or it holds acknowledgements back, and half as many get through
        lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        if os.geteuid() == 0:
            lines.append("user root")
        self._config.write_text("\n".join(lines) + "\n")
        self.process = self._start()

    def __enter__(self) -> "Mosquitto":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def down(self, number: signal.Signals) -> None:
        """End or freeze it, and let it go on after a while."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            await asyncio.sleep(random.uniform(*DOWN_S))
            self.process.send_signal(signal.SIGCONT)
            return
        await asyncio.to_thread(self.process.wait)
        await asyncio.sleep(random.uniform(*DOWN_S))
        self.process = await asyncio.to_thread(self._start)

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait_until(lambda: answers(self.port))
        return process


@contextmanager
def embedded() -> Iterator[str]:
    port = a_free_port()
    with child("--broker", port):
        wait_until(lambda: answers(port))
        yield f"mqtt://127.0.0.1:{port}"


class Wire:
    """A network between publisher and broker that can be cut in the middle of a message."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, broker_writer]
        await asyncio.gather(self._carry(reader, broker_writer), self._carry(broker_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until(done: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline_s:
            raise SystemExit("A broker or a subscriber did not start.")
        time.sleep(0.05)


# The parts


async def latency(folder: Path, seconds: float) -> str:
    lines = ["| broker | spots | p50, ms | p99, ms | longest, ms |", "|---|---|---|---|---|"]
    with Mosquitto(folder) as broker:
        lines.append(await one_latency("Mosquitto", broker.url, folder / "1"))
    with embedded() as url:
        lines.append(await one_latency("embedded (amqtt)", url, folder / "2"))
    return "\n".join(["put → received", "", *lines, ""])


async def one_latency(name: str, url: str, folder: Path) -> str:
    folder.mkdir()
    with subscribed(parse_broker_url(url).port, folder) as tally:
        await send(url, folder, tally, rate=50, seconds=20)
        await tally.complete()
        took_ms = [1000 * (at_s - tally.sent[identifier]) for at_s, identifier in tally.arrived()]
    cuts = statistics.quantiles(took_ms, n=100)
    return f"| {name} | {len(took_ms)} | {cuts[49]:.1f} | {cuts[98]:.1f} | {max(took_ms):.1f} |"


async def rate(folder: Path, seconds: float) -> str:
    me = psutil.Process()
    with Mosquitto(folder) as broker, subscribed(broker.port, folder) as tally:
        tally.sent.update((str(n), 0.0) for n in range(round(1000 * seconds)))  # now, so that it does not grow later
        cpu, began_s = me.cpu_times(), time.monotonic()
        sending = asyncio.create_task(send(broker.url, folder, tally, 1000, seconds))
        await asyncio.sleep(min(10.0, seconds / 2))
        early_mb = me.memory_info().rss / 1e6
        await sending
        late_mb, spent, took_s = me.memory_info().rss / 1e6, me.cpu_times(), time.monotonic() - began_s
        await tally.complete()
        took_ms = sorted(1000 * (at_s - tally.sent[identifier]) for at_s, identifier in tally.arrived())
    share = (spent.user + spent.system - cpu.user - cpu.system) / took_s
    lines = [f"| | {HEAD} p50, ms | p99, ms | memory at 10 s | at the end | CPU |", "|---|" + "---|" * 10]
    times = f"{took_ms[len(took_ms) // 2]:.1f} | {took_ms[len(took_ms) * 99 // 100]:.1f}"
    row = tally.row(f"1,000/s for {seconds:g} s ({took_s:.1f} s)")
    return "\n".join([*lines, f"{row} {times} | {early_mb:.0f} MB | {late_mb:.0f} MB | {share:.0%} |", ""])


async def outages(folder: Path, seconds: float) -> str:
    return await with_faults(folder, seconds, ["stop", "freeze", "cut", "cut"])


async def deaths(folder: Path, seconds: float) -> str:
    return await with_faults(folder, seconds, ["SIGKILL"])


async def with_faults(folder: Path, seconds: float, kinds: Sequence[str]) -> str:
    happened = dict.fromkeys(kinds, 0)
    with Mosquitto(folder) as broker, subscribed(broker.port, folder) as tally:
        async with Wire(broker.port) as wire:
            await asyncio.sleep(2.5)  # until the subscriber's session is saved
            sending = asyncio.create_task(send(wire.url, folder, tally, 100, seconds))
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                await asyncio.sleep(random.uniform(*UP_S))
                kind = random.choice(kinds)
                happened[kind] += 1
                if kind == "cut":
                    wire.cut()
                else:
                    await broker.down(SIGNALS[kind])
            await sending
        await tally.complete()
    name = f"{seconds:g} s, 100/s: " + ", ".join(f"{count} × {kind}" for kind, count in happened.items())
    return "\n".join([f"| Mosquitto | {HEAD}", "|---|" + "---|" * 5, tally.row(name), ""])


SIGNALS = {"stop": signal.SIGTERM, "freeze": signal.SIGSTOP, "SIGKILL": signal.SIGKILL}


async def kills(folder: Path, seconds: float) -> str:
    runs = 0
    with Mosquitto(folder) as broker, subscribed(broker.port, folder) as tally:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            with child("--publish", broker.url, folder / "outbox", f"{runs}-", 100) as process:
                assert process.stdout is not None
                tally.sent[process.stdout.readline().strip()] = 0.0
                await asyncio.sleep(random.uniform(*BEFORE_KILL_S))
                process.kill()
                tally.sent.update((line.strip(), 0.0) for line in process.stdout)
            runs += 1
        async with publishing(broker.url, folder / "outbox"):
            pass
        await tally.complete()
    lines = [f"| publishing process | {HEAD}", "|---|" + "---|" * 5]
    return "\n".join([*lines, tally.row(f"{seconds:g} s, 100/s: {runs} × SIGKILL"), ""])


PARTS: dict[str, Callable[[Path, float], Coroutine[None, None, str]]] = {
    "latency": latency,
    "rate": rate,
    "outages": outages,
    "deaths": deaths,
    "kills": kills,
}


if __name__ == "__main__":
    main()
