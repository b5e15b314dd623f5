"""SoccerNet's `results_spotting.json`, written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path

from engines.decider import Spot
from engines.errors import DataError


def write_results(path: Path, spots: Sequence[Spot], name: str) -> None:
    """Write spots in SoccerNet's format, in the order of half and time.

    Args:
        path: the file; a part file beside it is renamed when complete.
        spots: of all halves.
        name: goes into `UrlLocal`.

    Raises:
        DataError: the file cannot be written.
    """
    ordered = sorted(spots, key=lambda s: (s.half, s.media_time, s.label))
    content = {"UrlLocal": name, "predictions": [_prediction(spot) for spot in ordered]}
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: the results cannot be written ({reason}).") from error


def _prediction(spot: Spot) -> dict[str, str]:
    minutes, seconds = divmod(int(spot.media_time), 60)
    return {
        "gameTime": f"{spot.half} - {minutes:02d}:{seconds:02d}",
        "label": spot.label,
        "position": str(round(spot.media_time * 1000)),
        "half": str(spot.half),
        "confidence": f"{spot.confidence:.6f}",
    }
