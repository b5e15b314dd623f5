"""An MQTT broker inside this process, for demos and tests; the only importer of amqtt.

In: nothing. Out: a `url` to publish to and subscribe at, MQTT 3.1.1, anonymous, loopback unless told otherwise.
Promise: what was published before the end is handed to who is subscribed; nothing outlives the process.
"""

import asyncio
import errno
import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engines.errors import DeliveryError, UsageError

if TYPE_CHECKING:
    from amqtt.broker import Broker

_DRAIN_S, _SHUTDOWN_S = 2.0, 10.0
_CHATTY = ("amqtt", "transitions")


class EmbeddedBroker:
    """A broker for as long as the block lasts.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._broker: Broker | None = None

    @property
    def url(self) -> str:
        """Where it is; the port is known once it runs."""
        return f"mqtt://{self._host}:{self._port}"

    async def __aenter__(self) -> "EmbeddedBroker":
        """Start it.

        Raises:
            UsageError: amqtt is not installed.
            DeliveryError: the port is taken or not allowed.
        """
        try:
            from amqtt.broker import Broker  # an optional extra
            from amqtt.errors import BrokerError
        except ImportError:
            raise UsageError("The embedded broker needs the extra `broker`: pip install 'touchline[broker]'.") from None
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{self._host}:{self._port}"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        try:
            await broker.start()
        except BrokerError as error:
            raise DeliveryError(f"No broker can listen at {self.url}: {_reason(error.__cause__)}.") from None
        self._broker = broker
        self._port = _listener(broker).sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand out what is under way, then stop."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        await _drain(broker)
        try:
            await asyncio.wait_for(broker.shutdown(), _SHUTDOWN_S)
        except TimeoutError:
            _listener(broker).close()


# amqtt has no public name for the three things below; its version is pinned, and the tests hold them.


def _listener(broker: "Broker") -> Any:
    return broker._servers["default"].instance


async def _drain(broker: "Broker") -> None:
    """Wait until subscribers have what was published: amqtt acknowledges a message before it hands it out."""
    until_mono_s = time.monotonic() + _DRAIN_S
    await asyncio.sleep(0.05)  # what has just been read from a socket is not queued yet
    while time.monotonic() < until_mono_s:
        if broker._broadcast_queue.empty() and all(task.done() for task in broker._tasks_queue):
            return
        await asyncio.sleep(0.01)


def _reason(cause: BaseException | None) -> str:
    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
        return "another program uses this port already"
    if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
        return "this port needs more rights; take one above 1023"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[0].lower() + cause.strerror[1:]
    return str(cause)
