from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals

from engines.errors import DataError
from engines.labels import SOCCERNET_LABELS
from engines.nms import greedy
from training.chunks import (
    CALF_LAYOUT,
    ChunkLayout,
    ChunkSampler,
    chunk_starts,
    chunk_targets,
    find_places,
    stitch,
    take_chunks,
)
from training.encodings import FLOAT32, IGNORED, INT64, decode_spotting, k_rows, time_shifts

K17 = k_rows(SOCCERNET_LABELS, 2)
K2 = np.array([[-8.0, -6], [-4, -3], [4, 3], [8, 6]])
FAR = K2 * 30  # no row of a short half is background
SMALL = ChunkLayout(rows=40, border=6)


def shifts_of(events: list[list[int]], rows: int, k_4C: np.ndarray = K17) -> FLOAT32:
    return time_shifts(np.array(events, np.int64).reshape(-1, 2), rows, k_4C)


def as_the_original_writes(places: INT64, half: int = 7) -> list[list[Any]]:
    return [
        [half, int(first), int(label)] if label < 17 else [half, [int(first), int(stop)], 17]
        for label, first, stop in places
    ]


def test_the_places_are_the_originals_anchors(originals: Originals) -> None:
    stored = originals.json("calf_anchors")
    for events, anchors in [
        (stored["events_frame_class"], stored["anchors"]),
        (stored["one_event"]["events"], stored["one_event"]["anchors"]),
        ([], stored["no_event"]["anchors"]),
    ]:
        assert as_the_original_writes(find_places(shifts_of(events, stored["N"]), K17)) == anchors


def test_the_targets_of_chunks_are_the_originals(originals: Originals) -> None:
    stored = originals.arrays("calf_encodings")
    shifts = shifts_of(originals.json("calf_anchors")["events_frame_class"], 5400)
    starts = stored["yolo_starts"]
    told, targets = chunk_targets([shifts], np.zeros(len(starts), np.int64), starts, 15)
    assert np.array_equal(targets, stored["yolo_targets"])
    assert np.array_equal(told[1, 40:200], shifts[1040:1200])
    assert (told[:, :40] == IGNORED).all()
    assert (told[:, 200:] == IGNORED).all()


def test_making_targets_leaves_the_half_as_it_is() -> None:
    shifts = shifts_of([[100, 0], [200, 1]], 400, K2)
    before = shifts.copy()
    chunk_targets([shifts], np.zeros(3, np.int64), np.array([90, 95, 190]), 4, SMALL)
    assert np.array_equal(shifts, before)


def test_rows_past_the_end_of_a_short_half_repeat_the_last_and_are_not_learned() -> None:
    shifts = shifts_of([[8, 0], [20, 1]], 25, K2)
    start = np.zeros(1, np.int64)
    told, targets = chunk_targets([shifts], start, start, 3, SMALL)
    assert (told[0, 25:] == IGNORED).all()
    assert targets[0, :, 0].tolist() == [1, 1, 0]
    assert take_chunks(np.arange(25)[:, None], start, SMALL)[0, :, 0].tolist() == [*range(25), *[24] * 15]


def test_each_label_and_background_is_drawn_equally_often() -> None:
    of_label_0, of_label_1, empty = [[60, 0], [100, 0], [140, 0]], [[100, 1]], list[list[int]]()
    halves = [shifts_of(events, 200, FAR) for events in (of_label_0, of_label_1, empty)]
    half, _ = ChunkSampler(halves, FAR, SMALL).draw(6000, np.random.default_rng(5))
    np.testing.assert_allclose(np.bincount(half) / 6000, 1 / 3, atol=0.03)


def test_a_drawn_action_is_at_least_two_borders_from_the_ends_of_its_chunk() -> None:
    sampler = ChunkSampler([shifts_of([[100, 0]], 200, FAR)], FAR, SMALL)
    _, start = sampler.draw(2000, np.random.default_rng(0))
    assert set((100 - start).tolist()) == set(range(13, 29))


def test_a_drawn_chunk_of_background_is_far_from_every_action() -> None:
    shifts = np.full((300, 2), -100, np.float32)
    shifts[93:108, 1] = 1  # near an action, which is no place of its own here
    _, start = ChunkSampler([shifts], K2, SMALL).draw(20_000, np.random.default_rng(0))
    assert set(start.tolist()) == {*range(93 - 40 + 1), *range(108, 300 - 40 + 1)}


