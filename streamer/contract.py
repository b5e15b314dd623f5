"""The contract with those who listen, in documents: a JSON Schema a message, and AsyncAPI for where each one goes.

Made from the code's own types, topics and envelope: `python -m streamer.contract [FOLDER]` writes them. Promise: the
same code writes the same bytes, and every example in them is an object of the code.
Source: AsyncAPI 3.0.0 with version 0.2.0 of its MQTT bindings; JSON Schema 2020-12; CloudEvents 1.0.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from streamer.cloudevents import CONTENT_TYPE, VERSION
from streamer.config import MqttConfig
from streamer.contract_examples import examples
from streamer.mqtt import Topics
from streamer.payload import (
    COMMANDS,
    AnswerMessage,
    ClockMessage,
    Message,
    ScoresMessage,
    SpotMessage,
    StatsMessage,
    StatusMessage,
)

Document = dict[str, Any]

KINDS: dict[str, type[Message]] = {
    "spot": SpotMessage,
    "status": StatusMessage,
    "clock": ClockMessage,
    "scores": ScoresMessage,
    "stats": StatsMessage,
    "answer": AnswerMessage,
}
"""What the streamer says, by kind."""

TOPICS = Topics("{prefix}/{stream}")

_BINDING = {"bindingVersion": "0.2.0"}
_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class _Flow:
    """Messages of a kind on a topic."""

    address: str
    kind: str
    qos: int
    summary: str
    retain: bool = False


_FLOWS = {
    "spots": _Flow(TOPICS.spots, "spot", 1, "Final words, in order; each waits until the broker has acknowledged it."),
    "provisional": _Flow(TOPICS.provisional, "spot", 0, "Provisional words, at once or never."),
    "spotsByLabel": _Flow(TOPICS.by_label("{label}"), "spot", 1, "The final words of one label."),
    "status": _Flow(TOPICS.status, "status", 1, "How the stream is; also the last will.", retain=True),
    "clock": _Flow(TOPICS.clock, "clock", 1, "Media time beside the wall clock.", retain=True),
    "scores": _Flow(TOPICS.scores, "scores", 0, "What each second scored; only if asked for."),
    "stats": _Flow(TOPICS.stats, "stats", 0, "How the run goes."),
    "answers": _Flow(TOPICS.answers, "answer", 1, "What became of commands; only if they are obeyed."),
}
"""What the streamer says, by channel."""

_PARAMETERS = {
    "prefix": {"description": "One level or more.", "default": MqttConfig().prefix},
    "stream": {"description": "The broadcast's name; `+`, `#`, `/` and control characters in it become `-`."},
    "label": {"description": "The spot's label; `/`, `+` and `#` in it become `-`.", "examples": ["Goal", "Red card"]},
    "command": {"description": "What is to be done.", "enum": list(COMMANDS)},
}


def schemas() -> dict[str, Document]:
    """Return a JSON Schema for the data of every kind of message and command, by kind."""
    return {
        kind: {"$schema": _JSON_SCHEMA, "$id": f"urn:touchline:{kind}:v{VERSION}"}
        | message.model_json_schema(mode="serialization")
        for kind, message in {**KINDS, **COMMANDS}.items()
    }


def asyncapi() -> Document:
    """Return the AsyncAPI document, from the streamer's point of view: it sends spots and receives commands."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "touchline",
            "version": str(VERSION),
            "description": "Watches a football broadcast and says what happened. Within a version, fields and "
            "topics may come and none goes; pass over what you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "mqtt": _server("mqtt", "1883", ["user"]),
            "mqtts": _server("mqtts", "8883", ["user", "certificate"]),
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "parameters": _PARAMETERS,
            "schemas": _components(),
            "securitySchemes": {
                "user": {"type": "userPassword", "description": "User and password, if the broker asks for them."},
                "certificate": {"type": "X509", "description": "A certificate, if the broker asks for one."},
            },
        },
    }


def write(folder: Path) -> None:
    """Write all documents into a folder."""
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    for kind, schema in schemas().items():
        (folder / "schemas" / f"{kind}.v{VERSION}.json").write_text(as_text(schema), encoding="utf-8")
    (folder / "asyncapi.json").write_text(as_text(asyncapi()), encoding="utf-8")


