"""Actions: what really happened in a recording, as SoccerNet's `Labels-v2.json` says it.

Here, because both the live demo and training compare spots with them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import DataError


@dataclass(frozen=True, slots=True)
class Action:
    """What really happened.

    Attributes:
        label: SoccerNet's name for it.
        half: 1 or 2.
        time_s: when, seconds since the half's recording began.
        visible: whether the broadcast's pictures show it.
    """

    label: str
    half: int
    time_s: float
    visible: bool = True


def read_actions(path: Path) -> list[Action]:
    """Return the actions of a labels file, in the order of half and time.

    Raises:
        DataError: it cannot be read or is not in SoccerNet's format.
    """
    try:
        actions = [_action(item) for item in json.loads(path.read_text(encoding="utf-8"))["annotations"]]
    except OSError as error:
        raise DataError(f"{path}: the labels cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: is not in SoccerNet's Labels-v2 format ({error!r}).") from error
    return sorted(actions, key=lambda action: (action.half, action.time_s, action.label))


def _action(item: dict[str, Any]) -> Action:
    """Return an annotation's action; `position` (ms) counts, `gameTime` only where it is missing."""
    half, clock = item["gameTime"].split(" - ")
    minutes, seconds = clock.split(":")
    time_s = int(item["position"]) / 1000 if item.get("position") else int(minutes) * 60.0 + int(seconds)
    return Action(str(item["label"]), int(half), time_s, item.get("visibility") != "not shown")
