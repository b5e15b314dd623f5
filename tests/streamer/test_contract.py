"""The contract: the documents are the code's, nothing in them breaks silently, and what is said keeps to them."""

import copy
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from spots import SAID, SPOT, instants, spots

from engines.decider import Spot
from engines.labels import SOCCERNET_LABELS
from streamer.cloudevents import VERSION, spot_event, spot_of
from streamer.contract import KINDS, TOPICS, as_text, asyncapi, schemas
from streamer.contract_examples import examples
from streamer.desk import Desk
from streamer.kloppy_names import KLOPPY_NAMES
from streamer.mqtt import topics
from streamer.payload import COMMANDS, SpotMessage

Schema = dict[str, Any]

HERE = Path(__file__).parents[1]
DOCS, STANDARDS = HERE.parent / "docs", HERE / "schemas"
RELEASED = STANDARDS / f"v{VERSION}"
"""The schemas as they were released; a release copies docs/schemas there, so that its new fields stay too."""
ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description"}


def is_date_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is not None


def is_uri_reference(text: object) -> bool:
    return not isinstance(text, str) or re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", text) is not None


def is_uri(text: object) -> bool:
    return is_uri_reference(text) and (not isinstance(text, str) or re.match(r"[a-z][a-z0-9+.-]*:", text) is not None)


formats = FormatChecker(())
formats.checks("date-time", raises=ValueError)(is_date_time)
formats.checks("uri-reference")(is_uri_reference)
formats.checks("uri")(is_uri)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


CLOUD_EVENT = Draft7Validator(read(STANDARDS / "cloudevents-1.0.json"), format_checker=formats)
ASYNCAPI = Draft7Validator(read(STANDARDS / "asyncapi-3.0.0.json"))
SPOT_SCHEMA = Draft202012Validator(read(DOCS / "schemas" / "spot.v1.json"), format_checker=formats)


def payload_of(kind: str) -> Draft7Validator:
    document = asyncapi()
    reference = {"$ref": f"#/components/messages/{kind}/payload", "components": document["components"]}
    return Draft7Validator(reference, format_checker=formats)


SPOT_EVENT = payload_of("spot")


# The documents


def test_the_committed_documents_are_the_codes_own() -> None:
    expected = {f"schemas/{kind}.v{VERSION}.json": as_text(schema) for kind, schema in schemas().items()}
    expected["asyncapi.json"] = as_text(asyncapi())
    files = [DOCS / "asyncapi.json", *(DOCS / "schemas").iterdir()]
    committed = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in files}
    assert committed == expected, "a message, topic or example has changed: run `make contract` and read the difference"


@pytest.mark.parametrize("kind", schemas())
def test_every_schema_is_one_and_every_field_says_what_it_is(kind: str) -> None:
    schema = schemas()[kind]
    Draft202012Validator.check_schema(schema)
    for part in [schema, *schema.get("$defs", {}).values()]:
        assert [name for name, field in part["properties"].items() if not field.get("description")] == []


def test_the_document_is_asyncapi() -> None:
    assert [error.message for error in ASYNCAPI.iter_errors(read(DOCS / "asyncapi.json"))] == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda document: document.update(asyncapi="3.0"),
        lambda document: document["operations"]["sendSpots"].update(action="nope"),
        lambda document: document["operations"]["sendSpots"]["bindings"]["mqtt"].update(qos=3),
        lambda document: document["servers"]["mqtt"].pop("host"),
        lambda document: document["channels"]["spots"].update(qos=1),
    ],
)
def test_what_is_no_asyncapi_would_be_found(harm: Callable[[Schema], None]) -> None:
    document = asyncapi()
    harm(document)
    assert not ASYNCAPI.is_valid(document)


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi()
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', as_text(document)):
        part = document
        for name in reference.split("/"):
            part = part[name]


def test_every_topic_has_a_channel_with_the_parameters_in_its_address() -> None:
    channels = asyncapi()["channels"].values()
    every = {name for name in dir(TOPICS) if not name.startswith("_")} - {"base", "by_label", "command"}
    own = {TOPICS.by_label("{label}"), TOPICS.command("{command}"), *(getattr(TOPICS, name) for name in every)}
    assert {channel["address"] for channel in channels} == own
    for channel in channels:
        assert set(channel["parameters"]) == set(re.findall(r"{(\w+)}", channel["address"]))


def test_addresses_are_the_streamers_topics() -> None:
    real = topics("touchline", "final")
    filled = TOPICS.by_label("{label}").format(prefix="touchline", stream="final", label="Goal")
    assert filled == real.by_label("Goal") == "touchline/final/spots/by-label/Goal"
    assert TOPICS.command("{command}").format(prefix="a/b", stream="x", command="mute") == "a/b/x/cmd/mute"


