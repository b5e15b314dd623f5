"""`.jsonl`: every word of a run, one JSON object a line, as it goes over MQTT."""

from pathlib import Path

from streamer.files.writing import LinesFile
from streamer.payload import spot_to_json


def words_file(path: Path, stream: str) -> LinesFile:
    """Return a file of every word."""
    return LinesFile(path, lambda spot, said: spot_to_json(spot, said) + "\n")
