"""Embedding rows in, windows out: the last L rows of each modality stream.

Promise: every row of an epoch is made final by one window, in order, as soon as its look-ahead is there. A window never
spans two epochs. Rows that are missing (shed seconds) are zeros; what lies beyond an epoch's ends is as the bundle's
`edges` says: zeros, copies of the nearest row, or nothing, since the windows stay inside. Only with `inside` does the
last window score rows again that the one before it has scored.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engines.bundle import Manifest
from engines.frontend import Embeddings
from engines.second import FLOAT32, GAP


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the head sees to score some rows.

    Attributes:
        first: the window's first row, counted from the stream's start; may lie before the epoch.
        scored: the rows that this window makes final.
        newest: the newest row seen when this was formed.
        rows_LD: modality stream → float32 (L, D), oldest first.
        with_picture: the scored rows whose second holds any picture.
        flags: of all seconds in the window.
    """

    epoch: int
    first: int
    scored: range
    newest: int
    rows_LD: Mapping[str, FLOAT32]
    with_picture: frozenset[int]
    flags: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    index: int
    values: Mapping[str, FLOAT32]
    has_picture: bool
    flags: frozenset[str]


class RollingWindow:
    """Keeps the last rows and forms windows; widths, rows, rate, stride, look-ahead and edges are the manifest's."""

    def __init__(self, manifest: Manifest) -> None:
        head = manifest.head
        self._rate, self._edges = manifest.rate, head.edges
        self._ahead = round(head.look_ahead_s * manifest.rate)
        self._length, self._stride = head.rows, head.window_stride_rows
        self._zeros = {s.name: np.zeros(s.width, np.float32) for s in manifest.streams}
        self._recent: deque[_Row] = deque(maxlen=head.rows)
        self._epoch = -1
        self._start = self._next = self._final = 0

    def push(self, embeddings: Embeddings) -> list[Window]:
        """Take one second's rows; return the windows that are now complete."""
        done: list[Window] = []
        first = embeddings.index * self._rate
        rows = [
            _Row(
                first + i, {name: x[i] for name, x in embeddings.rows.items()}, embeddings.has_picture, embeddings.flags
            )
            for i in range(len(next(iter(embeddings.rows.values()))))
        ]
        if embeddings.epoch != self._epoch:
            done += self.flush()
            self._begin(embeddings.epoch, rows[0])
        newest = rows[-1].index
        missing = [_Row(index, self._zeros, False, frozenset({GAP})) for index in range(self._next, first)]
        return done + [window for row in missing + rows for window in self._append(row, newest)]

    def flush(self) -> list[Window]:
        """End the epoch; return the windows of its last rows, whose look-ahead will never come."""
        if not self._recent or self._next == self._start:
            return []
        end, after = self._next, self._recent[-1].values if self._edges == "repeat" else self._zeros
        done: list[Window] = []
        if self._edges == "inside":
            while self._next < self._start + self._length:  # shorter than a window
                self._recent.append(_Row(self._next, after, False, frozenset()))
                self._next += 1
            first = self._next - self._length
            behind = self._length - self._ahead - self._stride if first > self._start else 0
            done = [self._window(range(first + behind, end), end - 1)]
        while self._final < end:
            done += self._append(_Row(self._next, after, False, frozenset()), end - 1, end)
        self._recent.clear()
        self._epoch = -1
        return done

    def _begin(self, epoch: int, row: _Row) -> None:
        self._epoch, self._start, self._next, self._final = epoch, row.index, row.index, row.index
        before = row.values if self._edges == "repeat" else self._zeros
        self._recent.clear()
        hidden = range(row.index - self._length, row.index)
        self._recent.extend(_Row(index, before, False, frozenset()) for index in hidden)

    def _append(self, row: _Row, newest: int, end: int | None = None) -> list[Window]:
        """Take one row; return the window that ends with it, if one does; `end` is where the epoch ended."""
        self._recent.append(row)
        self._next = row.index + 1
        first = self._next - self._length
        if (first - self._start) % self._stride or (self._edges == "inside" and first < self._start):
            return []
        final = self._next - self._ahead if end is None else min(self._next - self._ahead, end)
        if final <= self._final:
            return []
        return [self._window(range(self._final, final), newest)]

    def _window(self, scored: range, newest: int) -> Window:
        self._final = scored.stop
        return Window(
            epoch=self._epoch,
            first=self._recent[0].index,
            scored=scored,
            newest=newest,
            rows_LD={name: np.stack([row.values[name] for row in self._recent]) for name in self._zeros},
            with_picture=frozenset(row.index for row in self._recent if row.has_picture and row.index in scored),
            flags=frozenset().union(*(row.flags for row in self._recent)),
        )
