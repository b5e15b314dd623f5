"""Labelled halves as rows of ready-made features: found once, then streamed through every epoch.

In: `<root>/<league>/<season>/<match>/{1,2}_<file>.npy` beside `Labels-v2.json`, SoccerNet's layout. Out: halves whose
rows are read when asked for. Promise: finding reads headers alone and keeps no file open; a pass over any amount of
data holds two blocks of `limit_bytes` in memory; the same seed and epoch give the same order.

Shapes: T rows of a half, D width of a stream's rows, W windows, L rows of a window, K actions.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.actions import Action, read_actions
from engines.errors import DataError
from engines.npy import FLOATS, FeatureFile, map_rows, read_header
from engines.second import FLOAT32
from training.data.results import HALVES, LABELS_NAME
from training.data.splits import match_folder

log = logging.getLogger("touchline.training")

INT = NDArray[np.int64]
Convention = Literal["position", "gameTime"]

BLOCK_BYTES = 2**30
"""How much a block of halves holds by default."""

_ALIKE = 0.9  # a stream shorter than this share of its half is pointed out: its rate may be another


@dataclass(frozen=True, slots=True)
class FeatureStream:
    """A modality stream: columns [a, b) of `{1,2}_<file>.npy`.

    Attributes:
        name: what the model calls it.
        file: the middle of the file's name; several streams may share one.
        columns: (a, b); None for all.
        optional: in a half without the file rows are zeros; without this the half is left out.
    """

    name: str
    file: str
    columns: tuple[int, int] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        """Refuse columns that are none."""
        if self.columns is not None and not 0 <= self.columns[0] < self.columns[1]:
            raise ValueError(f"columns are {self.columns}; accepted: (a, b) with 0 <= a < b")


class Note(str):
    """A sentence on a half that is used all the same."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Where the rows of one stream of one half lie; without a file they are zeros."""

    file: FeatureFile | None
    columns: tuple[int, int]

    @property
    def width(self) -> int:
        """Width D of the stream."""
        return self.columns[1] - self.columns[0]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedHalf:
    """One half in memory.

    Attributes:
        match: folder relative to the data root.
        half: 1 or 2.
        rate: rows a second.
        actions: its labelled actions.
        rows: modality stream → float32 (T, D).
    """

    match: str
    half: int
    rate: float
    actions: tuple[Action, ...]
    rows: Mapping[str, FLOAT32]

    @property
    def length(self) -> int:
        """Number of rows T."""
        return len(next(iter(self.rows.values())))

    @property
    def nbytes(self) -> int:
        """Memory that its rows take."""
        return sum(rows.nbytes for rows in self.rows.values())

    def load(self) -> "LoadedHalf":
        """Return itself, so that halves kept in memory can be given to `blocks` again."""
        return self

    def window(self, index_WL: INT) -> dict[str, FLOAT32]:
        """Return each stream's windows (W, L, D); the index holds rows, each in [0, T)."""
        return gather([self], np.zeros(len(index_WL), np.int64), index_WL)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHalf:
    """One half on disk; nothing of it is open or mapped.

    Attributes:
        match: folder relative to the data root.
        half: 1 or 2.
        rate: rows a second.
        actions: its labelled actions.
        length: number of rows T, that of the longest stream.
        parts: modality stream → where its rows lie.
    """

    match: str
    half: int
    rate: float
    actions: tuple[Action, ...]
    length: int
    parts: Mapping[str, Part]

    @property
    def widths(self) -> dict[str, int]:
        """Modality stream → width D."""
        return {name: part.width for name, part in self.parts.items()}

    @property
    def nbytes(self) -> int:
        """Memory that its rows take once loaded."""
        return 4 * self.length * sum(self.widths.values())

    def read(self, first: int = 0, last: int | None = None) -> dict[str, FLOAT32]:
        """Return rows [first, last) of each stream, float32 (n, D), copied out of the files, which are let go.

        Args:
            first: first row, >= 0.
            last: the row after the last; None or more than T: to the end.

        Returns:
            Modality stream → rows. A stream shorter than the half goes on with its last row.

        Raises:
            DataError: a file is no longer what it was when the half was found.

        Source: padding as HMTAS's `dataset.py` pads the shorter of video and audio.
        """
        last = self.length if last is None else min(last, self.length)
        if not 0 <= first <= last:
            raise ValueError(f"rows [{first}, {last}) were asked for, of a half of {self.length}")
        mapped = {file: map_rows(file) for file in {part.file for part in self.parts.values()} if file is not None}
        rows = {}
        for name, part in self.parts.items():
            if part.file is None:
                rows[name] = np.zeros((last - first, part.width), np.float32)
            else:
                rows[name] = _copied(mapped[part.file][:, slice(*part.columns)], first, last)
        return rows

    def load(self) -> LoadedHalf:
        """Return the half with all its rows in memory."""
        return LoadedHalf(self.match, self.half, self.rate, self.actions, self.read())


