"""Logging: one form for all records, whichever library they come from, and no secret in any of them.

Every text of a record is redacted when it is written: URLs as redact.py shows them, and the secrets that this process
knows (`hide`) wherever they stand. A record that cannot be formatted is written as far as it can be.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from textwrap import indent
from typing import Literal
from urllib.parse import quote

from streamer.redact import printable, redact

SHORTEST_SECRET = 4
"""A shorter one stands in too many words: hiding it would blank the log, and tell it by what is missing."""

_secrets: dict[str, re.Pattern[str]] = {}


def configure(level: int, form: Literal["text", "json"]) -> None:
    """Write records of `level` and above to stderr, warnings of Python too; nothing if logging is configured already.

    Args:
        level: of the logging module.
        form: lines for people, or one JSON object a line: time, level, logger, message, and exception or stack if the
            record has one.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)


def hide(secret: str) -> None:
    """Let a secret never be shown, plain, percent-encoded or escaped; one of fewer than 4 characters only in URLs."""
    if len(secret) >= SHORTEST_SECRET:
        _secrets.setdefault(secret, re.compile("".join(map(_spellings, secret))))


def safe(text: str) -> str:
    """Return text without URLs' credentials and queries, and without secrets that are to be hidden."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _secrets[secret].sub("…", text)
    return redact(text)


def _spellings(character: str) -> str:
    """Return a pattern of the ways to write a character of a secret: in text, URLs, JSON and Python's literals."""
    percent = "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
    forms = {
        character,
        percent,
        percent.lower(),
        quote(character, safe="", errors="surrogatepass"),
        json.dumps(character)[1:-1],
        repr(character)[1:-1],
        ascii(character)[1:-1],
        repr(character.encode(errors="surrogatepass"))[2:-1],
    }
    forms |= {"+"} if character == " " else set()
    forms |= {"\\" + character} if character in "'\"" else set()
    return f"(?:{'|'.join(re.escape(form) for form in sorted(forms, key=len, reverse=True))})"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:
        """Leave it: logging's own complaint shows the record as it is, and has nowhere to go but there."""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a JSON object, in ASCII: stderr takes that whatever its encoding."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname,
            "logger": record.name,
            "message": safe(_message(record)),
        }
        if exception := _exception(self, record):
            fields["exception"] = safe(exception)
        if record.stack_info:
            fields["stack"] = safe(record.stack_info)
        return json.dumps(fields)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record in a line of its own; an exception's lines are set in, so that none passes for a record."""
        head = f"{self.formatTime(record, self.datefmt)} {record.levelname} {printable(record.name)}: "
        text = head + printable(safe(_message(record)))
        for more in (_exception(self, record), record.stack_info):
            if more:
                text += "\n" + indent("\n".join(map(printable, safe(more).split("\n"))), "  ")
        return text


def _message(record: logging.LogRecord) -> str:
    """Return a record's message; of one whose arguments do not fit, what there is."""
    try:
        return record.getMessage()
    except Exception:
        try:
            return f"{record.msg!r} {record.args!r}"
        except Exception:
            return "a record that cannot be shown"


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    return formatter.formatException(record.exc_info) if record.exc_info else record.exc_text
