"""Spots to an MQTT broker.

In: words, as they are said. Out: final words on `<prefix>/<stream>/spots`, QoS 1, in order, at least once (a redelivery
repeats its id); provisional words on `<prefix>/<stream>/spots/provisional`, QoS 0, at once or never; and a retained
`<prefix>/<stream>/status`. Bound: at most `max_pending` final words wait for a lost broker; then the oldest is dropped,
counted and logged. Provisional words wait for nobody, and nothing waits for them. No credential reaches a log or a
message.
"""

import asyncio
import json
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol

from engines.decider import Spot
from engines.errors import DeliveryError
from streamer.ingest.messages import SourceChanged
from streamer.mqtt import (
    OFFLINE,
    ONLINE,
    STOPPED,
    Client,
    ConnectFault,
    MqttError,
    Will,
    connect,
    parse_broker_url,
    topics,
)
from streamer.payload import spot_to_json, utc_text

log = logging.getLogger("touchline.publisher")

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 30.0
_PROVISIONAL = 100
"""Provisional words that a slow connection may hold up; then the oldest is lost."""


class Observer(Protocol):
    """Who is told how delivery goes (metrics)."""

    def on_connected(self, up: bool) -> None:
        """The broker is connected, or lost."""

    def on_published(self, duration_s: float) -> None:
        """A spot was acknowledged, so long after it was handed over."""

    def on_pending(self, depth: int) -> None:
        """So many spots wait for an acknowledgement."""

    def on_dropped(self, count: int) -> None:
        """So many more spots were given up."""


@dataclass(frozen=True, slots=True)
class _Said:
    """A spot on its way."""

    payload: str
    at_mono_s: float


