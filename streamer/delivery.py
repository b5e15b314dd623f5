"""What a run delivers to a broker, and what outlives it: outbox, publisher and embedded broker, or none of them.

In: words and messages. Out: the same at the broker. Promise: a final word that was taken is on the disk (if there is a
state folder) before anybody hears of it, and stays there until the broker has acknowledged it.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from streamer.broker import EmbeddedBroker
from streamer.config import MqttConfig, OutputConfig
from streamer.mqtt import address_of
from streamer.outbox import Mark, Outbox, OutboxObserver
from streamer.payload import AnswerMessage, ClockMessage, Health, Message, SpotMessage, StatusMessage
from streamer.publisher import Observer, Publisher
from streamer.timeline import Anchor

log = logging.getLogger("touchline")

_DESK, _BROKER, _CLIENT = "desk", "broker", "client"
"""What is remembered from one run to the next: what was commanded, which broker was there, and who we are to it."""


_FILLING = 0.5
"""From this share of the outbox on, its health says so."""


class Delivery:
    """One run's outbox and publisher, each only if it is wanted.

    Args:
        config: where words go.
        stream: the broadcast's name.
        run: tells this run of the stream from others.
        on_outbox: told how the outbox does.
        on_broker: told how the broker does.
        fail: told if the publisher dies of a bug.

    Attributes:
        outbox: what waits, and what outlives the run; from `open` on.
    """

    def __init__(
        self,
        config: OutputConfig,
        stream: str,
        run: str,
        on_outbox: OutboxObserver,
        on_broker: Observer,
        fail: Callable[[Exception], None],
    ) -> None:
        self._config, self._stream, self._run = config, stream, run
        self._on_outbox, self._on_broker, self._fail = on_outbox, on_broker, fail
        self._mqtt: MqttConfig | None = None
        self._publisher: Publisher | None = None
        self.outbox: Outbox | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Start the embedded broker and open the outbox, each if it is wanted; both end with the stack.

        Raises:
            TouchlineError: one of them cannot be started.
        """
        self._mqtt = await self._broker(stack)
        state = self._config.state
        if self._mqtt is None and state is None:
            return
        path = state / f"{self._stream}.sqlite3" if state is not None else None
        self.outbox = Outbox(path, self._on_outbox, self._config.outbox_capacity)
        await self.outbox.open()
        stack.push_async_callback(self.outbox.close)
        if self._mqtt is not None and self.outbox.pending:
            log.info("%d spots of an earlier run are delivered first", self.outbox.pending)

    async def _broker(self, stack: AsyncExitStack) -> MqttConfig | None:
        mqtt = self._config.mqtt
        if self._config.broker:
            broker = await stack.enter_async_context(EmbeddedBroker(port=self._config.broker_port))
            log.info("embedded broker at %s", broker.url)
            mqtt = mqtt or MqttConfig()
            return mqtt if mqtt.url else replace(mqtt, url=broker.url)
        return mqtt

    async def connect(self, status: StatusMessage, obey: Callable[[str, bytes], AnswerMessage]) -> None:
        """Connect to the broker, if there is one; one that this state was delivered to before is waited for.

        Raises:
            TouchlineError: it cannot be reached, or refuses.
        """
        if self._mqtt is None or self.outbox is None:
            return
        address = address_of(self._mqtt, os.environ)
        known = self.outbox.remembered.get(_BROKER) == str(address)
        self._publisher = Publisher(
            address,
            self._stream,
            self.outbox,
            self._mqtt,
            observer=self._on_broker,
            obey=obey if self._mqtt.commands else None,
            fail=self._fail,
            run=self._run,
            client=await self._client(self.outbox),
        )
        await self._publisher.start(status, patient=known)
        if self._publisher.connected:
            await self.outbox.remember(_BROKER, str(address))
            log.info("publishing to %s", address)

    async def _client(self, outbox: Outbox) -> str | None:
        """Return who we are to the broker, in all runs with this state."""
        if outbox.path is None:
            return None
        client = outbox.remembered.get(_CLIENT) or secrets.token_hex(6)
        await outbox.remember(_CLIENT, client)
        return client

    @property
    def connected(self) -> bool | None:
        """Whether the broker is connected; None if there is none."""
        return self._publisher.connected if self._publisher is not None else None

    def health(self, held_up: int) -> dict[str, Health]:
        """Return how outbox and broker do, if there are any.

        Args:
            held_up: words that wait for the disk longer than they should.
        """
        if self.outbox is None or self._mqtt is None:
            return {}
        health = {"outbox": _slow(held_up) if held_up else _outbox_health(self.outbox)}
        if self._publisher is not None:
            reason = None if self._publisher.connected else "the broker is not connected; spots wait for it"
            health["broker"] = Health(state="warning" if reason else "ok", reason=reason)
        return health

    @property
    def with_scores(self) -> bool:
        """Whether each second's scores are published."""
        return self._mqtt is not None and self._mqtt.scores

    @property
    def commanded(self) -> str | None:
        """What was commanded in an earlier run, if commands are obeyed in this one."""
        obeys = self.outbox is not None and self._mqtt is not None and self._mqtt.commands
        return self.outbox.remembered.get(_DESK) if self.outbox is not None and obeys else None

    async def remember_commands(self, text: str) -> None:
        """Keep what is commanded for the next run."""
        if self.outbox is not None:
            await self.outbox.remember(_DESK, text)

    def anchor(self) -> Anchor | None:
        """Return where an earlier run of this live stream ended; None if nobody knows."""
        mark = self.outbox.mark if self.outbox is not None else None
        if mark is None:
            return None
        since = max(datetime.now(UTC) - mark.at_utc, timedelta())
        return Anchor(mark.epoch, mark.media_us, mark.stream_us, round(since.total_seconds() * 1e6))

    def standing(self) -> list[SpotMessage]:
        """Return what an earlier run said provisionally, and then no more of."""
        return self.outbox.standing if self.outbox is not None and self._publisher is not None else []

    async def put(self, words: Sequence[SpotMessage], mark: Mark | None) -> None:
        """Take words, and where the stream's clock is; they are stored when this returns."""
        if self.outbox is None:
            return
        noted = self.outbox.note(mark) if mark is not None else asyncio.sleep(0)
        put = self.outbox.put(words) if self._publisher is not None and words else asyncio.sleep(0)
        await asyncio.gather(noted, put)  # together, so that they share a commit

    def deliver(self, word: SpotMessage) -> None:
        """Let a word that was put go out: a final one in its turn, a provisional one now or never."""
        if self._publisher is None:
            return
        if word.state == "provisional":
            self._publisher.pass_on("spot", word)
        else:
            self._publisher.wake()

    def pass_on(self, kind: str, message: Message) -> None:
        """Let a message go out now, or never."""
        if self._publisher is not None:
            self._publisher.pass_on(kind, message)

    def keep(self, message: StatusMessage | ClockMessage) -> None:
        """Let a retained message go out, now and at every connection."""
        if self._publisher is not None:
            self._publisher.keep(message)

    async def stop(self, status: StatusMessage) -> None:
        """Deliver what is pending, and the last status.

        Raises:
            DeliveryError: something could not be delivered in this run.
        """
        if self._publisher is not None and self._mqtt is not None:
            await self._publisher.stop(status, self._mqtt.stop_timeout_s)


def _slow(words: int) -> Health:
    return Health(state="warning", reason=f"the disk does not answer; {words} words wait for it")


def _outbox_health(outbox: Outbox) -> Health:
    if outbox.fault is not None:
        return Health(state="failed", reason=outbox.fault)
    if outbox.dropped:
        return Health(state="warning", reason=f"the outbox was full; the oldest {outbox.dropped} spots were dropped")
    if outbox.pending > _FILLING * outbox.capacity:
        return Health(state="warning", reason=f"{outbox.pending} spots wait; the outbox takes {outbox.capacity}")
    return Health(state="ok")
