"""A connection to an MQTT broker, and topics; the only importer of aiomqtt, and of paho below it.

In: events, and topics to hear. Out: events published, messages heard. MQTT 5 where the broker speaks it, else 3.1.1.
Promise: what `publish` and `publish_many` returned from, at QoS 1, the broker has taken over; order is kept. No
credential reaches a log or a message. Every failure is a ConnectFault in one sentence. aiomqtt owns socket and loop;
publishing goes through the paho client that it holds, since it tells of no acknowledgement that refuses, and waits for
a lost connection as if it were there.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.enums import LogLevel
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from engines.errors import UsageError
from streamer.address import BrokerAddress as BrokerAddress
from streamer.address import address_of as address_of
from streamer.address import parse_broker_url as parse_broker_url
from streamer.cloudevents import CONTENT_TYPE, Event
from streamer.connect_fault import ConnectFault as ConnectFault
from streamer.connect_fault import why_lost, why_not_connected, why_refused
from streamer.topics import Topics as Topics
from streamer.topics import topics as topics

ONLINE, STOPPED, OFFLINE = "online", "stopped", "offline"
"""States of a stream's retained status."""

_KEEPALIVE_S = 15
"""A connection that died silently is noticed within twice this; the broker says `offline` after one and a half."""
_GOODBYE_S = 1.0
_SESSION_S = 7 * 86_400
"""How long a broker keeps what somebody has missed who is away; with MQTT 3.1.1 the broker decides."""
_IN_FLIGHT = 20
"""So many publishes wait for their acknowledgement at most; fewer if the broker says so."""
_V5, _V311 = aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311
_OTHER_VERSION = 132  # the code of a broker that does not speak MQTT 5
_REFUSED = 0x80  # codes from here on refuse
_spoken: dict[tuple[str, int], aiomqtt.ProtocolVersion] = {}
"""What the brokers of this process speak, by host and port."""

_silent = logging.getLogger("touchline.mqtt.library")
_silent.setLevel(logging.CRITICAL + 1)  # what goes wrong is a ConnectFault; the library would say it a second time


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says, retained, when we are lost without a good-bye."""

    topic: str
    event: Event


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that arrived.

    Attributes:
        retain: it was published before we subscribed, and kept.
        response_topic: where an answer is wanted, with `correlation`; MQTT 5 alone tells.
        token: for Connection.accept.
    """

    topic: str
    payload: bytes
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    token: tuple[int, int] = (0, 0)


@asynccontextmanager
async def connect(
    address: BrokerAddress,
    *,
    timeout_s: float = 10.0,
    identifier: str | None = None,
    will: Will | None = None,
    clean: bool = True,
) -> AsyncIterator["Connection"]:
    """Give a connection, a new client each time: an old one would send again what it had given up.

    If the block ends with an exception the broker is left without a good-bye, so that it says the will.

    Args:
        address: where, and who we are.
        timeout_s: how long the broker may take to answer anything.
        identifier: tells the broker that it is us again; it ends an older connection of ours then.
        will: what the broker says when we are lost.
        clean: False: the broker keeps what we subscribed to, and what it could not deliver, for the next time; each
            message must be accepted (see Connection.accept), or it comes again.

    Raises:
        ConnectFault: the broker cannot be reached or refuses.
    """
    connection = await _Opening(address, timeout_s, identifier, will, clean).connection()
    try:
        yield connection
        await connection._say_goodbye()
    finally:
        _drop(connection._client)


