"""The envelope of what goes over MQTT: CloudEvents 1.0 in JSON.

Structured mode always, so that a subscriber meets one form whatever version of MQTT it speaks; with MQTT 5 the same
attributes go along as user properties too, for brokers and bridges that route by them.
Source: the CloudEvents specification, its JSON event format and MQTT protocol binding.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from engines.errors import DataError
from streamer.payload import Message, SpotMessage, not_a, utc_text

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
VERSION = 1
"""Of every message's data; part of its type."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message.

    Attributes:
        attributes: the envelope, by CloudEvents' names.
        data: what it says, as JSON.
    """

    attributes: dict[str, str]
    data: str

    def json(self) -> str:
        """Return envelope and data as one JSON object."""
        return json.dumps(self.attributes, ensure_ascii=False)[:-1] + f', "data": {self.data}}}'


def event(kind: str, message: Message, stream: str, at: datetime, identifier: str, **more: str) -> Event:
    """Return a message in its envelope.

    Args:
        kind: spot, status, clock, scores, stats or answer.
        message: what it says.
        stream: the broadcast's name; the source.
        at: when it was said.
        identifier: unique for this source; the same when it is sent again.
        more: further attributes.
    """
    attributes = {
        "specversion": "1.0",
        "id": identifier,
        "source": f"/touchline/{quote(stream, safe='')}",
        "type": f"touchline.{kind}.v{VERSION}",
        "time": utc_text(at),
        "datacontenttype": "application/json",
        "dataschema": f"urn:touchline:{kind}:v{VERSION}",
        **more,
    }
    return Event(attributes, message.model_dump_json())


def spot_event(message: SpotMessage, sequence: int | None = None) -> Event:
    """Return a word in its envelope.

    Args:
        message: the word.
        sequence: its place in the order of final words, the same when it is sent again; None for provisional ones.
    """
    more = {"sequence": f"{sequence:012d}"} if sequence is not None else {}
    identifier = f"{message.id}.{message.revision}"
    return event("spot", message, message.stream, message.said_utc, identifier, subject=message.id, **more)


def data_of(payload: str | bytes) -> dict[str, Any]:
    """Return what a message says, without its envelope.

    Raises:
        DataError: it is no CloudEvent with an object as data.
    """
    try:
        envelope = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise DataError("This message is not JSON.") from error
    data = envelope.get("data") if isinstance(envelope, dict) else None
    if not isinstance(data, dict) or envelope.get("specversion") != "1.0":
        raise DataError("This message is not a CloudEvent with an object as its data.")
    return data


def spot_of(payload: str | bytes) -> SpotMessage:
    """Return the word that a message carries.

    Raises:
        DataError: it carries none.
    """
    data_of(payload)
    try:
        return _SpotEvent.model_validate_json(payload).data
    except ValidationError as error:
        raise not_a("spot", error) from error


class _SpotEvent(Message):
    data: SpotMessage
