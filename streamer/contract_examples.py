"""Messages as they go over MQTT, for the documents of the contract; every one an object of the code."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from engines.bundle import BundleName
from engines.decider import Spot
from streamer.cloudevents import event, spot_event
from streamer.desk import Desk
from streamer.payload import (
    COMMANDS,
    BundleRef,
    ClockMessage,
    Health,
    Message,
    Percentiles,
    ScoredRow,
    ScoresMessage,
    SpotMessage,
    StatsMessage,
    StatusMessage,
)

_STREAM, _RUN, _BUNDLE = "final", "9f2c4e6a8b0d", BundleName("demo", "1f" * 32)
_AT = datetime(2025, 5, 31, 19, 1, 33, 511491, UTC)
_STATISTICS = {"seconds": 93, "seconds_shed": 0, "spots": 21, "real_time_factor": 1.0}
_SPOT = Spot(
    id="49de046affdce401a838",
    stream=_STREAM,
    half=1,
    epoch=0,
    label="Goal",
    media_time=84.629,
    confidence=0.98,
    emitted_at=93.0,
    revision=2,
    latency={"grid": 0.371, "look_ahead": 4.0, "hold": 4.0, "compute": 0.013},
    utc=_AT - timedelta(seconds=8.382),
    clock="rtcp",
    pts=7616610,
    bundle=_BUNDLE,
)
_ORDERS: dict[str, dict[str, dict[str, Any]]] = {
    "pause": {"be silent": {"request_id": "6"}, "speak again": {"paused": False}},
    "mute": {"mute a label": {"label": "Throw-in"}, "speak again": {"label": "Throw-in", "muted": False}},
    "threshold": {
        "set": {"request_id": "7", "label": "Goal", "threshold": 0.8},
        "the bundle's own again": {"label": "Goal", "threshold": None},
    },
}


def examples() -> dict[str, dict[str, dict[str, Any]]]:
    """Return payloads by kind of message or command, and by name."""
    said: dict[str, dict[str, dict[str, Any]]] = {"spot": _spots()}
    for number, (kind, name, message) in enumerate(_told(), 1):
        envelope = event(kind, message, _STREAM, _AT, f"{_RUN}.{number}")
        said.setdefault(kind, {})[name] = json.loads(envelope.json())
    ordered = {
        kind: {
            name: COMMANDS[kind](**values).model_dump(mode="json", exclude_unset=True)
            for name, values in orders.items()
        }
        for kind, orders in _ORDERS.items()
    }
    return {**said, **ordered}


def _spots() -> dict[str, dict[str, Any]]:
    early = replace(
        _SPOT,
        state="provisional",
        confidence=0.61,
        emitted_at=85.0,
        revision=1,
        latency={"grid": 0.371, "look_ahead": 0.0, "hold": 0.0, "compute": 0.012},
    )
    words = {
        "provisional": (early, _AT - timedelta(seconds=8), None),
        "confirmed": (_SPOT, _AT, 21),
        "retracted": (replace(_SPOT, state="retracted", flags=("forced",)), _AT, 21),
    }
    return {
        name: json.loads(spot_event(SpotMessage.of(spot, at), sequence).json())
        for name, (spot, at, sequence) in words.items()
    }


def _told() -> Iterator[tuple[str, str, Message]]:
    bundle = BundleRef(**_BUNDLE._asdict())
    status = StatusMessage(
        stream=_STREAM,
        run=_RUN,
        state="online",
        at_utc=_AT,
        health={"source": Health(state="ok"), "engines": Health(state="warning", reason="the engines are late")},
        source={"half": 1, "state": "running", "failures": 0},
        bundle=bundle,
        promise={"Goal": 8.5},
        muted=["Throw-in"],
    )
    yield "status", "online", status
    yield (
        "status",
        "stopped",
        status.model_copy(update={"state": "stopped", "health": {}, "source": None, "statistics": _STATISTICS}),
    )
    yield "status", "last will", StatusMessage(stream=_STREAM, run=_RUN, state="offline", at_utc=_AT)
    where: dict[str, Any] = {"stream": _STREAM, "half": 1, "epoch": 0, "media_time": 93.0}
    utc = _AT - timedelta(seconds=0.011)
    yield "clock", "clock", ClockMessage(**where, pts=8370000, utc=utc, clock="rtcp", at_utc=_AT)
    row = ScoredRow(media_time=88.5, look_ahead=4.0, scores={"Goal": 0.031, "Foul": 0.0044})
    yield "scores", "scores", ScoresMessage(**where, rows=[row])
    publish, total = Percentiles(p50=0.004, p95=0.015, max=0.046), Percentiles(p50=3.158, p95=4.128, max=4.131)
    yield (
        "stats",
        "stats",
        StatsMessage(
            stream=_STREAM,
            run=_RUN,
            at_utc=_AT,
            statistics=_STATISTICS,
            latency={"publish": publish, "total": total},
            outbox={"pending": 0, "dropped": 0},
        ),
    )
    desk = Desk({"Goal": 0.5, "Throw-in": 0.5})
    yield "answer", "obeyed", desk.obey("threshold", json.dumps(_ORDERS["threshold"]["set"]).encode())
    yield "answer", "refused", desk.obey("mute", b'{"request_id": "8", "label": "Dribble"}')
