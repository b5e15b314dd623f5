"""`touchline watch`: an independent subscriber, one line a word.

In: what a broker delivers on `<prefix>/<stream>/spots`, `…/spots/provisional` and `…/status`. Out: lines, on a terminal
with colours. Promise: every word that arrives is shown once, in the order of arrival, unless a later word of its spot
has come before it; a lost broker is waited for. What was said while this subscriber was not connected is not shown,
except in a session: there the broker keeps every final word for it until it has been shown.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from engines.actions import read_actions
from engines.errors import DataError, DeliveryError
from streamer import screen
from streamer.arguments import add_broker_options, seconds
from streamer.cloudevents import data_of, spot_of
from streamer.config import MqttConfig
from streamer.connect_fault import TAKEN_OVER, why_lost
from streamer.mqtt import OFFLINE, ONLINE, STOPPED, BrokerAddress, ConnectFault, Connection, address_of, connect, topics
from streamer.payload import Received
from streamer.redact import printable
from streamer.summary import summary

log = logging.getLogger("touchline.watch")

_REMEMBERED = 10_000
"""So many ids are known, for dropping redeliveries."""
_RETRY_S = 0.25
_BRIEF_S, _BRIEF_ONES = 1.0, 5
"""So many connections in a row that last no longer mean that another takes the session each time; few brokers say so.
"""
_ANSWER_S = 10.0


class Watcher:
    """Subscribes to the spots of one stream, or of all.

    Args:
        address: the broker.
        stream: the broadcast's name; all of the prefix's if None.
        prefix: first level (or levels) of the topics.
        on_spot: is given every word once.
        final: whether provisional words are left out.
        session: a name under which the broker keeps what is missed; None: nothing is kept.
        now: the wall clock.

    Attributes:
        status: the last `stopped` status, by stream.

    Raises:
        UsageError: stream or prefix make no sense.
    """

    def __init__(
        self,
        address: BrokerAddress,
        stream: str | None,
        prefix: str = "touchline",
        *,
        on_spot: Callable[[Received], None],
        final: bool = False,
        session: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.status: dict[str, dict[str, Any]] = {}
        self._address = address
        self._topics = topics(prefix, stream)
        self._session = _client_id(session, self._topics.base) if session is not None else None
        self._on_spot = on_spot
        self._now = now
        self._endings = ("/spots",) if final else ("/spots", "/spots/provisional")
        self._known: dict[str, int] = {}  # id → revision of its last word
        self._online: dict[str, str] = {}  # stream → its run, while it is there

    async def run(self, *, until_stopped: bool = False, wait_s: float = 30.0) -> None:
        """Receive; end only when every stream met has said `stopped`, if that is wanted.

        Args:
            until_stopped: whether to end at all.
            wait_s: how long a broker that does not answer is waited for.

        Raises:
            DeliveryError: the broker refuses, or did not answer for so long.
        """
        lost_mono_s = time.monotonic()
        brief = 0
        while True:
            lasted_s = math.inf
            try:
                async with self._connect(min(_ANSWER_S, max(wait_s, 1.0))) as connection:
                    began_mono_s = time.monotonic()
                    try:
                        await self._receive(connection, until_stopped)
                        return
                    finally:
                        lost_mono_s = time.monotonic()
                        lasted_s = lost_mono_s - began_mono_s
            except ConnectFault as fault:
                if until_stopped and self._all_stopped:
                    return
                if fault.permanent:
                    raise
                brief = brief + 1 if lasted_s < _BRIEF_S else 0
                if self._session is not None and brief >= _BRIEF_ONES:
                    raise why_lost(self._address, TAKEN_OVER) from None
                if time.monotonic() - lost_mono_s >= wait_s:
                    raise DeliveryError(f"{fault} Waited {wait_s:g} s.") from None
                log.debug("%s", fault)
            await asyncio.sleep(_RETRY_S)

    @property
    def _all_stopped(self) -> bool:
        return bool(self.status) and not self._online

    def _connect(self, timeout_s: float) -> AbstractAsyncContextManager[Connection]:
        if self._session is None:
            return connect(self._address, timeout_s=timeout_s)
        return connect(self._address, timeout_s=timeout_s, identifier=self._session, clean=False)

    async def _receive(self, connection: Connection, until_stopped: bool) -> None:
        await connection.subscribe([self._topics.base + ending for ending in (*self._endings, "/status")])
        async for message in connection.messages():
            self._take(message.topic, message.payload, message.retain)
            connection.accept(message)
            if until_stopped and self._all_stopped:
                return

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            if not payload:
                return  # a retained message was cleared
            if topic.endswith("/status"):
                self._take_status(data_of(payload), retained)
            elif topic.endswith(self._endings):  # a session may remember more than is asked for now
                self._take_spot(payload)
        except (DataError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s: a message was passed over: %s", topic, error)

    def _take_spot(self, payload: bytes) -> None:
        message = spot_of(payload)
        spot = message.spot()
        if spot.revision <= self._known.get(spot.id, 0):
            return
        self._known[spot.id] = spot.revision
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        publish_s = (self._now() - message.said_utc).total_seconds()
        self._on_spot(Received(spot, publish_s, data_of(payload)))

    def _take_status(self, status: dict[str, Any], retained: bool) -> None:
        """Follow the streams; a retained `stopped` of a run never met is left from an earlier one."""
        stream, run, state = status["stream"], status["run"], status["state"]
        if state == ONLINE:
            self._online[stream] = run
            self.status.pop(stream, None)
        elif state == STOPPED and (not retained or self._online.get(stream) == run):
            self._online.pop(stream, None)
            self.status[stream] = status
        elif state == OFFLINE and not retained:
            log.warning("the streamer of %r is gone; waiting for it", stream)


def _client_id(session: str, base: str) -> str:
    """Return the name of a session at the broker: readable, short, and one's own for each session and topics."""
    digest = hashlib.sha256(f"{session}\0{base}".encode(errors="surrogatepass")).hexdigest()
    return f"touchline-watch-{re.sub('[^A-Za-z0-9]+', '-', session)[:20]}-{digest[:12]}"


