"""Embedding rows in, windows out: the last L rows of each modality stream.

Promise: every row of an epoch is made final by one window, in order, as soon as its look-ahead is there. A window never
spans two epochs. Rows that are missing (shed seconds) are zeros; what lies beyond an epoch's ends is as the bundle's
`edges` says: zeros, copies of the nearest row, or nothing, since the windows stay inside. Only with `inside` does the
last window score rows again that the one before it has scored. Where the bundle has early look-aheads, every row is
also scored once at each of them.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.bundle import Manifest
from engines.frontend import Embeddings
from engines.second import FLOAT32, FORCED, GAP


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the head sees to score some rows.

    Attributes:
        first: the window's first row, counted from the stream's start; may lie before the epoch.
        scored: the rows that this window makes final.
        early: for each early look-ahead the row that this window scores with it, if there is one.
        newest: the newest row seen when this was formed.
        rows_LD: modality stream → float32 (L, D), oldest first.
        with_picture: the rows it scores whose second holds any picture.
        flags: of all seconds in the window.
    """

    epoch: int
    first: int
    scored: range
    newest: int
    rows_LD: Mapping[str, FLOAT32]
    with_picture: frozenset[int]
    flags: frozenset[str]
    early: tuple[int | None, ...] = ()


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
        self._early_ahead = tuple(round(a * manifest.rate) for a in head.early_look_ahead_s)
        self._zeros = {s.name: np.zeros(s.width, np.float32) for s in manifest.streams}
        self._recent: deque[_Row] = deque(maxlen=head.rows)
        self._epoch = -1
        self._start = self._next = self._final = 0
        self._next_early = [0] * len(self._early_ahead)

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
        for index in range(self._next, first):  # as if its second had come, empty
            done += self._append(self._missing(index, GAP), index // self._rate * self._rate + self._rate - 1)
        return done + [window for row in rows for window in self._append(row, rows[-1].index)]

    def expire(self, last: Sequence[int]) -> list[Window]:
        """Return windows for rows that wait for their look-ahead, or for the stride, without it: zeros instead.

        What comes later of those seconds counts for the rows after `last`, and no more for these.

        Args:
            last: for each look-ahead, rising, the last row that cannot wait.
        """
        if not self._recent or self._next == self._start:
            return []
        recent, following = self._recent.copy(), self._next
        ends = [min(row + 1, following) for row in last]
        made_up = max(end + ahead for end, ahead in zip(ends, (*self._early_ahead, self._ahead), strict=True))
        done = self._complete(following - 1, ends, hurried=True)
        while self._next < made_up:
            self._take(self._missing(self._next, GAP, FORCED))
            done += self._complete(following - 1, ends, hurried=True)
        self._recent, self._next = recent, following
        return done

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
            self._take(_Row(self._next, after, False, frozenset()))
            done += self._complete(end - 1, [end] * (1 + len(self._early_ahead)))
        self._recent.clear()
        self._epoch = -1
        return done

    def _begin(self, epoch: int, row: _Row) -> None:
        self._epoch, self._start, self._next, self._final = epoch, row.index, row.index, row.index
        self._next_early = [row.index] * len(self._early_ahead)
        before = row.values if self._edges == "repeat" else self._zeros
        self._recent.clear()
        hidden = range(row.index - self._length, row.index)
        self._recent.extend(_Row(index, before, False, frozenset()) for index in hidden)

    def _missing(self, index: int, *flags: str) -> _Row:
        return _Row(index, self._zeros, False, frozenset(flags))

    def _append(self, row: _Row, newest: int) -> list[Window]:
        """Take the next row; return the window that ends with it, if one does."""
        self._take(row)
        return self._complete(newest)

    def _take(self, row: _Row) -> None:
        self._recent.append(row)
        self._next = row.index + 1

    def _complete(self, newest: int, ends: Sequence[int] | None = None, *, hurried: bool = False) -> list[Window]:
        """Return the window of the last rows, if it scores any.

        Args:
            newest: the newest row seen.
            ends: for each look-ahead, rising: score no row from here on.
            hurried: do not wait until a window is due by the stride.
        """
        first = self._next - self._length
        if self._edges == "inside" and first < self._start:
            return []
        if (first - self._start) % self._stride and not hurried:
            return []
        final = self._next - self._ahead if ends is None else min(self._next - self._ahead, ends[-1])
        early = tuple(self._early_row(i, None if ends is None else ends[i]) for i in range(len(self._early_ahead)))
        if final <= self._final and not any(r is not None for r in early):
            return []
        return [self._window(range(self._final, max(final, self._final)), newest, early)]

    def _early_row(self, i: int, end: int | None) -> int | None:
        """Return the row that the window that is now complete scores with early look-ahead `i`."""
        row = self._next - 1 - self._early_ahead[i]
        if row < self._next_early[i] or (end is not None and row >= end):
            return None
        self._next_early[i] = row + 1
        return row

    def _window(self, scored: range, newest: int, early: tuple[int | None, ...] = ()) -> Window:
        self._final = scored.stop
        return Window(
            epoch=self._epoch,
            first=self._recent[0].index,
            scored=scored,
            newest=newest,
            rows_LD={name: np.stack([row.values[name] for row in self._recent]) for name in self._zeros},
            with_picture=frozenset(
                r.index for r in self._recent if r.has_picture and (r.index in scored or r.index in early)
            ),
            flags=frozenset().union(*(row.flags for row in self._recent)),
            early=early,
        )