@pytest.mark.parametrize("kind", [*KINDS, *COMMANDS])
def test_every_example_is_a_message_of_its_kind(kind: str) -> None:
    for payload in examples()[kind].values():
        payload_of(kind).validate(payload)
        if kind in KINDS:
            CLOUD_EVENT.validate(payload)
            Draft202012Validator(schemas()[kind], format_checker=formats).validate(payload["data"])
        else:
            desk = Desk({"Goal": 0.5, "Throw-in": 0.5})
            assert desk.obey(kind, json.dumps(payload).encode()).ok


def test_a_message_of_another_kind_is_none_of_this() -> None:
    assert not payload_of("status").is_valid(examples()["spot"]["confirmed"])


def test_the_page_shows_the_documents_examples() -> None:
    shown = [
        json.loads(text) for text in re.findall(r"```json\n(.*?)```", (DOCS / "messages.md").read_text("utf-8"), re.S)
    ]
    given = examples()
    assert {kind for kind in KINDS if any(payload in given[kind].values() for payload in shown)} == set(KINDS)
    assert [payload for payload in shown if not any(payload in every.values() for every in given.values())] == []


# What was promised


def resolved(schema: Any, root: Schema) -> Any:
    """Return a schema without references and without what is for people alone."""
    if isinstance(schema, list):
        return [resolved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    return {
        key: {name: resolved(field, root) for name, field in value.items()}
        if key == "properties"
        else resolved(value, root)
        for key, value in schema.items()
        if key not in ANNOTATIONS
    }


def broken(old: Any, new: Any, where: str) -> list[str]:
    """Return what readers and senders of the old schema cannot rely on any more; fields may come if they are optional.

    Wider types break those who read, narrower ones those who send, and what is required now was left out by an earlier
    streamer; so everything but a new optional field does.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            return [fault for pair in zip(old, new, strict=True) for fault in broken(*pair, where)]
        return [] if old == new else [f"{where} was {json.dumps(old)} and is {json.dumps(new)}"]
    faults = [f"{where}.{name} is gone" for name in old.get("properties", {}) if name not in new.get("properties", {})]
    for name in old.get("properties", {}).keys() & new.get("properties", {}).keys():
        faults += broken(old["properties"][name], new["properties"][name], f"{where}.{name}")
    if set(old.get("required", ())) != set(new.get("required", ())):
        faults.append(f"{where} requires other fields")
    for key in (old.keys() | new.keys()) - {"properties", "required"}:
        faults += broken(old.get(key), new.get(key), where)
    return faults


def breaks(old: Schema, new: Schema, kind: str) -> list[str]:
    return broken(resolved(old, old), resolved(new, new), kind)


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
def test_no_field_goes_or_changes_within_a_version(path: Path) -> None:
    kind = path.stem.partition(".")[0]
    faults = breaks(read(path), schemas()[kind], kind)
    assert not faults, (
        f"{'; '.join(faults)}: those who listen rely on it, so it needs a new version (cloudevents.VERSION)"
    )


def test_every_kind_is_promised() -> None:
    assert {path.stem.partition(".")[0] for path in RELEASED.glob("*.json")} == set(schemas())


TOPICS_OF_V1 = {
    "{prefix}/{stream}/spots": (1, False),
    "{prefix}/{stream}/spots/provisional": (0, False),
    "{prefix}/{stream}/spots/by-label/{label}": (1, False),
    "{prefix}/{stream}/status": (1, True),
    "{prefix}/{stream}/clock": (1, True),
    "{prefix}/{stream}/scores": (0, False),
    "{prefix}/{stream}/stats": (0, False),
    "{prefix}/{stream}/answers": (1, False),
    "{prefix}/{stream}/cmd/{command}": (1, False),
}
"""Address → QoS, and whether it is retained."""


def test_no_topic_moves_within_a_version() -> None:
    document = asyncapi()
    now = {}
    for operation in document["operations"].values():
        address = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]["address"]
        binding = operation["bindings"]["mqtt"]
        now[address] = (binding["qos"], binding["retain"])
    assert TOPICS_OF_V1.items() <= now.items()


def test_a_final_word_has_these_attributes() -> None:
    envelope = json.loads(spot_event(SpotMessage.of(SPOT, SAID), 7).json())
    assert {name: value for name, value in envelope.items() if name != "data"} == {
        "specversion": "1.0",
        "id": "a1.1",
        "source": "/touchline/final",
        "type": "touchline.spot.v1",
        "time": "2025-05-31T19:00:00.123456Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:touchline:spot:v1",
        "subject": "a1",
        "sequence": "000000000007",
    }


def optional(schema: Schema) -> None:
    schema["properties"]["colour"] = {"default": None, "anyOf": [{"type": "string"}, {"type": "null"}]}


def nested(schema: Schema) -> None:
    schema["$defs"]["BundleRef"]["properties"]["recipe"] = {"type": "string", "default": ""}


def reworded(schema: Schema) -> None:
    schema["properties"]["media_time"]["description"] = "the moment"


@pytest.mark.parametrize("change", [optional, nested, reworded])
def test_an_optional_field_and_other_words_may_come(change: Callable[[Schema], None]) -> None:
    new = copy.deepcopy(schemas()["spot"])
    change(new)
    assert breaks(schemas()["spot"], new, "spot") == []


def removed(schema: Schema) -> None:
    del schema["properties"]["clock"]


def renamed(schema: Schema) -> None:
    schema["properties"]["time"] = schema["properties"].pop("media_time")


def retyped(schema: Schema) -> None:
    schema["properties"]["revision"]["type"] = "string"


def nullable(schema: Schema) -> None:
    schema["properties"]["label"] = {"anyOf": [schema["properties"]["label"], {"type": "null"}]}


def another_state(schema: Schema) -> None:
    schema["properties"]["state"]["enum"].append("doubtful")


def required(schema: Schema) -> None:
    optional(schema)
    schema["required"].append("colour")


def no_longer_required(schema: Schema) -> None:
    schema["required"].remove("flags")


def removed_below(schema: Schema) -> None:
    del schema["$defs"]["BundleRef"]["properties"]["digest"]


def another_unit(schema: Schema) -> None:
    schema["properties"]["latency"]["additionalProperties"] = {"type": "integer"}


BREAKING = [
    removed,
    renamed,
    retyped,
    nullable,
    another_state,
    required,
    no_longer_required,
    removed_below,
    another_unit,
]


@pytest.mark.parametrize("change", BREAKING)
def test_any_other_change_needs_a_new_version(change: Callable[[Schema], None]) -> None:
    new = copy.deepcopy(schemas()["spot"])
    change(new)
    assert breaks(schemas()["spot"], new, "spot")


# What is said


@given(spots, instants, st.none() | st.integers(1, 10**13))
def test_any_spot_keeps_to_the_published_schemas(spot: Spot, said: datetime, sequence: int | None) -> None:
    message = SpotMessage.of(spot, said)
    SPOT_SCHEMA.validate(json.loads(message.model_dump_json()))
    envelope = json.loads(spot_event(message, sequence).json())
    CLOUD_EVENT.validate(envelope)
    SPOT_EVENT.validate(envelope)


@given(spots, instants, st.none() | st.integers(1, 10**13))
def test_any_spot_is_read_by_the_cloudevents_sdk(spot: Spot, said: datetime, sequence: int | None) -> None:
    message = SpotMessage.of(spot, said)
    payload = spot_event(message, sequence).json().encode()
    event = JSONFormat().read(None, payload)
    assert event.get_data() == message.model_dump(mode="json")
    assert (event.get_id(), event.get_subject()) == (f"{spot.id}.{spot.revision}", spot.id)
    assert (event.get_type(), event.get_time()) == ("touchline.spot.v1", said)
    assert event.get_extension("sequence") == (None if sequence is None else f"{sequence:012d}")
    assert spot_of(payload).spot() == spot


def test_the_sdk_and_the_schemas_refuse_what_is_no_event() -> None:
    envelope = json.loads(spot_event(SpotMessage.of(SPOT, SAID)).json())
    for name in ("id", "source", "type", "specversion"):
        assert not CLOUD_EVENT.is_valid({key: value for key, value in envelope.items() if key != name})
    assert not SPOT_EVENT.is_valid(envelope | {"time": "yesterday"})
    assert not SPOT_EVENT.is_valid(envelope | {"data": envelope["data"] | {"state": "maybe"}})


# kloppy 3.19.1, kloppy/domain/models/event.py: names of the enumerations' members
SHOT_RESULTS = {"GOAL", "OFF_TARGET", "POST", "BLOCKED", "SAVED", "OWN_GOAL"}
PASS_RESULTS = {"COMPLETE", "INCOMPLETE", "OUT", "OFFSIDE"}
SET_PIECES = {"GOAL_KICK", "FREE_KICK", "THROW_IN", "CORNER_KICK", "PENALTY", "KICK_OFF"}
CARDS = {"FIRST_YELLOW", "SECOND_YELLOW", "RED"}
KLOPPY = {
    "GENERIC": set(),
    "PASS": PASS_RESULTS | SET_PIECES,
    "SHOT": SHOT_RESULTS | SET_PIECES,
    "CLEARANCE": set(),
    "SUBSTITUTION": set(),
    "CARD": CARDS,
    "BALL_OUT": set(),
    "FOUL_COMMITTED": set(),
}
"""Event type → what a detail of it may be."""


def test_every_label_has_a_name_that_kloppy_knows() -> None:
    assert set(KLOPPY_NAMES) == set(SOCCERNET_LABELS)
    for label, name in KLOPPY_NAMES.items():
        assert name.event_detail in KLOPPY[name.event_type] | {None}, label


def test_no_two_labels_have_the_same_name_in_kloppy() -> None:
    assert len(set(KLOPPY_NAMES.values())) == len(KLOPPY_NAMES)