def line(received: Received, *, with_stream: bool = False) -> Text:
    """Return a word as one line: see screen.line; how late is from the action to its arrival here."""
    spot = received.spot
    stream = Text(f"{printable(spot.stream)}  " if with_stream else "", "cyan")
    return stream + screen.line(spot, f"{received.late_s:5.1f} s late")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("url", metavar="URL", help="the broker: mqtt://host[:port], or mqtts:// for TLS")
    parser.add_argument("--stream", metavar="NAME", help="name of the broadcast (default: all)")
    add_broker_options(parser)
    parser.add_argument("--final", action="store_true", help="leave out what is said before it is settled")
    parser.add_argument("--until-stopped", action="store_true", help="end when the stream has stopped")
    parser.add_argument("--json", action="store_true", help="print each message's data, plus `publish` (seconds)")
    parser.add_argument(
        "--session",
        metavar="NAME",
        help="let the broker keep, under this name, the final words that are said while this command does not run, and "
        "show them first the next time",
    )
    parser.add_argument("--wait", type=seconds, default=30.0, metavar="S", help="wait for a broker (default 30)")
    parser.add_argument("--summary", type=Path, metavar="LABELS", help=argparse.SUPPRESS)  # for the demo


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    return asyncio.run(watch(args))


async def watch(args: argparse.Namespace, console: Console | None = None) -> int:
    """Print words until stopped, then the demo's summary if it is asked for; return the exit code."""
    console = console or Console(highlight=False)
    received: list[Received] = []

    def show(one: Received) -> None:
        if args.summary is not None:
            received.append(one)
        if args.json:
            console.file.write(json.dumps(one.message | {"publish": round(one.publish_s, 6)}) + "\n")
        else:
            console.print(line(one, with_stream=args.stream is None), soft_wrap=True)
        console.file.flush()

    config = MqttConfig(args.url, args.prefix, args.mqtt_ca, args.mqtt_cert, args.mqtt_key)
    address = address_of(config, os.environ)
    watcher = Watcher(address, args.stream, args.prefix, on_spot=show, final=args.final, session=args.session)
    await watcher.run(until_stopped=args.until_stopped, wait_s=args.wait)
    status = next(iter(watcher.status.values()), {})
    seconds_seen = (status.get("statistics") or {}).get("seconds")
    if args.summary is not None and seconds_seen != 0:  # a run that saw nothing has said why
        console.print(summary(read_actions(args.summary), received, status))
    return 0
