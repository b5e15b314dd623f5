"""The file of a run, by its ending. docs/files.md says what is in each.

Promise: what a run that was killed leaves can be read; see writing.py for what it lacks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from engines.errors import UsageError
from streamer.files.edl import edl_file
from streamer.files.results import results_file
from streamer.files.table import table_file
from streamer.files.vtt import vtt_file
from streamer.files.words import words_file
from streamer.files.writing import OutFile

_FORMATS: Mapping[str, Callable[[Path, str], OutFile]] = {
    ".json": results_file,
    ".jsonl": words_file,
    ".csv": table_file,
    ".vtt": vtt_file,
    ".edl": edl_file,
}


def out_file(path: Path, stream: str) -> OutFile:
    """Return the file of this name; nothing is on the disk until it is begun.

    Args:
        path: its ending decides on the format.
        stream: the broadcast's name.

    Raises:
        UsageError: no format has this ending.
    """
    make = _FORMATS.get(path.suffix.lower())
    if make is None:
        *others, last = _FORMATS
        raise UsageError(f"{path}: its ending tells no format; let it end in {', '.join(others)} or {last}.")
    return make(path, stream)
