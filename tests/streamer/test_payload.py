"""A spot survives the wire, and nonsense does not pass for one."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.errors import DataError
from streamer.payload import spot_from_json, spot_to_dict, spot_to_json

SAID = datetime(2025, 5, 31, 19, 0, 0, 123456, UTC)
SPOT = Spot(
    id="a1",
    stream="final",
    half=1,
    epoch=0,
    label="Goal",
    media_time=63.25,
    confidence=0.75,
    emitted_at=71.0,
    latency={"grid": 0.75, "look_ahead": 4.0, "hold": 3.0, "compute": 0.04},
    flags=("no-audio",),
    utc=SAID - timedelta(seconds=8),
    clock="rtcp",
)

seconds = st.floats(0, 1e6)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
instants = st.datetimes(
    datetime(1990, 1, 1),
    datetime(2090, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=9))]),
)
spots = st.builds(
    Spot,
    id=names,
    stream=names,
    half=st.integers(1, 2),
    epoch=st.integers(0, 2**40),
    label=names,
    media_time=seconds,
    confidence=st.floats(0, 1),
    emitted_at=seconds,
    state=st.sampled_from(["provisional", "confirmed", "retracted"]),
    revision=st.integers(1, 100),
    latency=st.dictionaries(st.sampled_from(["grid", "look_ahead", "hold", "compute"]), st.floats(-10, 600)),
    flags=st.lists(names, max_size=4).map(tuple),
    utc=st.none() | instants,
    clock=st.none() | st.sampled_from(["rtcp", "prft", "hls", "arrival"]),
)


@given(spots, instants)
def test_reading_what_was_written_gives_an_equal_spot(spot: Spot, said: datetime) -> None:
    text = spot_to_json(spot, said)
    assert "\n" not in text
    assert spot_from_json(text) == (spot, said)
    assert spot_from_json(text.encode()) == (spot, said)


def test_the_wall_clock_is_utc_with_microseconds() -> None:
    tokyo = SAID.astimezone(timezone(timedelta(hours=9)))
    assert spot_to_dict(SPOT, tokyo)["said_utc"] == "2025-05-31T19:00:00.123456Z"
    with pytest.raises(ValueError, match="time zone"):
        spot_to_dict(SPOT, SAID.replace(tzinfo=None))


def test_a_message_has_exactly_these_fields() -> None:
    assert set(spot_to_dict(SPOT, SAID)) == {
        "id",
        "stream",
        "half",
        "epoch",
        "label",
        "media_time",
        "confidence",
        "state",
        "revision",
        "emitted_at",
        "latency",
        "flags",
        "said_utc",
        "utc",
        "clock",
    }


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert spot_from_json(json.dumps(spot_to_dict(SPOT, SAID) | {"colour": "blue"})) == (SPOT, SAID)


@pytest.mark.parametrize("field", sorted(spot_to_dict(SPOT, SAID).keys() - {"utc", "clock"}))
def test_a_missing_field_is_named(field: str) -> None:
    message = spot_to_dict(SPOT, SAID)
    del message[field]
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
    ],
)
def test_a_field_out_of_range_or_of_another_type_is_named(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"not a spot: {field}"):
        spot_from_json(json.dumps(spot_to_dict(SPOT, SAID) | {field: value}))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"spot"', b"\xff\xfe", b"\x00", "[" * 10_000])
def test_what_is_no_object_is_no_spot(text: str | bytes) -> None:
    with pytest.raises(DataError, match="not a spot"):
        spot_from_json(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_spot_or_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError):
        spot_from_json(data)