def find_halves(
    root: Path,
    matches: Sequence[str],
    streams: Sequence[FeatureStream],
    rate: float,
    labels_name: str | None = LABELS_NAME,
) -> tuple[list[FeatureHalf], list[str]]:
    """Return the halves that can be read, and a sentence on each that is left out or, a `Note`, lacks something.

    A half is left out where its match has no labels, a file is missing or damaged, an array is not (T, D) or (T, 1, D)
    of floats, or its type or width is not that of the first good half. Values are not looked at.

    Args:
        root: the data's root folder, or the one whose `spotting` folder holds the leagues.
        matches: folders of the matches, relative to it (see `splits.read_split`).
        streams: the modality streams, at least one.
        rate: rows a second, the same in all streams.
        labels_name: the labels' file; None where there are none (the challenge split).

    Raises:
        DataError: nothing tells the width of an optional stream.
    """
    if not streams or len({s.name for s in streams}) < len(streams) or not rate > 0:
        raise ValueError(f"{[s.name for s in streams]} at {rate} a second: give streams of different names, a rate > 0")
    found: list[tuple[str, int, tuple[Action, ...], dict[str, FeatureFile]]] = []
    first: dict[str, FeatureFile] = {}
    problems: list[str] = []
    for match in matches:
        folder = match_folder(root, match)
        for half in HALVES:
            try:
                labelled = read_actions(folder / labels_name) if labels_name is not None else []
                files = _files(folder, half, streams, first)
            except DataError as error:
                problems.append(f"Half {half} of {match} is left out: {error}")
                continue
            first = files | first
            found.append((match, half, tuple(a for a in labelled if a.half == half), files))
    halves = []
    for match, half, actions, files in found:
        parts = {s.name: Part(files.get(s.file), _columns(s, first)) for s in streams}
        halves.append(FeatureHalf(match, half, rate, actions, max(f.rows for f in files.values()), parts))
        problems += _notes(halves[-1])
    return halves, problems


def report_left_out(problems: Sequence[str]) -> None:
    """Log each sentence of `find_halves`, and at the end how many halves are left out and how many lack something."""
    for problem in problems:
        log.warning("%s", problem)
    notes = sum(isinstance(problem, Note) for problem in problems)
    if problems:
        log.warning("Left out: %d halves; notes on halves in use: %d.", len(problems) - notes, notes)


def action_rows(half: FeatureHalf | LoadedHalf, labels: Sequence[str], convention: Convention = "position") -> INT:
    """Return the row and the label's index (K, 2) of each action of a known label, in order of time.

    Args:
        half: the half whose actions are meant; rows may lie beyond its end.
        labels: label order.
        convention: "position" takes the row of the millisecond, floor(rate · position); "gameTime" that of the whole
            second, floor(rate · floor(position)), as CALF and HMTAS do.

    Source: the SoccerNet package (`int(fps * (position / 1000))`, in this order of operations); `gameTime` in the
    datasets of CALF, NetVLAD++ and HMTAS. Differs: their minutes have two digits, ours do not wrap after 99.
    """
    if convention not in ("position", "gameTime"):
        raise ValueError(f"convention is {convention!r}; accepted: 'position', 'gameTime'")
    index = {label: i for i, label in enumerate(labels)}
    whole = convention == "gameTime"
    rows = [
        (max(0, int(half.rate * (int(action.time_s) if whole else action.time_s))), index[action.label])
        for action in half.actions
        if action.label in index
    ]
    return np.array(rows, np.int64).reshape(-1, 2)


