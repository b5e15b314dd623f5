"""What was said when: the words of `touchline replay`, `live` and `watch --json`, a JSON object a line.

In: such a file, alone or as `<root>/<league>/<season>/<match>/spots.jsonl`. Out: a `History` a half: the confirmed
spots with the time of their word (`Said`), and those that were provisional first (`Provisional`). Promise: a word that
came twice counts once, in whatever order they came; what is no word, or cannot follow the last one of its spot, is a
DataError of one sentence.

Of a word only what is needed here is read; the whole payload is `streamer.payload`'s. Feeds of others fit too, if they
say these fields, and they may retract what they confirmed: touchline never does.

Axis suffixes: N confirmed spots, M spots that were provisional first.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.errors import DataError
from engines.labels import SOCCERNET_LABELS
from training.data.results import BOOL, FLOAT, HALVES, INT, Predictions

WORDS_NAME = "spots.jsonl"
SaidClock = Literal["media", "wall"]
"""When a word was said: by media time alone, exact on any machine; or with the compute and publish time it took."""
NEVER = -1

_FAR_S = 1e9
_NEXT: Mapping[str, tuple[str, ...]] = {
    "provisional": ("provisional", "confirmed", "retracted"),
    "confirmed": ("retracted",),
    "retracted": (),
}


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """The N confirmed spots of one half, in the order of their positions where they are read from a file.

    Attributes:
        positions_ms_N: int, milliseconds since the half's start.
        labels_N: int, index into the labels.
        confidences_N: float in [0, 1].
        said_ms_N: int, when the confirmed word was said, on the clock of the positions.
        retracted_ms_N: int, when it was taken back; -1 for never.
    """

    positions_ms_N: INT
    labels_N: INT
    confidences_N: FLOAT
    said_ms_N: INT
    retracted_ms_N: INT

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, float, int, int]]) -> Self:
        """Return the spots of such rows: position, label, confidence, said, retracted."""
        table = np.array(list(rows), np.float64).reshape(-1, 5)  # whole numbers up to 2^53 stay exact
        positions, labels, said, retracted = (table[:, i].astype(np.int64) for i in (0, 1, 3, 4))
        return cls(positions, labels, table[:, 2].copy(), said, retracted)

    @property
    def stands_N(self) -> BOOL:
        """Which were never taken back."""
        return np.equal(self.retracted_ms_N, NEVER)

    @property
    def final(self) -> Predictions:
        """What stood at the end: the spots that the metric without a deadline judges."""
        return self.chosen(self.stands_N)

    def chosen(self, rows: BOOL | INT) -> Predictions:
        """Return some of the spots as predictions, in their order."""
        return Predictions(self.positions_ms_N[rows], self.labels_N[rows], self.confidences_N[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Provisional:
    """The M spots of one half that were said provisionally before anything else.

    Attributes:
        positions_ms_M: int, where the first provisional word put it.
        said_ms_M: int, when that word was said.
        spots_M: int, its row in `Said`; -1 if it was never confirmed.
        retracted_M: bool, whether it was retracted without ever having been confirmed.
    """

    positions_ms_M: INT
    said_ms_M: INT
    spots_M: INT
    retracted_M: BOOL


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """All that was said in one half.

    Attributes:
        said: the confirmed spots.
        revisions_N: int, the revision that confirmed each: 1 if its first word did.
        provisional: those that were provisional first.
    """

    said: Said
    revisions_N: INT
    provisional: Provisional


class _Latency(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    compute: float | None = None


class Word(BaseModel):
    """One word, as far as it matters for judging; other fields are passed over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    id: Annotated[str, Field(min_length=1)]
    stream: str = ""
    half: Literal[1, 2]
    label: Annotated[str, Field(min_length=1)]
    media_time: Annotated[float, Field(ge=0, le=_FAR_S)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    state: Literal["provisional", "confirmed", "retracted"]
    revision: Annotated[int, Field(ge=1)]
    emitted_at: Annotated[float, Field(ge=0, le=_FAR_S)]
    latency: _Latency = _Latency()
    publish: Annotated[float, Field(ge=-_FAR_S, le=_FAR_S)] = 0.0

    @property
    def position_ms(self) -> int:
        """Where it puts the spot, as `streamer.files.results` writes it."""
        return round(self.media_time * 1000)

    def said_ms(self, clock: SaidClock) -> int:
        """Return when it was said: at the end of the newest second seen; on the wall clock when it had arrived."""
        if clock == "media":
            return round(self.emitted_at * 1000)
        return max(round((self.emitted_at + (self.latency.compute or 0.0) + self.publish) * 1000), 0)


class _Life(NamedTuple):
    """The words of one spot that matter: its first if provisional, and its final ones."""

    first: Word | None
    confirmed: Word | None
    retracted: Word | None


def read_words(
    path: Path, labels: Sequence[str] = SOCCERNET_LABELS, clock: SaidClock = "media"
) -> tuple[dict[int, History], Counter[str]]:
    """Return what was said in both halves, and how many spots were left out by label.

    Args:
        path: a word a line, as JSON.
        labels: the labels to read; spots of other labels are left out.
        clock: which clock says when a word was said.

    Raises:
        DataError: the file cannot be read, a line is no word, a spot's words contradict each other, or the wall clock
            is asked for and a word does not say its compute time.
    """
    index = {label: i for i, label in enumerate(labels)}
    lives: dict[int, dict[str, dict[int, tuple[str, Word]]]] = {half: {} for half in HALVES}
    left_out: set[tuple[str, int, str]] = set()
    streams: set[str] = set()
    for where, word in _words(path):
        streams.add(word.stream)
        if len(streams) > 1:
            raise DataError(
                f"{where} is of another stream than those before it; give the words of one (watch --stream)."
            )
        if clock == "wall" and word.latency.compute is None:
            raise DataError(f"{where} does not say its latency.compute; judge these words with --said media.")
        if word.label in index:
            lives[word.half].setdefault(word.id, {}).setdefault(word.revision, (where, word))
        else:
            left_out.add((word.label, word.half, word.id))
    found = {half: _history([_life(words) for words in lives[half].values()], index, clock) for half in HALVES}
    return found, Counter(label for label, _, _ in left_out)


def _words(path: Path) -> Iterator[tuple[str, Word]]:
    """Yield each word of a file, and the words that say where it stands."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give a file that exists.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}: line {number}"
            try:
                yield where, Word.model_validate_json(line)
            except ValidationError as error:
                raise DataError(_complaint(path, lines, where, error)) from error


def _complaint(path: Path, lines: Sequence[bytes], where: str, error: ValidationError) -> str:
    advice = "give the JSON lines of touchline replay or watch --json"
    if _holds_results(b"\n".join(lines)):
        return f"{path}: does not say when its spots were said; {advice}."
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{where} is not a spot: {field + ': ' if field else ''}{first['msg']}; {advice}."


def _holds_results(text: bytes) -> bool:
    """Return whether this is a `results_spotting.json`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "predictions" in content


def _life(words: Mapping[int, tuple[str, Word]]) -> _Life:
    """Return a spot's life, from its words by revision."""
    last: Word | None = None
    by_state: dict[str, Word] = {}
    for revision in sorted(words):
        where, word = words[revision]
        if last is not None and word.state not in _NEXT[last.state]:
            raise DataError(
                f"{where} makes spot {word.id} {word.state} after revision {last.revision} had {last.state} it; give "
                "each spot one final word."
            )
        by_state.setdefault(word.state, word)
        last = word
    return _Life(*(by_state.get(state) for state in _NEXT))


def _history(lives: Sequence[_Life], index: Mapping[str, int], clock: SaidClock) -> History:
    """Return the arrays of a half's spots."""
    spots = [(life, life.confirmed) for life in lives if life.confirmed is not None]
    spots.sort(key=lambda spot: spot[1].position_ms)  # as results_spotting.json has them
    row_of = {word.id: row for row, (_, word) in enumerate(spots)}
    drafts = [(life, life.first) for life in lives if life.first is not None]
    retracted = [life.retracted.said_ms(clock) if life.retracted is not None else NEVER for life, _ in spots]
    return History(
        Said.of(
            (word.position_ms, index[word.label], word.confidence, word.said_ms(clock), back)
            for (_, word), back in zip(spots, retracted, strict=True)
        ),
        np.array([word.revision for _, word in spots], np.int64),
        Provisional(
            np.array([word.position_ms for _, word in drafts], np.int64),
            np.array([word.said_ms(clock) for _, word in drafts], np.int64),
            np.array([row_of.get(word.id, NEVER) for _, word in drafts], np.int64),
            np.array([life.confirmed is None and life.retracted is not None for life, _ in drafts], bool),
        ),
    )
