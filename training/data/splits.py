"""Which matches are for training, for choosing and for measuring, without a configuration file.

In: a data root as SoccerNet lays it out, and a split's name. Out: match folders relative to the root, in the order of
the list, as far as they are on disk.
"""

import json
import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePath

from engines.errors import DataError, UsageError

log = logging.getLogger("touchline.training")

SOCCERNET_SPLITS = ("train", "valid", "test", "challenge")
"""The splits that SoccerNet defines: 300, 100, 100 and 50 matches; the challenge has no public labels."""

TASK_FOLDER = "spotting"
"""Where SoccerNet's `downloadDataTask("spotting")` puts the leagues, below the root."""

_PROTOCOLS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "P1": {"train": ("train",), "valid": ("valid",), "test": ("test",)},
    "P2": {"train": ("train", "valid", "test"), "valid": (), "test": ()},
}
_NAMED = 3  # absent matches named in the note


def protocol(name: str) -> dict[str, tuple[str, ...]]:
    """Return which splits are trained on ("train"), stop the training ("valid") and measure it ("test").

    P1 keeps the three apart: for choosing and comparing models. P2 trains on every labelled match, the model as P1
    chose it, for the challenge: nothing labelled is left, so "valid" and "test" are empty and a warning says so.

    Raises:
        UsageError: there is no such protocol.

    Source: HMTAS thesis, section 5.1.
    """
    if name not in _PROTOCOLS:
        raise UsageError(f"There is no protocol {name!r}; accepted: {', '.join(_PROTOCOLS)}.")
    if not _PROTOCOLS[name]["test"]:
        log.warning("%s trains on every labelled match: a score on any of them is no honest test.", name)
    return dict(_PROTOCOLS[name])


def match_folder(root: Path, match: str) -> Path:
    """Return a match's folder: below the root, or below its `spotting` folder where the root has no such match."""
    folder, of_task = root / match, root / TASK_FOLDER / match
    return of_task if of_task.is_dir() and not folder.is_dir() else folder


def read_split(root: Path, split: str) -> list[str]:
    """Return the matches of a split that are on disk, relative to the root; a warning says how many are not.

    The list is `<root>/<split>.txt` (a match folder a line), else `<root>/SoccerNetGames<Split>.json`
    ({league: {season: [match]}}), else the one inside the SoccerNet package.

    Raises:
        DataError: there is no list, it cannot be read, or none of its matches is on disk.
    """
    listed, source = _listed(root, split)
    absent = [match for match in listed if not match_folder(root, match).is_dir()]
    if not listed:
        raise DataError(f"{source} lists no match.")
    if len(absent) == len(listed):
        raise DataError(f"{source} lists {len(listed)} matches, none of which is in {root}.")
    if absent:
        names = "; ".join(absent[:_NAMED]) + ("; …" if len(absent) > _NAMED else "")
        log.warning("%s lists %d matches; %d are not in %s: %s", source, len(listed), len(absent), root, names)
    missing = set(absent)
    return [match for match in listed if match not in missing]


def _listed(root: Path, split: str) -> tuple[list[str], str]:
    """Return the matches of a split and the name of the list they stand in."""
    text, games = root / f"{split}.txt", root / f"SoccerNetGames{split.capitalize()}.json"
    for path, matches_in in ((text, _matches_in_text), (games, _matches_in_json)):
        try:
            return matches_in(path.read_text(encoding="utf-8")), str(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{path}: the list of the {split} split cannot be read: {error.strerror}.") from error
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: is not a list of matches ({error!r}).") from error
    package = _from_package(split)
    if package is None:
        raise DataError(
            f"{root}: there is no list of the {split} split: neither {text.name} nor {games.name} is there, and the "
            "SoccerNet package (pip install SoccerNet) offers none."
        )
    return package, "The SoccerNet package"


def _matches_in_text(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _matches_in_json(text: str) -> list[str]:
    leagues = json.loads(text)
    return [
        f"{league}/{season}/{match}"
        for league, seasons in leagues.items()
        for season, matches in seasons.items()
        for match in matches
    ]


def _from_package(split: str) -> list[str] | None:
    """Return a split as the SoccerNet package lists it; None without the package or for another split."""
    if split not in SOCCERNET_SPLITS:
        return None
    try:
        utils = import_module("SoccerNet.utils")
    except ImportError:
        return None
    return [PurePath(match).as_posix() for match in utils.getListGames([split])]
