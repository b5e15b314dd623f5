"""`.csv`: every word of a run, a row each.

The columns are the fields of the JSON, in its spelling; one of an object is called by both names with a point between.
RFC 4180: commas, UTF-8, lines that end in CR LF.
"""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from engines.decider import Spot
from streamer.files.writing import LinesFile
from streamer.payload import SpotMessage

COLUMNS = (
    *("id", "revision", "state", "stream", "half", "epoch", "label", "event_type", "event_detail", "media_time", "pts"),
    *("utc", "clock", "confidence", "emitted_at", "said_utc"),
    *("latency.grid", "latency.look_ahead", "latency.hold", "latency.compute", "flags", "bundle.name", "bundle.digest"),
)


def table_file(path: Path, stream: str) -> LinesFile:
    """Return a table of every word."""
    return LinesFile(path, row, _line(COLUMNS))


def row(spot: Spot, said: datetime) -> str:
    """Return a word as a row; what is unknown is empty, and flags have a blank between."""
    fields: dict[str, Any] = SpotMessage.of(spot, said).model_dump(mode="json")
    for name in ("latency", "bundle"):
        fields |= {f"{name}.{key}": value for key, value in (fields[name] or {}).items()}
    fields["flags"] = " ".join(fields["flags"])
    return _line(fields.get(name) for name in COLUMNS)


def _line(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()
