"""A spot survives the wire, and nonsense does not pass for one."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spots import SAID, SPOT, instants, spots

from engines.decider import Spot
from engines.errors import DataError
from streamer.payload import SpotMessage, spot_from_json, spot_to_json

MESSAGE: dict[str, Any] = SpotMessage.of(SPOT, SAID).model_dump(mode="json")
OPTIONAL = {"utc", "clock", "pts", "bundle", "event_type", "event_detail"}


@given(spots, instants)
def test_reading_what_was_written_gives_an_equal_spot(spot: Spot, said: datetime) -> None:
    text = spot_to_json(spot, said)
    assert "\n" not in text
    assert spot_from_json(text) == (spot, said)
    assert spot_from_json(text.encode()) == (spot, said)


def test_the_wall_clock_is_utc_with_microseconds() -> None:
    tokyo = SAID.astimezone(timezone(timedelta(hours=9)))
    assert SpotMessage.of(SPOT, tokyo).model_dump(mode="json")["said_utc"] == "2025-05-31T19:00:00.123456Z"
    with pytest.raises(ValueError, match="timezone"):
        SpotMessage.of(SPOT, SAID.replace(tzinfo=None))


def test_a_message_has_exactly_these_fields() -> None:
    assert MESSAGE == {
        "id": "a1",
        "stream": "final",
        "half": 1,
        "epoch": 0,
        "label": "Goal",
        "event_type": "SHOT",
        "event_detail": "GOAL",
        "media_time": 63.25,
        "pts": 5692500,
        "utc": "2025-05-31T18:59:52.123456Z",
        "clock": "rtcp",
        "confidence": 0.75,
        "state": "confirmed",
        "revision": 1,
        "emitted_at": 71.0,
        "said_utc": "2025-05-31T19:00:00.123456Z",
        "latency": {"grid": 0.75, "look_ahead": 4.0, "hold": 3.0, "compute": 0.04},
        "bundle": {"name": "demo", "digest": "1f" * 32},
        "flags": ["no-audio"],
    }


def test_a_label_that_is_not_soccernets_is_a_generic_event() -> None:
    message = SpotMessage.of(replace(SPOT, label="Dribble"), SAID)
    assert (message.event_type, message.event_detail) == ("GENERIC", None)


def test_what_is_not_known_is_null_and_not_left_out() -> None:
    message = SpotMessage.of(replace(SPOT, utc=None, clock=None, pts=None, bundle=None), SAID).model_dump(mode="json")
    assert [message[field] for field in ("utc", "clock", "pts", "bundle")] == [None] * 4


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert spot_from_json(json.dumps(MESSAGE | {"colour": "blue"})) == (SPOT, SAID)


def test_a_message_of_an_earlier_streamer_is_read() -> None:
    message = {field: value for field, value in MESSAGE.items() if field not in OPTIONAL}
    assert spot_from_json(json.dumps(message)) == (replace(SPOT, utc=None, clock=None, pts=None, bundle=None), SAID)


@pytest.mark.parametrize("field", sorted(MESSAGE.keys() - OPTIONAL))
def test_a_missing_field_is_named(field: str) -> None:
    message = {name: value for name, value in MESSAGE.items() if name != field}
    with pytest.raises(DataError, match=f"not a spot: {field}: "):
        spot_from_json(json.dumps(message))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", 7),
        ("half", 0),
        ("epoch", -1),
        ("epoch", 1.5),
        ("label", None),
        ("media_time", -0.5),
        ("media_time", "63.25"),
        ("media_time", float("nan")),
        ("confidence", 1.01),
        ("confidence", True),
        ("state", "maybe"),
        ("revision", 0),
        ("emitted_at", float("inf")),
        ("latency", {"grid": "long"}),
        ("latency", [1.0]),
        ("flags", "no-audio"),
        ("said_utc", "2025-05-31T19:00:00"),
        ("said_utc", 1748718000),
        ("utc", "2025-05-31T19:00:00"),
        ("clock", "sundial"),
        ("pts", -1),
        ("pts", 2**33),
        ("pts", 90.5),
        ("bundle", "demo"),
        ("bundle", {"name": "demo"}),
        ("event_type", None),
    ],
)
def test_a_field_out_of_range_or_of_another_type_is_named(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"not a spot: {field}"):
        spot_from_json(json.dumps(MESSAGE | {field: value}))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"spot"', b"\xff\xfe", b"\x00", "[" * 10_000])
def test_what_is_no_object_is_no_spot(text: str | bytes) -> None:
    with pytest.raises(DataError, match="not a spot"):
        spot_from_json(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_spot_or_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError):
        spot_from_json(data)
