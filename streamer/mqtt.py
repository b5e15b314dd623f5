"""A connection to an MQTT broker, topics and addresses; the only importer of aiomqtt.

No credential reaches a log or a message. Every failure is a ConnectFault in one sentence.
"""

import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import aiomqtt

from engines.errors import DeliveryError, UsageError
from streamer.redact import redact

Client = aiomqtt.Client
Will = aiomqtt.Will
MqttError = aiomqtt.MqttError

ONLINE, STOPPED, OFFLINE = "online", "stopped", "offline"
"""States of a stream's retained status."""

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FORM = "mqtt://[user:password@]host[:port], or mqtts:// for TLS"
_NOT_IN_A_LEVEL = re.compile(r"[+#/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LONGEST_LEVEL = 200
_KEEPALIVE_S = 15
"""A connection that died silently is noticed within twice this; the broker says `offline` after one and a half."""
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
    provisional: str
    status: str


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
    return Topics(f"{base}/spots", f"{base}/spots/provisional", f"{base}/status")


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
    will: Will | None = None,
) -> AsyncIterator[Client]:
    """Give a connected client, new for every connection: an old one would send again what it had given up.

    Raises:
        ConnectFault: the broker cannot be reached or refuses; or the connection is lost inside the block.
    """
    client = Client(
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
    except MqttError as error:
        if connected:
            raise ConnectFault(f"{address}: the connection was lost ({redact(str(error))}).") from None
        raise _why_not_connected(address, error) from None
    finally:
        if not connected:
            client._client.disconnect()  # aiomqtt leaves the socket of an unanswered connection open
        elif client._disconnected.done() and not client._disconnected.cancelled():
            client._disconnected.exception()  # retrieved, or asyncio logs it as forgotten


def _why_not_connected(address: BrokerAddress, error: MqttError) -> ConnectFault:
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