def blocks(
    halves: Sequence[FeatureHalf | LoadedHalf], seed: int, epoch: int, limit_bytes: int = BLOCK_BYTES
) -> Iterator[list[LoadedHalf]]:
    """Yield an epoch's halves in blocks of at most `limit_bytes`, so that windows can be shuffled within a block.

    The order is drawn from seed and epoch alone: an epoch can be repeated, or training resumed at one. While a block is
    in use the next is read in a thread; a third is not begun before the caller asks for the next. A half larger than
    the limit is a block of its own. Where everything fits in one block, `[half.load() for half in halves]` can be given
    instead and nothing is read again.

    Raises:
        DataError: a file is no longer what it was when its half was found.
    """
    groups: list[list[FeatureHalf | LoadedHalf]] = []
    room = 0
    for i in np.random.default_rng([seed, epoch]).permutation(len(halves)):
        if not groups or halves[i].nbytes > room:
            groups.append([])
            room = limit_bytes
        groups[-1].append(halves[i])
        room -= halves[i].nbytes
    with ThreadPoolExecutor(1) as reader:
        coming: Future[list[LoadedHalf]] | None = None
        for group in groups:
            ready, coming = coming, reader.submit(_load, group)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def gather(block: Sequence[LoadedHalf], which_W: INT, index_WL: INT) -> dict[str, FLOAT32]:
    """Return windows of several halves: each stream's rows (W, L, D), in the order asked for.

    Args:
        block: loaded halves with the same streams, as `blocks` yields them.
        which_W: of each window, its half's place in the block.
        index_WL: its rows, each in [0, T) of its half.
    """
    lengths_W = np.array([half.length for half in block])[which_W]
    if np.any(index_WL < 0) or np.any(index_WL >= lengths_W[:, None]):
        raise ValueError("a window reaches beyond its half; clamp its rows to [0, T)")
    windows = {name: np.empty((*index_WL.shape, rows.shape[1]), np.float32) for name, rows in block[0].rows.items()}
    for name, out_WLD in windows.items():
        for out_LD, i, index_L in zip(out_WLD, which_W, index_WL, strict=True):
            block[i].rows[name].take(index_L, 0, out_LD, "clip")  # in range, as checked; "clip" needs no buffer
    return windows


def _load(group: Sequence[FeatureHalf | LoadedHalf]) -> list[LoadedHalf]:
    return [half.load() for half in group]


def _files(
    folder: Path, half: int, streams: Sequence[FeatureStream], first: Mapping[str, FeatureFile]
) -> dict[str, FeatureFile]:
    """Return a half's feature files that are there.

    Raises:
        DataError: one that has to be there is not, or does not go with the first good half's or with the streams.
    """
    files: dict[str, FeatureFile] = {}
    for stream in streams:
        path = folder / f"{half}_{stream.file}.npy"
        if stream.optional and not path.exists():
            continue
        file = files[stream.file] = files.get(stream.file) or read_header(path)
        like = first.get(stream.file, file)
        if (file.width, file.dtype) != (like.width, like.dtype):
            raise DataError(
                f"{path}: its rows are {file.width} {file.dtype}, those of {like.path} {like.width} {like.dtype}."
            )
        if stream.columns and stream.columns[1] > file.width:
            raise DataError(f"{path}: its rows are {file.width} wide, {stream.name} is columns {stream.columns} of it.")
    if not files:
        raise DataError(f"{folder}: holds none of the files {', '.join(sorted({s.file for s in streams}))}.")
    return files


def _columns(stream: FeatureStream, first: Mapping[str, FeatureFile]) -> tuple[int, int]:
    if stream.columns is not None:
        return stream.columns
    if stream.file not in first:
        raise DataError(
            f"No half has a file *_{stream.file}.npy, so the width of {stream.name} is unknown: say columns."
        )
    return 0, first[stream.file].width


def _notes(half: FeatureHalf) -> Iterator[Note]:
    """Yield what a half lacks."""
    for name, part in half.parts.items():
        where = f"Half {half.half} of {half.match}: {name}"
        if part.file is None:
            yield Note(f"{where} has no file and is zeros.")
        elif part.file.rows < _ALIKE * half.length:
            yield Note(
                f"{where} has {part.file.rows} rows of {half.length} and goes on with its last ({part.file.path})."
            )


def _copied(rows_TD: FLOATS, first: int, last: int) -> FLOAT32:
    """Return rows [first, last) as float32; beyond the end the last row stands."""
    out = np.empty((last - first, rows_TD.shape[1]), np.float32)
    there = max(0, min(last, len(rows_TD)) - first)
    out[:there] = rows_TD[first : first + there]
    out[there:] = rows_TD[-1]
    return out
