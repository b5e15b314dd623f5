"""A window in, the scores of the rows that it makes final out."""

from dataclasses import dataclass

import numpy as np

from engines.bundle import Bundle
from engines.second import FLOAT32
from engines.window import Window


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the head says about one row.

    Attributes:
        index: the row, counted from the stream's start.
        newest: the newest row seen.
        scores_C: float32 (C,) in [0, 1].
        displacement_C: float32 (C,), seconds from the row's time to the action.
    """

    epoch: int
    index: int
    newest: int
    scores_C: FLOAT32
    displacement_C: FLOAT32
    flags: frozenset[str]


class Head:
    """The bundle's head."""

    def __init__(self, bundle: Bundle) -> None:
        self._engine = bundle.head
        self._nothing = np.zeros(len(bundle.manifest.labels), np.float32)
        self._whole_chunk = bundle.manifest.head.outputs == "chunk"

    def push(self, window: Window) -> list[Scores]:
        """Return the scores of the window's rows; zero where a row's second holds no picture."""
        out = self._engine.run({name: x[None] for name, x in window.rows_LD.items()}) if window.with_picture else {}

        def of(row: int, output: str) -> FLOAT32:
            if output not in out or row not in window.with_picture:
                return self._nothing
            values: FLOAT32 = out[output][0, row - window.first] if self._whole_chunk else out[output][0]
            return values

        return [
            Scores(window.epoch, row, window.newest, of(row, "scores"), of(row, "displacement"), window.flags)
            for row in window.scored
        ]
