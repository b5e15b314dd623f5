"""Chunks of a half: where CALF learns, what it should say there, and how its answers make a half again.

In: rows (T, D) and time shifts (T, C) of whole halves. Out: chunk starts, chunks (B, L, ·), and halves stitched from
chunks. Promise: stitched rows come from the chunk that saw them; nothing given is written to; no torch.

The first and the last `border` rows of a chunk are half a receptive field from its ends: they are not learned, and
when stitching they come from the neighbouring chunk.

Shapes: B chunks, L rows of a chunk, T rows of a half, C labels, P places, A anchors, D or X width of whatever it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from training.encodings import FLOAT32, FLOAT64, IGNORED, INT64, NOTHING, spotting_targets

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How long chunks are and how they overlap; the defaults are CALF's: 120 s at 2 rows a second, 20 s of border."""

    rows: int = 240
    """Chunk length L."""
    border: int = 40
    """Rows at either end that are not used, half a receptive field."""

    def __post_init__(self) -> None:
        """Refuse a chunk that is all border."""
        if not 0 <= 2 * self.border < self.rows:
            raise ValueError(f"border is {self.border}; chunks of {self.rows} rows allow 0 to {(self.rows - 1) // 2}")

    @property
    def hop(self) -> int:
        """Rows between the starts of neighbouring chunks: their inner rows touch."""
        return self.rows - 2 * self.border


CALF_LAYOUT = ChunkLayout()


def find_places(shifts_TC: FLOAT32, k_4C: FLOAT64, layout: ChunkLayout = CALF_LAYOUT) -> INT64:
    """Return where chunks of a half can be taken for learning, int64 (P, 3): label, first row, row after the last.

    A place is an action (one row), or, as label C, a stretch of background: at least L rows that lie far from every
    action of every label.

    Source: SoccerNetv2-DevKit, CALF, `preprocessing.py: getChunks_anchors` (its "anchors"; here an anchor is one of
    CALF's output slots).
    """
    label, row = np.nonzero(shifts_TC.T == 0)
    actions = np.stack([label, row, row + 1], 1)
    far = ((shifts_TC <= k_4C[0]) | (shifts_TC >= k_4C[3])).all(1)
    edges = np.flatnonzero(np.diff(far, prepend=False, append=False)).reshape(-1, 2)
    stretches = edges[edges[:, 1] - edges[:, 0] >= layout.rows]
    background = np.insert(stretches, 0, shifts_TC.shape[1], axis=1)
    return np.concatenate([actions, background]).astype(np.int64)


class ChunkSampler:
    """Draws chunks of some halves so that every label is seen equally often, and background as often as a label.

    A label is drawn among those that have a place (background is one more label), then one of its places, then where
    the chunk starts: so that the action is 2 · border + 1 to L - 2 · border rows after the start, or so that the chunk
    lies within the stretch of background. A start beyond the half's ends is moved inside.

    Source: `dataset.py: SoccerNetClips.__getitem__`. Differs: a label without a place is left out (the original
    fails); a chunk may end with the half's last row (the original's end one row earlier); a half may be shorter than
    a chunk.
    """

    def __init__(self, shifts: Sequence[FLOAT32], k_4C: FLOAT64, layout: ChunkLayout = CALF_LAYOUT) -> None:
        """Find the places of the halves.

        Args:
            shifts: time shifts (T, C) of each half.
            k_4C: context bounds in rows.
            layout: its border must leave an action somewhere to be: 4 · border < rows.

        Raises:
            DataError: no half has a place.
        """
        if 4 * layout.border >= layout.rows:
            raise ValueError(f"border is {layout.border}; to learn, chunks of {layout.rows} rows need a smaller one")
        found = [find_places(half, k_4C, layout) for half in shifts]
        if sum(len(places) for places in found) == 0:
            raise DataError(
                f"The {len(found)} halves hold neither an action nor {layout.rows} rows without one; "
                "there is nothing to learn from."
            )
        half = np.repeat(np.arange(len(found)), [len(places) for places in found])
        places = np.concatenate(found)
        order = np.argsort(places[:, 0], kind="stable")
        self._half, (label, first, stop) = half[order], places[order].T
        is_background = label == k_4C.shape[1]
        self._low = np.where(is_background, first, first - layout.hop)
        self._high = np.where(is_background, stop - layout.rows, first - 2 * layout.border - 1)
        self._last_start = np.array([max(0, len(half) - layout.rows) for half in shifts], np.int64)
        self.labels, self._first_place, self._places = np.unique(label, return_index=True, return_counts=True)
        """Labels that have a place, sorted; label C is background."""

    def draw(self, count: int, rng: np.random.Generator) -> tuple[INT64, INT64]:
        """Return the half and the first row of so many chunks, int64 (B,) each."""
        label = rng.integers(len(self.labels), size=count)
        place = self._first_place[label] + rng.integers(self._places[label])
        half = self._half[place]
        start = rng.integers(self._low[place], self._high[place], endpoint=True)
        return half, np.clip(start, 0, self._last_start[half])


