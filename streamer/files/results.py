"""`.json`: SoccerNet's `results_spotting.json`, of one match or a tree of them."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from engines.decider import Spot
from engines.errors import DataError
from streamer.files.writing import WholeFile, write_whole

RESULTS_NAME = "results_spotting.json"


def results_file(path: Path, stream: str) -> WholeFile:
    """Return a file in SoccerNet's format."""
    return WholeFile(path, lambda _info, spots: results_text(spots, stream))


def write_results(path: Path, spots: Sequence[Spot], name: str) -> None:
    """Write spots in SoccerNet's format, in the order of half and time.

    Args:
        path: the file; a part file beside it is renamed when complete.
        spots: words of all halves; only confirmed ones are written.
        name: goes into `UrlLocal`.

    Raises:
        DataError: the file cannot be written.
    """
    write_whole(path, results_text(spots, name))


def results_text(spots: Sequence[Spot], name: str) -> str:
    """Return what write_results writes."""
    confirmed = [spot for spot in spots if spot.state == "confirmed"]
    ordered = sorted(confirmed, key=lambda s: (s.half, s.media_time, s.label))
    content = {"UrlLocal": name, "predictions": [_prediction(spot) for spot in ordered]}
    return json.dumps(content, indent=1) + "\n"


def _prediction(spot: Spot) -> dict[str, str]:
    minutes, seconds = divmod(int(spot.media_time), 60)
    return {
        "gameTime": f"{spot.half} - {minutes:02d}:{seconds:02d}",
        "label": spot.label,
        "position": str(round(spot.media_time * 1000)),
        "half": str(spot.half),
        "confidence": f"{spot.confidence:.6f}",
    }


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