def test_chunks_are_moved_into_their_half() -> None:
    halves = [shifts_of([[2, 0], [198, 0]], 200, FAR), shifts_of([[20, 1]], 25, FAR)]
    half, start = ChunkSampler(halves, FAR, SMALL).draw(500, np.random.default_rng(0))
    assert set(start[half == 0]) == {0, 160}
    assert set(start[half == 1]) == {0}


def test_a_label_that_never_happens_is_left_out_and_nothing_at_all_is_one_sentence() -> None:
    halves = [shifts_of([[100, 1]], 300, K2)]
    assert ChunkSampler(halves, K2, SMALL).labels.tolist() == [1, 2]
    with pytest.raises(DataError, match="2 halves hold neither an action nor 40 rows"):
        ChunkSampler([shifts_of([], 30, K2)] * 2, K2, SMALL)


LENGTHS = (240, 321, 400, 500, 560, 700, 5400)


def test_misplaced_as_in_the_original_halves_are_stitched_as_in_the_original(originals: Originals) -> None:
    stored = originals.arrays("calf_stitching")
    lengths = [rows for rows in LENGTHS if f"N{rows}_spot_in" in stored]
    assert lengths == list(LENGTHS) or not originals.whole
    for rows in lengths:
        compare_stitched(stored, rows)


def compare_stitched(stored: Mapping[str, np.ndarray], rows: int) -> None:
    starts = chunk_starts(rows, as_original=True)
    seen = take_chunks(np.arange(rows)[:, None], starts)
    assert np.array_equal(seen[:, [0, -1], 0], stored[f"N{rows}_chunk_first_last"])
    assert np.array_equal(stitch(seen, rows, as_original=True)[:, 0], stored[f"N{rows}_content_index"])
    scores = stitch(decode_spotting(stored[f"N{rows}_spot_in"], 240), rows, as_original=True)
    assert np.array_equal(np.argwhere(scores >= 0), stored[f"N{rows}_long_idx"])
    assert np.array_equal(scores[scores >= 0], stored[f"N{rows}_long_val"])
    kept = np.full_like(scores, -1)
    for label in range(17):
        at, confidence = greedy(scores[:, label], 40, 0)
        kept[at, label] = confidence
    assert np.array_equal(np.argwhere(kept >= 0), stored[f"N{rows}_nms_idx"])
    assert np.array_equal(kept[kept >= 0], stored[f"N{rows}_nms_val"])


@given(st.integers(1, 1500), st.sampled_from([CALF_LAYOUT, SMALL, ChunkLayout(7, 0), ChunkLayout(9, 4)]))
def test_every_row_of_a_stitched_half_comes_from_a_chunk_that_saw_it(rows: int, layout: ChunkLayout) -> None:
    half = np.stack([np.arange(rows), np.arange(rows) * 3], 1)
    starts = chunk_starts(rows, layout)
    assert np.array_equal(stitch(take_chunks(half, starts, layout), rows, layout), half)


@given(st.integers(41, 1000))
def test_a_row_off_the_halfs_ends_is_never_taken_from_a_chunks_border(rows: int) -> None:
    starts = chunk_starts(rows, SMALL)
    place = np.broadcast_to(np.arange(40)[None, :, None], (len(starts), 40, 1))
    inner = stitch(place, rows, SMALL)[6 : rows - 6, 0]
    assert inner.min() >= 6
    assert inner.max() < 34


def test_the_original_misplaces_the_last_chunk_of_78_of_160_half_lengths() -> None:
    def misplaced(rows: int) -> bool:
        seen = take_chunks(np.arange(rows)[:, None], chunk_starts(rows, as_original=True))
        return not np.array_equal(stitch(seen, rows, as_original=True)[:, 0], np.arange(rows))

    assert [rows % 160 for rows in range(480, 640) if misplaced(rows)] == list(range(2, 80))


def test_what_cannot_be_stitched_or_laid_out_is_refused() -> None:
    with pytest.raises(ValueError, match="2 chunks were given; a half of 500 rows has 3"):
        stitch(np.zeros((2, 240, 1)), 500)
    with pytest.raises(ValueError, match="the half has 200 rows"):
        chunk_starts(200, as_original=True)
    with pytest.raises(ValueError, match="border is 20"):
        ChunkLayout(40, 20)
    with pytest.raises(ValueError, match="need a smaller one"):
        ChunkSampler([shifts_of([], 300, K2)], K2, ChunkLayout(40, 10))
