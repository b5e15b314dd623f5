"""What a broker may deliver: spots and statuses, from whoever publishes there, and commands.

Each input is read as a spot, given to the desk as every command, and then goes through `touchline watch`, whose
connection is replaced.
"""

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fuzzing.commands import run_command
from fuzzing.kinds import Case, Passed, replace_all
from fuzzing.mutations import ODD_TEXTS, mutated_json, mutated_text
from streamer import watch
from streamer.cloudevents import spot_of
from streamer.desk import Desk
from streamer.mqtt import Incoming
from streamer.payload import COMMANDS

_SPOT: dict[str, Any] = {
    "id": "a1b2c3",
    "stream": "main",
    "half": 1,
    "epoch": 0,
    "label": "Goal",
    "media_time": 63.25,
    "confidence": 0.75,
    "emitted_at": 71.0,
    "state": "confirmed",
    "revision": 2,
    "latency": {"grid": 0.75, "look_ahead": 4.0, "hold": 3.0, "compute": 0.04},
    "flags": ["no-audio", "forced"],
    "said_utc": "2025-05-31T19:00:00.123456Z",
    "utc": "2025-05-31T18:59:59.000000Z",
    "clock": "arrival",
}
_STATUS: dict[str, Any] = {
    "state": "stopped",
    "stream": "main",
    "run": "0011",
    "at_utc": "2025-05-31T19:00:00.123456Z",
    "statistics": {"seconds": 120, "seconds_shed": 0, "real_time_factor": 1.0, "spots_lost": 0},
}
_COMMAND: dict[str, Any] = {"request_id": "7", "label": "Goal", "muted": True, "threshold": 0.5, "paused": False}
_ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "a1b2c3.2",
    "source": "/touchline/main",
    "type": "touchline.x.v1",
}
_LABELS = b'{"annotations": [{"gameTime": "1 - 01:03", "label": "Goal", "position": "63000", "visibility": "visible"}]}'


class Payloads:
    """Messages of a broker."""

    def prepare(self, folder: Path) -> None:
        """Put messages where the subscriber would connect."""
        replace_all([(watch, "connect", connected)])

    def case(self, rng: random.Random) -> Case:
        """Return a message, a spot or a status, and how it comes."""
        spot = _SPOT | {"state": rng.choice(("provisional", "confirmed", "retracted")), "revision": rng.randint(1, 3)}
        status = _STATUS | {"state": rng.choice(("online", "stopped", "offline"))}
        topic = rng.choice(("spots", "spots", "spots/provisional", "status"))
        data = rng.choice((status if topic == "status" else spot, _COMMAND))
        tree = data if rng.random() < 0.1 else _ENVELOPE | {"data": data}
        topic = f"touchline/main/{topic}"
        if rng.random() < 0.05:
            topic = mutated_text(topic, rng, 1).replace("\0", "")
        payload = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        if rng.random() < 0.97:
            payload = mutated_json(tree, rng)
        options = [o for o in ("--json", "--final") if rng.random() < 0.3]
        options += ["--summary", "labels.json"] if rng.random() < 0.3 else []
        feed = {"topic": topic, "retain": rng.random() < 0.3, "options": options}
        return Case(f"a message on {topic!r}", {"payload": payload, "labels.json": _LABELS}, feed)

    def feed(self, case: Case) -> None:
        """Read it, and let a subscriber receive it."""
        payload = case.files["payload"]
        desk = Desk({"Goal": 0.5})
        for command in (*COMMANDS, case.feed["topic"]):
            desk.obey(command, payload)
        good, other = _SPOT | {"id": "other"}, _STATUS | {"stream": "other"}
        _messages[:] = [
            Incoming(case.feed["topic"], payload, case.feed["retain"]),
            Incoming("touchline/main/spots", json.dumps(_ENVELOPE | {"data": good}).encode(), False),
            Incoming("touchline/other/status", json.dumps(_ENVELOPE | {"data": other}).encode(), False),
        ]
        with suppress(Passed):  # where streams are left that have not stopped
            run_command(["watch", "mqtt://127.0.0.1:1", "--until-stopped", *case.feed["options"]])
        _messages.clear()
        spot_of(payload)


_messages: list[Incoming] = []


class _Connection:
    """A connection that receives what it was given, and is then cut off."""

    async def subscribe(self, topics: Sequence[str], qos: int = 1) -> None:
        """Grant everything."""

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what there is."""
        for message in _messages:
            yield message
        raise Passed

    def accept(self, incoming: Incoming) -> None:
        """Nobody waits for it."""


@asynccontextmanager
async def connected(*_: object, **__: object) -> AsyncIterator[_Connection]:
    """Stand in for streamer.mqtt.connect."""
    yield _Connection()
