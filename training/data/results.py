"""What happened and what was predicted, half by half: as arrays, and in SoccerNet's files.

In: `Labels-v2.json` and `results_spotting.json`, alone or in SoccerNet's tree `<root>/<league>/<season>/<match>/`. Out:
`Truth` and `Predictions`. Promise: what the SoccerNet package reads is read alike, in the file's order; what it would
stumble over is a DataError of one sentence. Results are written by `streamer.files.results`.
"""

import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from engines.actions import Action
from engines.errors import DataError
from engines.labels import SOCCERNET_LABELS

RESULTS_NAME = "results_spotting.json"
LABELS_NAME = "Labels-v2.json"
HALVES = (1, 2)
HALF_S = 120 * 60  # the longest half SoccerNet's metric knows

INT = NDArray[np.int64]
FLOAT = NDArray[np.float64]
BOOL = NDArray[np.bool_]

_FILE_NAMES = {"predictions": RESULTS_NAME, "annotations": LABELS_NAME}
Clock = Literal["position", "gameTime"]
"""Where an action's time is read: in milliseconds, or from the clock's whole seconds."""

_FAR_MS = 10**12  # everything later than HALF_S is equal to the metric; this fits into an int64
_V1_LABELS = ("card", "subs", "soccer")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What happened in one half: N actions in the order of their file.

    Attributes:
        positions_ms_N: int, milliseconds since the half's start (SoccerNet's `position`).
        labels_N: int, index into the labels.
        visible_N: bool, false where the broadcast did not show the action.
    """

    positions_ms_N: INT
    labels_N: INT
    visible_N: BOOL

    @classmethod
    def of(cls, actions: Iterable[Action], labels: Sequence[str] = SOCCERNET_LABELS) -> Self:
        """Return the truth made of the actions of one half; actions of other labels are left out."""
        index = {label: i for i, label in enumerate(labels)}
        return cls._of_rows((round(a.time_s * 1000), index[a.label], a.visible) for a in actions if a.label in index)

    @classmethod
    def _of_rows(cls, rows: Iterable[tuple[int, int, bool]]) -> Self:
        table = np.array(list(rows), np.int64).reshape(-1, 3)
        return cls(table[:, 0].copy(), table[:, 1].copy(), table[:, 2] > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was predicted for one half: N predictions in the order of their file.

    Attributes:
        positions_ms_N: int, milliseconds since the half's start.
        labels_N: int, index into the labels.
        confidences_N: float, at best in [0, 1]; to the metric, one below 0 is no prediction.
    """

    positions_ms_N: INT
    labels_N: INT
    confidences_N: FLOAT

    @classmethod
    def of(cls, spots: Iterable[tuple[str, float, float]], labels: Sequence[str] = SOCCERNET_LABELS) -> Self:
        """Return predictions made of (label, time in seconds, confidence); those of other labels are left out."""
        index = {label: i for i, label in enumerate(labels)}
        return cls._of_rows((round(time_s * 1000), index[label], c) for label, time_s, c in spots if label in index)

    @classmethod
    def _of_rows(cls, rows: Iterable[tuple[int, int, float]]) -> Self:
        table = np.array(list(rows), np.float64).reshape(-1, 3)  # whole numbers up to 2^53 stay exact
        return cls(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].copy())


def find_matches(root: Path, name: str) -> list[str]:
    """Return the matches, as `<league>/<season>/<match>` below `root`, that have a file of this name, in order.

    Args:
        root: a folder, or a zip of one.
        name: the file's name.

    Raises:
        DataError: root is a file, and no zip.
    """
    if root.is_dir():
        found = [path.parent.relative_to(root) for path in root.glob(f"*/*/*/{name}") if path.is_file()]
        return sorted(path.as_posix() for path in found)
    with _opened_zip(root) as file:
        entries = [PurePosixPath(entry) for entry in file.namelist()]
    return sorted(e.parent.as_posix() for e in entries if e.name == name and len(e.parts) == 4)


def read_truth(
    path: Path, labels: Sequence[str] = SOCCERNET_LABELS, version: int = 2, clock: Clock = "position"
) -> tuple[dict[int, Truth], Counter[str]]:
    """Return the actions of both halves, as SoccerNet's metric reads them, and how many were left out by label.

    Where `position` is missing, `gameTime` counts, of whose minutes the metric reads two digits ("105:30" is 5:30).
    CALF's and HMTAS's own evaluations read `gameTime` alone: whole seconds, up to a second early. Training
    reads labels with `training.data.soccernet.read_actions`, which takes all digits.

    Args:
        path: a `Labels-v2.json`, or another file of its form.
        labels: the labels to read; actions of other labels are left out.
        version: 1 for SoccerNet-v1's `Labels.json` ("r-card", "substitution-in", …), with labels card, subs, soccer.
        clock: "gameTime" to read that even where there is a `position`.

    Raises:
        DataError: the file cannot be read, or is of another form.
    """
    index = {label: i for i, label in enumerate(labels)}
    rows: dict[int, list[tuple[int, int, bool]]] = {half: [] for half in HALVES}
    left_out: Counter[str] = Counter()
    for where, item in _items(path, "annotations"):
        game_time = _text(item, "gameTime", where)
        half = _half(game_time.strip()[:1], where)
        by_position = clock == "position" and "position" in item
        position_ms = _position(item, where) if by_position else _clock_ms(game_time, where)
        label = _text(item, "label", where)
        known = label if version == 2 else next((v1 for v1 in _V1_LABELS if v1 in label), label)
        if known in index:
            rows[half].append((position_ms, index[known], item.get("visibility") != "not shown"))
        else:
            left_out[label] += 1
    return {half: Truth._of_rows(rows[half]) for half in HALVES}, left_out


