"""What a run says, to an MQTT broker.

In: an outbox of final words, and messages as they come. Out: final words on `spots` and `spots/by-label/<label>`,
QoS 1, in order, at least once: a redelivery repeats its id and sequence; provisional words, scores and statistics,
QoS 0, at once or never; status (with a last will) and clock, retained, the newest at every connection; answers to
commands. Promise: nothing waits for a broker but the final words, and those leave the outbox when it has acknowledged
them.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from engines.errors import DeliveryError
from streamer.cloudevents import Event, event, spot_event
from streamer.config import MqttConfig
from streamer.mqtt import BrokerAddress, ConnectFault, Connection, Incoming, Will, connect, topics
from streamer.outbox import Delivery, Outbox
from streamer.payload import AnswerMessage, ClockMessage, Message, SpotMessage, StatusMessage

log = logging.getLogger("touchline.publisher")

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 30.0
_PAGE = 64
"""Spots sent between two looks at the outbox; at most so many are sent again when a connection is lost."""
_READ_AGAIN_S = 1.0
_PASSING = 200
"""Messages that a slow connection may hold up; then the oldest is lost."""


class Observer(Protocol):
    """Who is told how delivery goes (metrics)."""

    def on_connected(self, up: bool) -> None:
        """The broker is connected, or lost."""

    def on_published(self, duration_s: float) -> None:
        """A spot of this run was acknowledged, so long after it was said."""

    def on_publish_failed(self) -> None:
        """Spots were not acknowledged; they are sent again."""


class Publisher:
    """Delivers one stream's messages.

    Args:
        address: the broker.
        stream: the broadcast's name, a level of the topics.
        outbox: final words; open for as long as the publisher runs.
        config: how to publish.
        observer: is told how delivery goes, on the event loop.
        obey: takes a command's name and payload, and returns what became of it; None: commands are not heard.
        fail: told if the publisher dies of a bug.
        run: tells this run of the stream from others.
        client: who we are to the broker, the same in all runs with a stream's state: then the broker ends what is left
            of an earlier run's connection, and says its will, before it takes the new one. None: this run's own.

    Raises:
        UsageError: stream or prefix make no sense.
    """

    def __init__(
        self,
        address: BrokerAddress,
        stream: str,
        outbox: Outbox,
        config: MqttConfig,
        *,
        observer: Observer | None = None,
        obey: Callable[[str, bytes], AnswerMessage] | None = None,
        fail: Callable[[Exception], None] = lambda _: None,
        run: str,
        client: str | None = None,
    ) -> None:
        self._run_id, self._client, self._fail = run, client or run, fail
        self._address, self._stream, self._outbox, self._config = address, stream, outbox, config
        self._topics = topics(config.prefix, stream)
        self._observer, self._obey = observer, obey
        self._began_utc = datetime.now(UTC)
        self._events = 0
        self._kept: dict[str, Event] = {}
        self._unsent: dict[str, Event] = {}
        self._passing: deque[tuple[str, Event]] = deque(maxlen=_PASSING)
        self._wake, self._wake_kept, self._wake_passing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._stopping = asyncio.Event()
        self._farewell: Event | None = None
        self._said_farewell = False
        self._connected = False
        self._said_refused = False
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker is connected now."""
        return self._connected

    async def start(self, status: StatusMessage, *, patient: bool) -> None:
        """Connect; from then on a task delivers, and reconnects for ever.

        Args:
            status: the stream's status; see `keep`.
            patient: a broker that cannot be reached yet is waited for in the background.

        Raises:
            DeliveryError: the broker refuses for good, or cannot be reached and that is not waited for.
        """
        self.keep(status)
        longest_s = 2 * self._config.timeout_s
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready, patient), name="touchline-publisher")
        self._task.add_done_callback(self._hear_of_a_bug)
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=longest_s)
            if self._task.done():
                self._task.result()
            elif not ready.done() and not patient:
                raise ConnectFault(f"{self._address}: nothing answers within {longest_s:g} s.")
            elif not ready.done():
                ready.set_result(None)
        except BaseException:
            self._task.cancel()
            self._task = None
            raise

    def wake(self) -> None:
        """Hear that the outbox has more."""
        self._wake.set()

    def pass_on(self, kind: str, message: Message) -> None:
        """Let a message go out now, or never.

        Args:
            kind: spot (a provisional one), scores or stats.
            message: what it says.
        """
        if not self._connected:
            return
        if isinstance(message, SpotMessage):
            self._passing.append((self._topics.provisional, spot_event(message)))
        else:
            topic = {"scores": self._topics.scores, "stats": self._topics.stats}[kind]
            self._passing.append((topic, self._event(kind, message)))
        self._wake_passing.set()

    def keep(self, message: StatusMessage | ClockMessage) -> None:
        """Let a retained message go out now, and the newest of its kind again at every connection."""
        if isinstance(message, StatusMessage):
            topic, made = self._topics.status, self._event("status", message)
        else:
            topic, made = self._topics.clock, self._event("clock", message)
        self._kept[topic] = self._unsent[topic] = made
        self._wake_kept.set()

    async def stop(self, status: StatusMessage, timeout_s: float) -> None:
        """Deliver what is pending, then the last status, and disconnect. Nothing may be said afterwards.

        Args:
            status: how the run ended.
            timeout_s: for all of it.

        Raises:
            DeliveryError: something could not be delivered in this run; how many spots, and what becomes of them.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._farewell = self._event("status", status)
        self._stopping.set()
        self._wake.set()
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        with suppress(asyncio.CancelledError):
            task.result()
        left = self._what_is_left()
        if left is not None:
            raise DeliveryError(f"{self._address}: {left}.")

    def _what_is_left(self) -> str | None:
        pending, dropped, path = self._outbox.pending, self._outbox.dropped, self._outbox.path
        parts = [f"{_spots(dropped)} had to be dropped"] if dropped else []
        if pending and path is not None and self._outbox.fault is None:
            parts.append(f"{_spots(pending)} could not be delivered yet (kept in {path} for the next run)")
        elif pending:
            parts.append(f"{_spots(pending)} could not be delivered")
        if not parts and not self._said_farewell:
            return "every spot was delivered, but not that the stream has stopped"
        return ", and ".join(parts) or None

    async def _run(self, ready: asyncio.Future[None], patient: bool) -> None:
        """Keep a connection until stopped; the first one must succeed, unless somebody is patient."""
        failures = 0
        while not self._said_farewell:
            since_mono_s = time.monotonic()
            try:
                await self._deliver(ready)
            except ConnectFault as fault:
                if not ready.done() and (fault.permanent or not patient):
                    raise
                self._hear_of(fault, first=not ready.done())
                if not ready.done():
                    ready.set_result(None)
            finally:
                if self._connected:
                    self._tell_connected(False)
            failures = 0 if time.monotonic() - since_mono_s > _LONGEST_BACKOFF_S else failures + 1
            if not self._said_farewell:
                await self._back_off(failures)

    def _hear_of(self, fault: ConnectFault, *, first: bool) -> None:
        if self._connected and not self._said_farewell:
            log.warning("%s Reconnecting; %s pending.", fault, _spots(self._outbox.pending))
        elif first or (fault.permanent and not self._said_refused):
            self._said_refused = fault.permanent
            log.warning("%s Trying again.", fault)
        else:
            log.debug("%s", fault)

    def _hear_of_a_bug(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and not isinstance(error, DeliveryError):
            log.critical("the publisher has died; nothing more is delivered", exc_info=error)
            self._fail(error)

    async def _deliver(self, ready: asyncio.Future[None]) -> None:
        """Connect, say what is kept, then publish until stopped or lost."""
        offline = StatusMessage(stream=self._stream, run=self._run_id, state="offline", at_utc=datetime.now(UTC))
        will = Will(self._topics.status, self._event("status", offline))
        identifier = f"touchline-{self._client}"
        timeout_s = self._config.timeout_s
        async with connect(self._address, timeout_s=timeout_s, identifier=identifier, will=will) as connection:
            await self._listen(connection, first=not ready.done())
            self._tell_connected(True)
            self._unsent = dict(self._kept)
            await self._send_kept(connection)
            if ready.done():
                log.info("%s: connected; %s pending.", self._address, _spots(self._outbox.pending))
            else:
                ready.set_result(None)
            await self._publish_until_stopped(connection)
            assert self._farewell is not None
            await connection.publish(self._topics.status, self._farewell, qos=1, retain=True)
            self._said_farewell = True

    async def _listen(self, connection: Connection, *, first: bool) -> None:
        """Subscribe to commands, before `online` is said; a broker that forbids it later does not stop the spots."""
        if self._obey is None:
            return
        try:
            await connection.subscribe([self._topics.command("+")])
        except ConnectFault as fault:
            if first or not fault.permanent:
                raise
            log.warning("%s Commands are not heard.", fault)

    async def _publish_until_stopped(self, connection: Connection) -> None:
        tasks = {
            asyncio.create_task(work(connection), name=f"touchline-publisher-{name}")
            for name, work in (
                ("commands", self._obey_until_lost),
                ("passing", self._publish_passing),
                ("kept", self._publish_kept),
                ("spots", self._publish_spots),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _publish_spots(self, connection: Connection) -> None:
        """Publish from the oldest that waits; end when nothing waits and nothing more is to come."""
        last = 0
        while True:
            self._wake.clear()
            page = await self._outbox.after(last, _PAGE)
            if not page and not self._outbox.pending and self._farewell is not None:
                return
            if not page:
                with suppress(TimeoutError):  # what waits and cannot be read now is looked for again
                    async with asyncio.timeout(_READ_AGAIN_S if self._outbox.pending else None):
                        await self._wake.wait()
                continue
            try:
                await connection.publish_many(self._items(page))
            except ConnectFault:
                if self._observer is not None:
                    self._observer.on_publish_failed()
                raise
            self._tell_published(page)
            last = page[-1].sequence
            await self._outbox.remove([delivery.sequence for delivery in page])

    def _items(self, page: Sequence[Delivery]) -> list[tuple[str, Event]]:
        items = []
        for delivery in page:
            made = spot_event(delivery.message, delivery.sequence)
            items.append((self._topics.spots, made))
            items.append((self._topics.by_label(delivery.message.label), made))
        return items

    async def _publish_passing(self, connection: Connection) -> None:
        while True:
            self._wake_passing.clear()
            while self._passing:
                topic, made = self._passing.popleft()
                await connection.publish(topic, made)
            await self._wake_passing.wait()

    async def _publish_kept(self, connection: Connection) -> None:
        while True:
            self._wake_kept.clear()
            await self._send_kept(connection)
            await self._wake_kept.wait()

    async def _send_kept(self, connection: Connection) -> None:
        while self._unsent:
            topic, made = next(iter(self._unsent.items()))  # the status comes first
            await connection.publish(topic, made, qos=1, retain=True)
            if self._unsent.get(topic) is made:
                del self._unsent[topic]

    async def _obey_until_lost(self, connection: Connection) -> None:
        """Obey commands; raise ConnectFault when the connection is lost."""
        begin = self._topics.command("")
        async for message in connection.messages():
            is_command = message.topic.startswith(begin)  # amqtt sends what nobody has asked for
            if self._obey is None or not is_command or message.retain:
                continue  # a retained one would be obeyed at every connection
            await self._answer(connection, message, self._obey(message.topic.removeprefix(begin), message.payload))

    async def _answer(self, connection: Connection, command: Incoming, answer: AnswerMessage) -> None:
        made = self._event("answer", answer)
        await connection.publish(self._topics.answers, made, qos=1)
        if command.response_topic is not None:
            await connection.answer(command.response_topic, made, command.correlation)

    def _event(self, kind: str, message: Message) -> Event:
        self._events += 1
        return event(kind, message, self._stream, datetime.now(UTC), f"{self._run_id}.{self._events}")

    async def _back_off(self, failures: int) -> None:
        """Wait before the next attempt: longer each time, never in step with others; short once stopping."""
        longest_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(failures, 10))
        delay_s = random.uniform(longest_s / 2, longest_s)
        if self._stopping.is_set():
            await asyncio.sleep(min(delay_s, 2 * _FIRST_BACKOFF_S))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)

    def _tell_connected(self, up: bool) -> None:
        self._connected = up
        self._said_refused = False
        self._passing.clear()  # what a lost connection held up is of no use any more
        if self._observer is not None:
            self._observer.on_connected(up)

    def _tell_published(self, page: Sequence[Delivery]) -> None:
        """Tell how long each took, from `said_utc`, the disk included; words of an earlier run took no telling time."""
        if self._observer is None:
            return
        now_utc = datetime.now(UTC)
        for delivery in page:
            if delivery.message.said_utc >= self._began_utc:
                self._observer.on_published(max((now_utc - delivery.message.said_utc).total_seconds(), 0.0))


def _spots(count: int) -> str:
    return f"{count} {'spot' if count == 1 else 'spots'}"
