"""A window in, the scores of one second out."""

from dataclasses import dataclass

import numpy as np

from engines.bundle import Bundle
from engines.second import FLOAT32
from engines.window import Window


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the head says about one second.

    Attributes:
        index: the second.
        newest: the newest second seen.
        scores_C: float32 (C,) in [0, 1].
        displacement_C: float32 (C,), seconds from the second's middle to the action.
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
        self._labels = len(bundle.manifest.labels)

    def push(self, window: Window) -> list[Scores]:
        """Return the scores of the window's second; zero where it holds no picture."""
        if window.has_picture:
            out = self._engine.run({name: rows[None] for name, rows in window.rows_LD.items()})
            scores, displacement = out["scores"][0], out["displacement"][0]
        else:
            scores = displacement = np.zeros(self._labels, np.float32)
        return [Scores(window.epoch, window.index, window.newest, scores, displacement, window.flags)]