def as_text(document: Document) -> str:
    """Return a document as its file has it."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _server(protocol: str, port: str, security: list[str]) -> Document:
    return {
        "host": "{host}:{port}",
        "protocol": protocol,
        "protocolVersion": "5",
        "description": "Your broker. MQTT 5, or 3.1.1 where the broker speaks nothing else.",
        "variables": {
            "host": {"default": "localhost", "description": "The broker."},
            "port": {"default": port},
        },
        "security": [_ref("components", "securitySchemes", scheme) for scheme in security],
        "bindings": {
            "mqtt": {
                "lastWill": {
                    "topic": TOPICS.status,
                    "qos": 1,
                    "retain": True,
                    "message": "A status whose state is `offline`, from when the streamer connected.",
                },
                **_BINDING,
            }
        },
    }


def _channels() -> Document:
    said = {
        name: _channel(flow.address, flow.summary, {flow.kind: _ref("components", "messages", flow.kind)})
        for name, flow in _FLOWS.items()
    }
    messages = {name: _ref("components", "messages", name) for name in COMMANDS}
    return {**said, "commands": _channel(TOPICS.command("{command}"), "Orders to a running streamer.", messages)}


def _channel(address: str, summary: str, messages: Document) -> Document:
    parameters = {name: _ref("components", "parameters", name) for name in _PARAMETERS if f"{{{name}}}" in address}
    return {"address": address, "summary": summary, "messages": messages, "parameters": parameters}


def _operations() -> Document:
    sent = {
        f"send{name[0].upper()}{name[1:]}": {
            "action": "send",
            "summary": flow.summary,
            **_messages_of(name, flow.kind),
            "bindings": {"mqtt": {"qos": flow.qos, "retain": flow.retain, **_BINDING}},
        }
        for name, flow in _FLOWS.items()
    }
    received = {
        f"receive{name.capitalize()}": {
            "action": "receive",
            "summary": _sentence(command),
            "description": f"With `command` = `{name}`. The answer goes to its channel and, if the command names a "
            "response topic (MQTT 5), there too, with the command's correlation data.",
            **_messages_of("commands", name),
            "reply": _messages_of("answers", "answer"),
            "bindings": {"mqtt": {"qos": 1, "retain": False, **_BINDING}},
        }
        for name, command in COMMANDS.items()
    }
    return {**sent, **received}


def _messages_of(channel: str, message: str) -> Document:
    return {"channel": _ref("channels", channel), "messages": [_ref("channels", channel, "messages", message)]}


def _messages() -> Document:
    given = examples()
    said = {kind: _said(kind, message, given[kind]) for kind, message in KINDS.items()}
    said["answer"]["correlationId"] = {"location": "$message.payload#/data/request_id"}
    ordered = {name: _ordered(name, command, given[name]) for name, command in COMMANDS.items()}
    return {**said, **ordered}


def _said(kind: str, message: type[Message], payloads: dict[str, Document]) -> Document:
    envelope = {
        "type": {"const": f"touchline.{kind}.v{VERSION}"},
        "dataschema": {"const": f"urn:touchline:{kind}:v{VERSION}"},
        "data": _ref("components", "schemas", message.__name__),
    }
    payload = {"type": "object", "properties": envelope, "required": sorted(envelope)}
    return {
        "name": f"touchline.{kind}.v{VERSION}",
        "title": kind,
        "summary": _sentence(message),
        "contentType": CONTENT_TYPE,
        "payload": {"allOf": [_ref("components", "schemas", "CloudEvent"), payload]},
        "bindings": {"mqtt": {"contentType": CONTENT_TYPE, **_BINDING}},
        "examples": [{"name": name, "payload": payload} for name, payload in payloads.items()],
    }


def _ordered(name: str, command: type[Message], payloads: dict[str, Document]) -> Document:
    return {
        "name": name,
        "title": name,
        "summary": _sentence(command),
        "contentType": "application/json",
        "correlationId": {"location": "$message.payload#/request_id"},
        "payload": _ref("components", "schemas", command.__name__),
        "bindings": {
            "mqtt": {
                "correlationData": {"type": "string", "description": "Comes back with the answer; MQTT 5."},
                "responseTopic": {"type": "string", "description": "Where the answer goes too; MQTT 5."},
                **_BINDING,
            }
        },
        "examples": [{"name": name, "payload": payload} for name, payload in payloads.items()],
    }


def _components() -> Document:
    models = {**KINDS, **COMMANDS}.values()
    reference = "#/components/schemas/{model}"
    _, schema = models_json_schema([(model, "serialization") for model in models], ref_template=reference)
    return {**schema["$defs"], "CloudEvent": _ENVELOPE}


_ENVELOPE: Document = {
    "title": "CloudEvent",
    "description": "CloudEvents 1.0 in JSON. With MQTT 5 the attributes are user properties too.",
    "type": "object",
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {
            "type": "string",
            "minLength": 1,
            "description": "Unique for its source, the same when it is sent again; of a word `<id>.<revision>`.",
        },
        "source": {"type": "string", "format": "uri-reference", "description": "/touchline/<stream>, percent-encoded"},
        "type": {"type": "string", "description": "touchline.<kind>.v<version>"},
        "time": {"type": "string", "format": "date-time", "description": "When it was said."},
        "datacontenttype": {"const": "application/json"},
        "dataschema": {"type": "string", "format": "uri", "description": "The $id of the data's JSON Schema."},
        "subject": {"type": "string", "minLength": 1, "description": "Of a word: the spot's id."},
        "sequence": {
            "type": "string",
            "pattern": "^[0-9]{12,}$",
            "description": "Of a final word: its place in the order; as text it sorts. The same when it is sent again.",
        },
        "data": {"type": "object"},
    },
    "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "dataschema", "data"],
}


def _sentence(message: type[Message]) -> str:
    return (message.__doc__ or "").partition("\n")[0]


def _ref(*path: str) -> Document:
    return {"$ref": "/".join(["#", *path])}


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