class Connection:
    """A connection to a broker; get it from `connect`. Every method raises ConnectFault alone.

    Attributes:
        version: of MQTT; 5, or 4, which is 3.1.1.
    """

    def __init__(self, client: aiomqtt.Client, address: BrokerAddress, version: int, timeout_s: float) -> None:
        self.version = version
        self._client, self._paho = client, client._client
        self._address, self._timeout_s = address, timeout_s
        self._unanswered: dict[int, tuple[asyncio.Future[ConnectFault | None], str]] = {}
        self._loss = client._disconnected
        self._loss.add_done_callback(self._on_loss)
        self._paho.on_publish = self._on_answer

    async def publish(
        self, topic: str, event: Event, *, qos: int = 0, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        """Publish; return when it is on its way, with QoS 1 when the broker has taken it over."""
        answer = self._send(topic, event, qos, retain)
        if answer is not None:
            await self._answered(answer, timeout_s)

    async def answer(self, topic: str, event: Event, correlation: bytes | None) -> None:
        """Publish the answer to a command where it is wanted; QoS 1. That the broker refuses is for whoever asked."""
        answer = self._send(topic, event, 1, False, correlation)
        if answer is not None:
            await asyncio.wait((answer,), timeout=self._timeout_s)

    async def publish_many(self, items: Iterable[tuple[str, Event]]) -> None:
        """Publish in order with QoS 1, several on their way at once; return when the broker has taken over all.

        After a fault some may have been taken over, and it is not known which: send all of them again.
        """
        answers: deque[asyncio.Future[ConnectFault | None]] = deque()
        for topic, event in items:
            if len(answers) >= _IN_FLIGHT:
                await self._answered(answers.popleft())
            answer = self._send(topic, event, 1, False)
            if answer is not None:
                answers.append(answer)
        for answer in answers:
            await self._answered(answer)

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        """Subscribe to topics; `+` and `#` in them stand for any."""
        try:
            granted: Any = await self._client.subscribe([(topic, qos) for topic in filters])
        except aiomqtt.MqttError:
            raise (self._fault() if self._loss.done() else self._silence(self._timeout_s)) from None
        for topic, code in zip(filters, granted, strict=False):
            if getattr(code, "value", code) >= _REFUSED:
                raise ConnectFault(f"{self._address}: not authorised to read {topic}.", permanent=True)

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what arrives on the topics that were subscribed to, in order, until the connection is lost."""
        try:
            async for message in self._client.messages:
                more = message.properties
                wanted = getattr(more, "ResponseTopic", "")
                response_topic = wanted if wanted and not set("+#\0") & set(wanted) else None
                correlation, token = getattr(more, "CorrelationData", None), (message.mid, message.qos)
                retain = message.retain
                yield Incoming(str(message.topic), message.payload, retain, response_topic, correlation, token)
        except aiomqtt.MqttError:
            raise self._fault() from None

    def accept(self, message: Incoming) -> None:
        """Tell the broker that a message need not come again; a connection that is `clean` has told it already."""
        self._paho.ack(*message.token)

    def _send(
        self, topic: str, event: Event, qos: int, retain: bool, correlation: bytes | None = None
    ) -> asyncio.Future[ConnectFault | None] | None:
        """Hand over to paho; return what will hold the broker's answer, None if there is none to come."""
        more = _Beside(event, correlation) if self.version == _V5 else None
        info = self._paho.publish(topic, event.json().encode(), qos, retain, more)
        if info.rc or self._loss.done():
            raise self._fault()
        if info.is_published():
            return None  # QoS 0
        answer: asyncio.Future[ConnectFault | None] = asyncio.get_running_loop().create_future()
        self._unanswered[info.mid] = answer, topic
        return answer

    async def _answered(self, answer: asyncio.Future[ConnectFault | None], timeout_s: float | None = None) -> None:
        timeout_s = timeout_s or self._timeout_s
        if not answer.done():
            await asyncio.wait((answer,), timeout=timeout_s)
        if not answer.done():
            raise self._silence(timeout_s)
        if (fault := answer.result()) is not None:
            raise fault

    def _on_answer(self, client: object, userdata: object, mid: int, code: ReasonCode, more: object) -> None:
        answer, topic = self._unanswered.pop(mid, (None, ""))
        if answer is None or answer.done():
            return
        if code.is_failure:
            answer.set_result(why_refused(self._address, code.value, f"{code}", f"to publish on {topic}"))
        else:
            answer.set_result(None)

    def _on_loss(self, _: asyncio.Future[None]) -> None:
        for answer, _topic in self._unanswered.values():
            if not answer.done():
                answer.set_result(self._fault())
        self._unanswered.clear()

    def _fault(self) -> ConnectFault:
        """Return in one sentence why it does not go on."""
        loss = self._loss.exception() if self._loss.done() and not self._loss.cancelled() else None
        code = getattr(loss, "rc", None)
        return why_lost(self._address, code.value if isinstance(code, ReasonCode) else None, f"{code}")

    def _silence(self, timeout_s: float) -> ConnectFault:
        return ConnectFault(f"{self._address}: no answer within {timeout_s:g} s.")

    async def _say_goodbye(self) -> None:
        self._client.timeout = min(_GOODBYE_S, self._timeout_s)
        with suppress(aiomqtt.MqttError):
            await self._client.__aexit__(None, None, None)


class _HungUp(aiomqtt.MqttError, ConnectionError):
    """The broker closed the connection instead of answering."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """How a connection is asked for; see connect."""

    address: BrokerAddress
    timeout_s: float
    identifier: str | None
    will: Will | None
    clean: bool

    async def connection(self) -> Connection:
        """Connect with MQTT 5, or with 3.1.1 to a broker that does not speak 5."""
        try:
            return await self._connect(await self._asked())
        except aiomqtt.MqttError as error:
            _spoken.pop((self.address.host, self.address.port), None)  # it may have become another
            raise self._fault(error) from None

    async def _asked(self) -> aiomqtt.ProtocolVersion:
        """Return which version to speak.

        Asked once in a process, and with as few words as can be: of more, a broker of MQTT 3 may misread a length, and
        wait for the rest for ever. One that hangs up instead of answering is asked again the next time.
        """
        where = (self.address.host, self.address.port)
        if where not in _spoken:
            stranger = replace(self.address, user=None, password=None)
            try:
                _drop((await _Opening(stranger, self.timeout_s, None, None, True)._connect(_V5))._client)
            except _HungUp:
                return _V311
            except aiomqtt.MqttError as error:
                if _code(error) is None:
                    raise
                _spoken[where] = _V311 if _code(error) == _OTHER_VERSION else _V5
            else:
                _spoken[where] = _V5
        return _spoken[where]

    def _fault(self, error: aiomqtt.MqttError) -> ConnectFault:
        code = _code(error)
        if code is not None:
            return why_refused(self.address, code, str(error))
        # aiomqtt keeps the cause as the exception's context only
        return why_not_connected(self.address, error if isinstance(error, _HungUp) else error.__context__)

    async def _connect(self, version: aiomqtt.ProtocolVersion) -> Connection:
        try:
            context = await asyncio.to_thread(self.address.tls_context)
        except UsageError as error:
            raise ConnectFault(str(error)) from None
        client = self._client(version, context)
        _fail_early(client)
        entering = asyncio.create_task(client.__aenter__(), name="touchline-mqtt-connect")
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            entering.add_done_callback(lambda _: _drop(client))  # a thread is at it, and cannot be interrupted
            raise
        except BaseException:
            _drop(client)
            raise
        return Connection(client, self.address, version, self.timeout_s)

    def _client(self, version: aiomqtt.ProtocolVersion, context: ssl.SSLContext | None) -> aiomqtt.Client:
        properties, will = None, None
        if version == _V5 and not self.clean:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = _SESSION_S
        if self.will is not None:
            more = _Beside(self.will.event) if version == _V5 else None
            will = aiomqtt.Will(self.will.topic, self.will.event.json(), qos=1, retain=True, properties=more)
        client = aiomqtt.Client(
            self.address.host,
            self.address.port,
            username=self.address.user,
            password=self.address.password,
            identifier=self.identifier,
            protocol=version,
            will=will,
            tls_context=context,
            keepalive=_KEEPALIVE_S,
            timeout=self.timeout_s,
            logger=_silent,
            clean_session=None if version == _V5 else self.clean,
            clean_start=self.clean if version == _V5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        paho: Any = client._client
        paho.connect_timeout = self.timeout_s
        paho.manual_ack_set(not self.clean)
        if context is not None:  # paho's own leaves the socket open when it fails
            paho._ssl_wrap_socket = lambda plain: self.address.shake_hands(context, plain, self.timeout_s)
        return client


class _Beside(Properties):
    """What MQTT 5 says beside a payload: that it is a CloudEvent, and its attributes.

    paho's own packs one property at a time by tables, which takes as long as all the rest of publishing.
    """

    def __init__(self, event: Event, correlation: bytes | None = None) -> None:
        parts = [b"\x03" + _sized(CONTENT_TYPE.encode())]
        parts += [b"\x26" + _sized(name.encode()) + _sized(text.encode()) for name, text in event.attributes.items()]
        if correlation is not None:
            parts.append(b"\x09" + _sized(correlation))
        size = bytes(VariableByteIntegers.encode(sum(map(len, parts))))  # type: ignore[no-untyped-call]
        self.__dict__["_packed"] = b"".join([size, *parts])

    def pack(self) -> bytes:
        """Return them as they go over the wire."""
        packed: bytes = self.__dict__["_packed"]
        return packed


def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def _fail_early(client: aiomqtt.Client) -> None:
    """Let connecting fail as soon as the broker hangs up (aiomqtt would wait for its answer), and learn its limits."""
    paho: Any = client._client
    loop = asyncio.get_running_loop()
    hear_connect, hear_disconnect = paho.on_connect, paho.on_disconnect
    troubles = [""]

    def fail(*_: object) -> None:
        if not client._connected.done():
            client._connected.set_exception(_HungUp(troubles[-1]))

    def on_log(_: object, __: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            troubles.append(text)

    def on_connect(_: object, userdata: object, flags: object, code: ReasonCode, more: Properties | None) -> None:
        paho._max_inflight_messages = min(_IN_FLIGHT, getattr(more, "ReceiveMaximum", _IN_FLIGHT))
        paho.on_log, paho.on_disconnect = None, hear_disconnect
        hear_connect(paho, userdata, flags, code, more)

    client._disconnected.add_done_callback(fail)
    paho.on_log, paho.on_connect = on_log, on_connect
    paho.on_disconnect = lambda *_: loop.call_soon_threadsafe(fail)


def _drop(client: aiomqtt.Client) -> None:
    """Close what is left of a connection; nothing that failed in it is news."""
    client._client._sock_close()
    for future in (client._connected, client._disconnected):
        future.cancel()
        if not future.cancelled():
            future.exception()  # retrieved, or asyncio logs it as forgotten


def _code(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "rc", None), "value", None)