class Publisher:
    """Delivers one stream's spots.

    Args:
        url: see parse_broker_url.
        stream: the broadcast's name, a level of the topics.
        prefix: first level (or levels) of the topics.
        observer: is told how delivery goes.
        max_pending: spots kept for a lost broker.
        timeout_s: how long the broker may take to answer anything.

    Raises:
        UsageError: url, stream or prefix make no sense.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        prefix: str = "touchline",
        *,
        observer: Observer | None = None,
        max_pending: int = 10_000,
        timeout_s: float = 10.0,
    ) -> None:
        self._address = parse_broker_url(url)
        self._topics = topics(prefix, stream)
        self._stream = stream
        self._observer = observer
        self._max_pending = max_pending
        self._timeout_s = timeout_s
        self._run_id = secrets.token_hex(6)
        self._pending: deque[_Said] = deque()
        self._provisional: deque[str] = deque(maxlen=_PROVISIONAL)
        self._provisional_said = asyncio.Event()
        self._sending: _Said | None = None
        self._dropped = 0
        self._connected = False
        self._greeting: Mapping[str, object] = {}
        self._source: Mapping[str, object] = {}
        self._source_changed = False
        self._farewell: Mapping[str, object] | None = None
        self._said_farewell = False
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker is connected now."""
        return self._connected

    @property
    def pending(self) -> int:
        """How many spots are not acknowledged yet."""
        return len(self._pending) + (self._sending is not None)

    @property
    def dropped(self) -> int:
        """How many spots were given up, so far."""
        return self._dropped

    async def start(self, extra: Mapping[str, object] | None = None) -> None:
        """Connect; from then on a task delivers, and reconnects for ever.

        Args:
            extra: fields of the `online` status.

        Raises:
            DeliveryError: the broker cannot be reached or refuses, in one sentence.
        """
        self._greeting = dict(extra or {})
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready), name="touchline-publisher")
        self._task.add_done_callback(_log_a_bug)
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=2 * self._timeout_s)
            if self._task.done():
                self._task.result()
            elif not ready.done():
                raise ConnectFault(f"{self._address}: nothing answers within {2 * self._timeout_s:g} s.")
        except BaseException:
            self._task.cancel()
            self._task = None
            raise

    def say(self, spot: Spot, said_utc: datetime | None = None) -> None:
        """Hand a word over; returns at once. Call it on the event loop.

        Args:
            spot: what is said.
            said_utc: wall clock when it was said; now, unless given.
        """
        payload = spot_to_json(spot, said_utc or datetime.now(UTC))
        if spot.state == "provisional":
            if self._connected:
                self._provisional.append(payload)
                self._provisional_said.set()
            return
        self._pending.append(_Said(payload, time.monotonic()))
        if len(self._pending) > self._max_pending:
            self._pending.popleft()
            self._dropped += 1
            log.warning("%s: %d spots wait already; the oldest was dropped", self._address, self._max_pending)
            if self._observer is not None:
                self._observer.on_dropped(1)
        self._tell_pending()
        self._wake.set()

    def tell_source(self, change: SourceChanged) -> None:
        """Let the `online` status say how the source is. Call it on the event loop."""
        fields = {key: value for key, value in asdict(change).items() if value is not None}
        self._source = {"source": {**fields, "since_utc": _now_text()}}
        self._source_changed = True
        self._wake.set()

    async def stop(self, extra: Mapping[str, object] | None = None, timeout_s: float = 10.0) -> None:
        """Deliver what is pending, say `stopped`, disconnect. Nothing may be said afterwards.

        Args:
            extra: fields of the `stopped` status: the run's statistics.
            timeout_s: for all of it.

        Raises:
            DeliveryError: how many spots could not be delivered in this run.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._farewell = dict(extra or {})
        self._stopping.set()
        self._wake.set()
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        with suppress(asyncio.CancelledError):
            task.result()
        lost = self.pending + self._dropped
        if lost:
            raise DeliveryError(f"{self._address}: {lost} {'spot' if lost == 1 else 'spots'} could not be delivered.")
        if not self._said_farewell:
            raise DeliveryError(f"{self._address}: every spot was delivered, but not that the stream has stopped.")

    async def _run(self, ready: asyncio.Future[None]) -> None:
        """Keep a connection until stopped; the first one must succeed."""
        failures = 0
        while not self._said_farewell:
            since_mono_s = time.monotonic()
            try:
                await self._deliver(ready)
            except ConnectFault as fault:
                if not ready.done():
                    raise
                if self._connected and not self._said_farewell:
                    log.warning("%s Reconnecting; %d spots pending.", fault, self.pending)
                else:
                    log.debug("%s", fault)
            finally:
                if self._connected:
                    self._tell_connected(False)
            failures = 0 if time.monotonic() - since_mono_s > _LONGEST_BACKOFF_S else failures + 1
            if not self._said_farewell:
                await self._back_off(failures)

    async def _deliver(self, ready: asyncio.Future[None]) -> None:
        """Connect, say `online`, then publish until stopped or lost."""
        will = Will(self._topics.status, self._status(OFFLINE), qos=1, retain=True)
        # Always the same identifier: the broker ends a half-dead connection, and says its will, before the new one.
        identifier = f"touchline-{self._run_id}"
        async with connect(self._address, timeout_s=self._timeout_s, identifier=identifier, will=will) as client:
            await self._publish_online(client)
            self._tell_connected(True)
            if ready.done():
                log.info("%s: connected again; %d spots pending.", self._address, self.pending)
            else:
                ready.set_result(None)
            tasks = {
                asyncio.create_task(_until_lost(client), name="touchline-publisher-loss"),
                asyncio.create_task(self._publish_provisional(client), name="touchline-publisher-provisional"),
                asyncio.create_task(self._publish_until_stopped(client), name="touchline-publisher-spots"),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # A clean disconnect would make the broker forget the will, and `online` would stand for ever.
                with suppress(MqttError):
                    await client.publish(self._topics.status, self._status(OFFLINE), qos=1, retain=True, timeout=1)
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    async def _publish_until_stopped(self, client: Client) -> None:
        while True:
            self._wake.clear()
            while self._sending is not None or self._pending:
                self._sending = self._sending or self._pending.popleft()
                await client.publish(self._topics.spots, self._sending.payload, qos=1)
                duration_s, self._sending = time.monotonic() - self._sending.at_mono_s, None
                if self._observer is not None:
                    self._observer.on_published(duration_s)
                self._tell_pending()
            if self._source_changed:
                await self._publish_online(client)
            if self._farewell is not None:
                extra = {**self._farewell, "spots_lost": self._dropped, "at_utc": _now_text()}
                await self._publish_status(client, self._status(STOPPED, extra))
                self._said_farewell = True
                return
            await self._wake.wait()

    async def _publish_online(self, client: Client) -> None:
        self._source_changed = False
        extra = {**self._greeting, **self._source, "at_utc": _now_text()}
        await self._publish_status(client, self._status(ONLINE, extra))

    async def _publish_provisional(self, client: Client) -> None:
        while True:
            self._provisional_said.clear()
            while self._provisional:
                await client.publish(self._topics.provisional, self._provisional.popleft(), qos=0)
            await self._provisional_said.wait()

    async def _publish_status(self, client: Client, payload: str) -> None:
        await client.publish(self._topics.status, payload, qos=1, retain=True)

    def _status(self, state: str, extra: Mapping[str, object] | None = None) -> str:
        """Return a status; `run` tells one run of a stream from another."""
        return json.dumps({**(extra or {}), "state": state, "stream": self._stream, "run": self._run_id})

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
        self._provisional.clear()  # what a lost connection held up is of no use any more
        if self._observer is not None:
            self._observer.on_connected(up)

    def _tell_pending(self) -> None:
        if self._observer is not None:
            self._observer.on_pending(self.pending)


async def _until_lost(client: Client) -> None:
    """Raise MqttError when the connection is lost; a publisher is sent nothing that it asked for."""
    async for _ in client.messages:
        pass


def _log_a_bug(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not isinstance(error, ConnectFault):
        log.critical("the publisher has died; nothing more is delivered", exc_info=error)


def _now_text() -> str:
    return utc_text(datetime.now(UTC))
