"""Spots to an MQTT broker; the only importer of aiomqtt.

In: spots, as they are said. Out: `<prefix>/<stream>/spots`, QoS 1, in order, at least once (a redelivery repeats its
id), and a retained `<prefix>/<stream>/status`. Bound: at most `max_pending` spots wait for a lost broker; then the
oldest is dropped, counted and logged. No credential reaches a log or a message.
"""

import asyncio
import json
import logging
import random
import re
import secrets
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiomqtt

from engines.decider import Spot
from engines.errors import DeliveryError, UsageError
from streamer.payload import spot_to_json, utc_text
from streamer.redact import redact

log = logging.getLogger("touchline.publisher")

Client = aiomqtt.Client

ONLINE, STOPPED, OFFLINE = "online", "stopped", "offline"

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FORM = "mqtt://[user:password@]host[:port], or mqtts:// for TLS"
_NOT_IN_A_LEVEL = re.compile(r"[+#/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LONGEST_LEVEL = 200
_KEEPALIVE_S = 15
"""A connection that died silently is noticed within twice this; the broker says `offline` after one and a half."""
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 30.0
_NOT_AUTHORISED = {134, 135}  # paho's codes for a wrong user or password, and for one who may not


class ConnectFault(DeliveryError):
    """A broker cannot be reached, refuses, or was lost.

    Attributes:
        permanent: trying again is of no use.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are to it; as text it shows no credentials."""

    host: str
    port: int
    tls: bool
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a stream's messages go."""

    spots: str
    status: str


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


def parse_broker_url(url: str) -> BrokerAddress:
    """Return where a broker is.

    Args:
        url: `mqtt://[user:password@]host[:1883]` or `mqtts://…[:8883]`; user and password percent-encoded.

    Raises:
        UsageError: it is not of that form. The message never quotes it, since it may hold credentials.
    """
    address = None
    with suppress(ValueError):  # whose text would quote the URL
        address = _address(url)
    if address is None:
        raise UsageError(f"The broker's URL is not of the form {_FORM} (special characters percent-encoded).")
    return address


def _address(url: str) -> BrokerAddress | None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    host.encode("idna")
    user, password = (unquote(part, errors="strict") if part else None for part in (parts.username, parts.password))
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in _PORTS or not host or port == 0 or extra or re.search(r"[\s\x00]", host):
        return None
    return BrokerAddress(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", user, password)


def topics(prefix: str, stream: str | None) -> Topics:
    """Return a stream's topics; what MQTT does not allow in a name becomes `-`. None stands for every stream.

    Raises:
        UsageError: prefix or stream is empty or too long, or the prefix is reserved for the broker.
    """
    levels = [_level(part) for part in prefix.strip("/").split("/")]
    if levels[0].startswith("$"):
        raise UsageError("The prefix must not start with '$', which is reserved for the broker.")
    base = "/".join([*levels, "+" if stream is None else _level(stream)])
    return Topics(f"{base}/spots", f"{base}/status")


def _level(name: str) -> str:
    if not 0 < len(name.strip()) <= _LONGEST_LEVEL:
        raise UsageError(f"Each level of a topic must have 1 to {_LONGEST_LEVEL} characters; got {len(name.strip())}.")
    return _NOT_IN_A_LEVEL.sub("-", name.strip())


@asynccontextmanager
async def connect(
    address: BrokerAddress,
    *,
    timeout_s: float = 10.0,
    identifier: str | None = None,
    will: aiomqtt.Will | None = None,
) -> AsyncIterator[aiomqtt.Client]:
    """Give a connected client, new for every connection: an old one would send again what it had given up.

    Raises:
        ConnectFault: the broker cannot be reached or refuses; or the connection is lost inside the block.
    """
    client = aiomqtt.Client(
        address.host,
        address.port,
        username=address.user,
        password=address.password,
        identifier=identifier,
        will=will,
        tls_context=ssl.create_default_context() if address.tls else None,
        keepalive=_KEEPALIVE_S,
        timeout=timeout_s,
    )
    connected = False
    try:
        async with client:
            connected = True
            yield client
    except aiomqtt.MqttError as error:
        if connected:
            raise ConnectFault(f"{address}: the connection was lost ({redact(str(error))}).") from None
        raise _why_not_connected(address, error) from None
    finally:
        if not connected:
            client._client.disconnect()  # aiomqtt leaves the socket of an unanswered connection open
        elif client._disconnected.done() and not client._disconnected.cancelled():
            client._disconnected.exception()  # retrieved, or asyncio logs it as forgotten


def _why_not_connected(address: BrokerAddress, error: aiomqtt.MqttError) -> ConnectFault:
    """Say in one sentence why; aiomqtt keeps the cause as the exception's context only."""
    cause = error.__context__
    code = getattr(getattr(error, "rc", None), "value", None)
    if code in _NOT_AUTHORISED:
        return ConnectFault(f"{address}: not authorised; check user and password.", permanent=True)
    if code is not None:
        return ConnectFault(f"{address}: the broker refused ({error}).")
    if isinstance(cause, socket.gaierror):
        return ConnectFault(f"{address}: there is no such host.")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectFault(
            f"{address}: its certificate cannot be trusted ({cause.verify_message}); SSL_CERT_FILE can name another "
            "authority.",
            permanent=True,
        )
    if isinstance(cause, ssl.SSLError):
        return ConnectFault(f"{address}: TLS failed ({cause.reason}); is this its port for mqtts?")
    if isinstance(cause, ConnectionRefusedError):
        return ConnectFault(f"{address}: connection refused; is a broker running there?")
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return ConnectFault(f"{address}: cannot be reached ({redact(cause.strerror or str(cause))}).")
    return ConnectFault(f"{address}: nothing that speaks MQTT answers there.")


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
        self._sending: _Said | None = None
        self._dropped = 0
        self._connected = False
        self._greeting: Mapping[str, object] = {}
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
        """Hand a spot over; returns at once. Call it on the event loop.

        Args:
            spot: what is said.
            said_utc: wall clock when it was said; now, unless given.
        """
        self._pending.append(_Said(spot_to_json(spot, said_utc or datetime.now(UTC)), time.monotonic()))
        if len(self._pending) > self._max_pending:
            self._pending.popleft()
            self._dropped += 1
            log.warning("%s: %d spots wait already; the oldest was dropped", self._address, self._max_pending)
            if self._observer is not None:
                self._observer.on_dropped(1)
        self._tell_pending()
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
        will = aiomqtt.Will(self._topics.status, self._status(OFFLINE), qos=1, retain=True)
        # Always the same identifier: the broker ends a half-dead connection, and says its will, before the new one.
        identifier = f"touchline-{self._run_id}"
        async with connect(self._address, timeout_s=self._timeout_s, identifier=identifier, will=will) as client:
            await self._publish_status(client, self._status(ONLINE, {**self._greeting, "at_utc": _now_text()}))
            self._tell_connected(True)
            if ready.done():
                log.info("%s: connected again; %d spots pending.", self._address, self.pending)
            else:
                ready.set_result(None)
            tasks = {
                asyncio.create_task(_until_lost(client), name="touchline-publisher-loss"),
                asyncio.create_task(self._publish_until_stopped(client), name="touchline-publisher-spots"),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # A clean disconnect would make the broker forget the will, and `online` would stand for ever.
                with suppress(aiomqtt.MqttError):
                    await client.publish(self._topics.status, self._status(OFFLINE), qos=1, retain=True, timeout=1)
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    async def _publish_until_stopped(self, client: aiomqtt.Client) -> None:
        while True:
            self._wake.clear()
            while self._sending is not None or self._pending:
                self._sending = self._sending or self._pending.popleft()
                await client.publish(self._topics.spots, self._sending.payload, qos=1)
                duration_s, self._sending = time.monotonic() - self._sending.at_mono_s, None
                if self._observer is not None:
                    self._observer.on_published(duration_s)
                self._tell_pending()
            if self._farewell is not None:
                extra = {**self._farewell, "spots_lost": self._dropped, "at_utc": _now_text()}
                await self._publish_status(client, self._status(STOPPED, extra))
                self._said_farewell = True
                return
            await self._wake.wait()

    async def _publish_status(self, client: aiomqtt.Client, payload: str) -> None:
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
        if self._observer is not None:
            self._observer.on_connected(up)

    def _tell_pending(self) -> None:
        if self._observer is not None:
            self._observer.on_pending(self.pending)


async def _until_lost(client: aiomqtt.Client) -> None:
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
