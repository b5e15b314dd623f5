"""SoccerNet's `results_spotting.json`, written whole or not at all; and every word of a run, line by line."""

import json
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from engines.decider import Spot
from engines.errors import DataError
from streamer.payload import spot_to_json

RESULTS_NAME = "results_spotting.json"


def write_results(path: Path, spots: Sequence[Spot], name: str) -> None:
    """Write spots in SoccerNet's format, in the order of half and time.

    Args:
        path: the file; a part file beside it is renamed when complete.
        spots: words of all halves; only confirmed ones are written.
        name: goes into `UrlLocal`.

    Raises:
        DataError: the file cannot be written.
    """
    confirmed = [spot for spot in spots if spot.state == "confirmed"]
    ordered = sorted(confirmed, key=lambda s: (s.half, s.media_time, s.label))
    content = {"UrlLocal": name, "predictions": [_prediction(spot) for spot in ordered]}
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _prediction(spot: Spot) -> dict[str, str]:
    minutes, seconds = divmod(int(spot.media_time), 60)
    return {
        "gameTime": f"{spot.half} - {minutes:02d}:{seconds:02d}",
        "label": spot.label,
        "position": str(round(spot.media_time * 1000)),
        "half": str(spot.half),
        "confidence": f"{spot.confidence:.6f}",
    }


class WordsFile:
    """Every word of a run, one JSON object a line; each is in the file when it has been said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def open(self) -> None:
        """Begin the file, once: what an earlier run left is gone.

        Raises:
            DataError: it cannot be written.
        """
        try:
            self._file = self._file or self._path.open("w", encoding="utf-8", buffering=1)
        except (OSError, ValueError) as error:
            raise _unwritable(self._path, error) from error

    def say(self, spot: Spot, said: datetime) -> None:
        """Write a word.

        Raises:
            DataError: it cannot be written.
        """
        assert self._file is not None
        try:
            self._file.write(spot_to_json(spot, said) + "\n")
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """End the file, if there is one."""
        if self._file is not None:
            self._file.close()


def _unwritable(path: Path, error: OSError | ValueError) -> DataError:
    return DataError(f"{path}: the results cannot be written ({getattr(error, 'strerror', None) or error}).")


def zip_results(folder: Path, out: Path) -> list[str]:
    """Write a tree of results as the zip that SoccerNet's challenge takes; return the matches in it.

    Its entries are `<league>/<season>/<match>/results_spotting.json`, without a folder above the leagues. The same
    tree gives the same bytes.

    Raises:
        DataError: the folder holds no results, or the zip cannot be written.
    """
    paths = sorted(folder.glob(f"*/*/*/{RESULTS_NAME}"))
    if not paths:
        raise DataError(
            f"{folder}: holds no <league>/<season>/<match>/{RESULTS_NAME}; give the folder above the leagues."
        )
    try:
        with zipfile.ZipFile(out, "w") as file:
            for path in paths:
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                file.writestr(entry, path.read_bytes())
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot be packed: {error.strerror}; give another path.") from error
    return [path.parent.relative_to(folder).as_posix() for path in paths]
