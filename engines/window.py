"""Embedding rows in, windows out: the last L rows of each modality stream.

Promise: every second of an epoch gets exactly one window, in order, as soon as its look-ahead is there. Rows that are
missing (before the epoch, after it, or shed) are zeros. A window never spans two epochs.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engines.frontend import Embeddings
from engines.second import FLOAT32, GAP


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the head sees to score one second.

    Attributes:
        index: the second that is scored.
        newest: the newest second seen when this was formed.
        rows_LD: modality stream → float32 (L, D), oldest first.
        has_picture: whether the scored second holds any picture.
        flags: of all seconds in the window.
    """

    epoch: int
    index: int
    newest: int
    rows_LD: Mapping[str, FLOAT32]
    has_picture: bool
    flags: frozenset[str]


class RollingWindow:
    """Keeps the last rows and forms windows.

    Args:
        widths: modality stream → D.
        rows: L.
        look_ahead: how many of the L rows lie after the scored one.
    """

    def __init__(self, widths: Mapping[str, int], rows: int, look_ahead: int) -> None:
        self._widths, self._look_ahead = dict(widths), look_ahead
        self._recent: deque[Embeddings] = deque(maxlen=rows)
        self._epoch = -1
        self._newest = -1
        self._clear(epoch=-1, first=0)

    def push(self, embeddings: Embeddings) -> list[Window]:
        """Take one second's rows; return the windows that are now complete."""
        done: list[Window] = []
        if embeddings.epoch != self._epoch:
            done += self.flush()
            self._clear(embeddings.epoch, first=embeddings.index)
        for missing in range(self._newest + 1, embeddings.index):
            done += self._append(self._empty(missing, frozenset({GAP})), newest=embeddings.index)
        return done + self._append(embeddings)

    def flush(self) -> list[Window]:
        """End the epoch; return the windows of its last seconds, whose look-ahead will never come."""
        last, done = self._newest, []
        for index in range(last + 1, last + 1 + self._look_ahead):
            done += self._append(self._empty(index, frozenset()), newest=last)
        self._clear(epoch=-1, first=0)
        return done

    def _clear(self, epoch: int, first: int) -> None:
        self._epoch, self._first, self._newest = epoch, first, first - 1
        assert self._recent.maxlen is not None
        self._recent.clear()
        before = range(first - self._recent.maxlen, first)
        self._recent.extend(self._empty(index, frozenset()) for index in before)

    def _empty(self, index: int, flags: frozenset[str]) -> Embeddings:
        rows = {name: np.zeros(width, np.float32) for name, width in self._widths.items()}
        return Embeddings(self._epoch, index, rows, has_picture=False, flags=flags)

    def _append(self, embeddings: Embeddings, newest: int | None = None) -> list[Window]:
        self._recent.append(embeddings)
        self._newest = embeddings.index
        scored = embeddings.index - self._look_ahead
        if scored < self._first:
            return []
        return [
            Window(
                epoch=self._epoch,
                index=scored,
                newest=embeddings.index if newest is None else newest,
                rows_LD={name: np.stack([e.rows[name] for e in self._recent]) for name in self._widths},
                has_picture=self._recent[-1 - self._look_ahead].has_picture,
                flags=frozenset().union(*(e.flags for e in self._recent)),
            )
        ]