def read_predictions(
    path: Path, labels: Sequence[str] = SOCCERNET_LABELS, match: str | None = None
) -> tuple[dict[int, Predictions], Counter[str]]:
    """Return the predictions for both halves, and how many were left out by label.

    Args:
        path: a `results_spotting.json`; of each prediction `label`, `position`, `half` and `confidence` are read.
        labels: the labels to read; predictions of other labels are left out.
        match: of a zip, the match to read, as `find_matches` names it.

    Raises:
        DataError: the file cannot be read, or is of another form.
    """
    index = {label: i for i, label in enumerate(labels)}
    entry = None if match is None else f"{match}/{RESULTS_NAME}"
    rows: dict[int, list[tuple[int, int, float]]] = {half: [] for half in HALVES}
    left_out: Counter[str] = Counter()
    for where, item in _items(path, "predictions", entry):
        half = _half(_value(item, "half", where), where)
        label = _text(item, "label", where)
        position_ms, confidence = _position(item, where), _confidence(item, where)
        if label in index:
            rows[half].append((position_ms, index[label], confidence))
        else:
            left_out[label] += 1
    return {half: Predictions._of_rows(rows[half]) for half in HALVES}, left_out


def _items(path: Path, key: str, entry: str | None = None) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each item of a file's list, and the words that say where it stands."""
    form = f'give an object with a list "{key}", as SoccerNet\'s {_FILE_NAMES[key]} is'
    file = str(path) if entry is None else f"{path}: {entry}"
    try:
        content = json.loads(path.read_bytes() if entry is None else _unzipped(path, entry))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give a file that exists.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON ({error}); {form}.") from error
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise DataError(f'{file}: holds no list "{key}"; {form}.')
    for i, item in enumerate(items):
        where = f"{file}: {key}[{i}]"
        if not isinstance(item, dict):
            raise DataError(f"{where} is not an object; {form}.")
        yield where, item


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give a file that exists.") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: is not a readable zip ({error}); pack it again.") from error


def _unzipped(path: Path, entry: str) -> bytes:
    with _opened_zip(path) as file:
        try:
            return file.read(entry)
        except KeyError as error:
            raise DataError(f"{path}: has no entry {entry}; pack it again.") from error


def _value(item: dict[str, object], key: str, where: str) -> object:
    if key not in item:
        raise DataError(f'{where} has no "{key}"; add it.')
    return item[key]


def _text(item: dict[str, object], key: str, where: str) -> str:
    value = _value(item, key, where)
    if not isinstance(value, str):
        raise DataError(f'{where} has "{key}" {value!r}; give text.')
    return value


def _half(value: object, where: str) -> int:
    half = _whole(value)
    if half not in HALVES:
        raise DataError(f"{where} is of half {value!r}; a match has the halves 1 and 2.")
    return half


def _position(item: dict[str, object], where: str) -> int:
    value = _value(item, "position", where)
    position_ms = _whole(value)
    if position_ms is None:
        raise DataError(f'{where} has "position" {value!r}; give whole milliseconds.')
    if position_ms < -HALF_S * 1000:
        raise DataError(f'{where} has "position" {value!r}, over {HALF_S // 60} minutes before its half; correct it.')
    return min(position_ms, _FAR_MS)


def _clock_ms(clock: str, where: str) -> int:
    minutes, _, seconds = clock.partition(" - ")[2].partition(":")
    if not (minutes.isdecimal() and seconds.isdecimal()):
        raise DataError(f'{where} has no "position", and "gameTime" {clock!r}; give it as "1 - 05:30".')
    return 1000 * (60 * int(minutes[-2:]) + int(seconds))


def _confidence(item: dict[str, object], where: str) -> float:
    value = _value(item, "confidence", where)
    try:
        confidence = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        confidence = math.nan
    if math.isnan(confidence):
        raise DataError(f'{where} has "confidence" {value!r}; give a number, at best from 0 to 1.')
    return confidence


def _whole(value: object) -> int | None:
    try:
        return None if isinstance(value, bool) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
