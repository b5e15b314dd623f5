"""Others read our envelope as the CloudEvents specification says, and we read theirs."""

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.errors import DataError
from streamer.cloudevents import CONTENT_TYPE, data_of, event, spot_event, spot_of
from streamer.payload import ClockMessage, SpotMessage

SAID = datetime(2025, 5, 31, 19, 0, 0, 250, UTC)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def message(stream: str = "main", label: str = "Goal", **changes: object) -> SpotMessage:
    spot = Spot("f00d", stream, 1, 0, label, 754.5, 0.91, 762.0, latency={"grid": 0.5}, flags=("no-audio",))
    return SpotMessage.of(spot, SAID).model_copy(update=changes)


@given(NAMES, NAMES, st.integers(0, 10**12 - 1))
def test_the_official_library_reads_what_we_write(stream: str, label: str, sequence: int) -> None:
    said = message(stream, label)
    theirs = JSONFormat().read(None, spot_event(said, sequence).json().encode())
    assert isinstance(theirs, CloudEvent)
    assert (theirs.get_id(), theirs.get_type(), theirs.get_subject()) == ("f00d.1", "touchline.spot.v1", "f00d")
    assert theirs.get_time() == SAID
    assert theirs.get_extension("sequence") == f"{sequence:012d}"
    assert theirs.get_data() == json.loads(said.model_dump_json())
    assert CONTENT_TYPE.startswith(JSONFormat.CONTENT_TYPE)


@given(NAMES, NAMES)
def test_we_read_what_the_official_library_writes(stream: str, label: str) -> None:
    said = message(stream, label)
    theirs = JSONFormat().write(JSONFormat().read(None, spot_event(said).json()))
    assert spot_of(theirs) == said
    assert data_of(theirs) == json.loads(said.model_dump_json())


@given(NAMES)
def test_the_source_is_a_uri_that_tells_the_stream(stream: str) -> None:
    source = spot_event(message(stream)).attributes["source"]
    assert source.isascii()
    parts = urlsplit(source)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    assert unquote(parts.path) == f"/touchline/{stream}"


def test_a_redelivery_repeats_its_id_and_another_word_has_another() -> None:
    said = message()
    assert spot_event(said, 7) == spot_event(said, 7)
    early = message(state="provisional")
    final = message(revision=2)
    assert spot_event(early).attributes["id"] != spot_event(final, 7).attributes["id"]
    assert spot_event(early).attributes["subject"] == spot_event(final, 7).attributes["subject"]


def test_sequences_sort_as_text() -> None:
    assert "sequence" not in spot_event(message()).attributes
    in_order = [spot_event(message(), n).attributes["sequence"] for n in (0, 9, 10, 999, 10**11)]
    assert in_order == sorted(in_order)


def test_every_kind_of_message_has_its_type_and_schema() -> None:
    clock = ClockMessage(stream="main", half=1, epoch=0, media_time=3.0, at_utc=SAID + timedelta(hours=1))
    made = event("clock", clock, "main", SAID, "run.3")
    theirs = JSONFormat().read(None, made.json())
    assert (theirs.get_id(), theirs.get_type()) == ("run.3", "touchline.clock.v1")
    assert theirs.get_dataschema() == "urn:touchline:clock:v1"
    assert data_of(made.json()) == json.loads(clock.model_dump_json())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 10_000,
        b'{"specversion": "1.0"}',
        b'{"specversion": "1.0", "data": []}',
        b'{"specversion": "0.3", "data": {}}',
        b'{"data": {}}',
    ],
)
def test_what_is_no_cloudevent_is_one_sentence(payload: bytes) -> None:
    for read in (data_of, spot_of):
        with pytest.raises(DataError, match=r"^This message is not [^.]*\.$"):
            read(payload)


def test_an_event_that_is_no_spot_is_one_sentence() -> None:
    whole = json.loads(spot_event(message()).json())
    del whole["data"]["label"]
    with pytest.raises(DataError, match=r"^This message is not a spot: data\.label: .*\.$"):
        spot_of(json.dumps(whole))