def take_chunks(half_TX: NDArray[_Value], starts_B: INT64, layout: ChunkLayout = CALF_LAYOUT) -> NDArray[_Value]:
    """Return chunks of a half, (B, L, X); where a chunk reaches past the end, the last row is repeated."""
    rows = starts_B[:, None] + np.arange(layout.rows)
    chunks: NDArray[_Value] = half_TX[np.minimum(rows, len(half_TX) - 1)]
    return chunks


def chunk_targets(
    shifts: Sequence[FLOAT32], half_B: INT64, start_B: INT64, anchors: int, layout: ChunkLayout = CALF_LAYOUT
) -> tuple[FLOAT32, FLOAT32]:
    """Return what CALF should say about chunks: time shifts (B, L, C) and anchors (B, A, 2 + C).

    Rows of the border, and past the end of a half, are `IGNORED`, and their actions are not told.

    Args:
        shifts: time shifts (T, C) of each half.
        half_B: index of each chunk's half.
        start_B: its first row.
        anchors: A, output slots of the model.
        layout: of the chunks.

    Source: `dataset.py: SoccerNetClips.__getitem__`. Differs: the original writes its borders into the labels of the
    half themselves, so that a chunk drawn later finds them there (after 100 draws from one match, 40 % of its labels
    had changed); here the chunks are copies.
    """
    chunks = np.concatenate([take_chunks(shifts[half], start_B[[i]], layout) for i, half in enumerate(half_B)])
    lengths_B = np.array([len(shifts[half]) for half in half_B])
    beyond = start_B[:, None] + np.arange(layout.rows) >= lengths_B[:, None]
    chunks[beyond] = IGNORED
    chunks[:, : layout.border] = IGNORED
    chunks[:, layout.rows - layout.border :] = IGNORED
    return chunks, spotting_targets(chunks, anchors)


def chunk_starts(rows: int, layout: ChunkLayout = CALF_LAYOUT, *, as_original: bool = False) -> INT64:
    """Return the first rows of the chunks that cover a half of T = `rows` rows.

    They are 0, hop, 2 · hop, … and last T - L; a half no longer than a chunk has one, at 0.

    Args:
        rows: T, rows of the half, >= 1.
        layout: of the chunks.
        as_original: the original's starts, of which some reach past the half's end and the last may come twice; for
            comparing with it.

    Source: `dataset.py: feats2clip`.
    """
    if as_original:
        if rows < layout.rows:
            raise ValueError(f"the half has {rows} rows; the original cannot stitch less than a chunk ({layout.rows})")
        starts = np.arange(0, rows - 1, layout.hop, dtype=np.int64)
        starts[-1] = rows - layout.rows
        return starts
    last = max(0, rows - layout.rows)
    return np.append(np.arange(0, last, layout.hop, dtype=np.int64), last)


def stitch(
    chunks_BLX: NDArray[_Value], rows: int, layout: ChunkLayout = CALF_LAYOUT, *, as_original: bool = False
) -> NDArray[_Value]:
    """Return a half (T, X) made of the chunks that cover it.

    Every chunk gives its inner rows, the first one also its beginning and the last one also its end; where the last
    two overlap, the last one's inner rows stand.

    Args:
        chunks_BLX: what a model says about the chunks at `chunk_starts(rows, layout)`: scores of rows, as they are or
            decoded from anchors (`encodings.decode_spotting`).
        rows: T, rows of the half.
        layout: of the chunks.
        as_original: misplace chunks as the original does, for comparing with it; `chunk_starts` must be called alike.

    Source: `preprocessing.py: timestamps2long`, `batch2long`. Differs: the original's writer takes as the last chunk
    the first one that reaches the half's end, its reader the last one of its list: for 78 of 160 half lengths the
    final 200 rows stand up to 39 s off, and a half of exactly L rows stays without its last 40.
    """
    read = chunk_starts(rows, layout, as_original=as_original)
    if len(chunks_BLX) != len(read):
        raise ValueError(f"{len(chunks_BLX)} chunks were given; a half of {rows} rows has {len(read)}")
    # the original writes where it should, but reads one chunk more; a half of one chunk it reads and writes twice
    written = read if rows == layout.rows else chunk_starts(rows, layout)
    whole = np.full((max(rows, layout.rows), *chunks_BLX.shape[2:]), NOTHING, chunks_BLX.dtype)
    for chunk, start in zip(chunks_BLX, written, strict=not as_original):
        is_last = start == written[-1] and not (as_original and start == 0)
        begin = 0 if start == 0 else layout.border
        end = layout.rows if is_last else layout.rows - layout.border
        whole[start + begin : start + end] = chunk[begin:end]
    return whole[:rows]
