"""Windows in, the scores of their rows out: of those that a window makes final, and of those that it scores early."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np

from engines.bundle import Bundle
from engines.second import FLOAT32
from engines.window import Window

AT_ONCE = 64
"""Windows given to a graph at once, where many are ready (feature files); live there is one at a time."""
_OUTPUTS = ("scores", "displacement")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the head says about one row.

    Attributes:
        index: the row, counted from the stream's start.
        newest: the newest row seen.
        look_ahead: how many rows after it the head looks at.
        scores_C: float32 (C,) in [0, 1].
        displacement_C: float32 (C,), seconds from the row's time to the action.
    """

    epoch: int
    index: int
    newest: int
    scores_C: FLOAT32
    displacement_C: FLOAT32
    flags: frozenset[str]
    look_ahead: int = 0


class Head:
    """The bundle's head. A graph that takes several windows at once (its first axis is free) is given them so."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self._engine = bundle.head
        self._nothing = np.zeros(len(manifest.labels), np.float32)
        self._whole_chunk = manifest.head.outputs == "chunk"
        *self._early, self._ahead = (round(a * manifest.rate) for a in manifest.look_aheads_s)
        first_axes = [shape[0] for shape in self._engine.inputs.values()]
        self._at_once = AT_ONCE if first_axes and all(axis is None for axis in first_axes) else 1

    def push(self, windows: Sequence[Window]) -> list[Scores]:
        """Return the scores of the windows' rows, a window after the other; zero where a row's second has no picture.

        Of one window come the rows that it makes final first, then those it scores early, by falling look-ahead.
        """
        seen = [window for window in windows if window.with_picture]
        outputs = [out for i in range(0, len(seen), self._at_once) for out in self._run(seen[i : i + self._at_once])]
        of_window = {id(window): out for window, out in zip(seen, outputs, strict=True)}
        return [s for window in windows for s in self._scores(window, of_window.get(id(window), {}))]

    def _run(self, windows: Sequence[Window]) -> list[dict[str, FLOAT32]]:
        """Return each window's outputs."""
        names = windows[0].rows_LD
        out = self._engine.run({name: np.stack([w.rows_LD[name] for w in windows]) for name in names})
        return [{name: values[i] for name, values in out.items()} for i in range(len(windows))]

    def _scores(self, window: Window, out: Mapping[str, FLOAT32]) -> Iterator[Scores]:
        for row in window.scored:
            place = row - window.first if self._whole_chunk else ...
            yield self._row(window, row, self._ahead, *(self._of(window, row, out, n, place) for n in _OUTPUTS))
        for i in reversed(range(len(self._early))):
            early = window.early[i]
            if early is not None:
                values = (self._of(window, early, out, f"early_{name}", i) for name in _OUTPUTS)
                yield self._row(window, early, self._early[i], *values)

    def _of(
        self, window: Window, row: int, out: Mapping[str, FLOAT32], output: str, place: int | EllipsisType
    ) -> FLOAT32:
        if output not in out or row not in window.with_picture:
            return self._nothing
        values: FLOAT32 = out[output][place]
        return values

    def _row(self, window: Window, row: int, ahead: int, scores_C: FLOAT32, displacement_C: FLOAT32) -> Scores:
        return Scores(window.epoch, row, window.newest, scores_C, displacement_C, window.flags, ahead)
