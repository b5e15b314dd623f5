"""CALF's way of scoring, live and over a whole half: chunks that slide, and rows stitched from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LABELS, FunctionEngine, fake_manifest
from hypothesis import given
from hypothesis import strategies as st

from engines.backends.base import Array
from engines.bundle import Bundle, Decision, Manifest
from engines.frontend import embeddings_of
from engines.nms import greedy
from engines.spotter import Spotter
from training.chunks import ChunkLayout, chunk_starts, stitch, take_chunks

L, BORDER = 12, 2
HOP = L - 2 * BORDER


def score_chunk(rows_LD: np.ndarray) -> np.ndarray:
    """A chunk's scores (L, C): each depends on its row, its place in the chunk and the whole chunk."""
    place = np.arange(len(rows_LD), dtype=np.float32)
    mixed = np.modf(rows_LD[:, 0] * 0.37 + place * 0.11 + rows_LD.sum() * 0.013)[0]
    return np.stack([mixed, 1 - mixed], 1).astype(np.float32)


def chunk_manifest(hop: int, edges: str, rule: str = "local-max") -> Manifest:
    manifest = fake_manifest(
        rows=L, look_ahead=BORDER, window_stride_rows=hop, edges=edges, outputs="chunk", row_time_s=0.0
    )
    reach: dict[str, Any] = {"radius_s": 1.0} if rule == "local-max" else {"window_s": 4.0}
    decision = {label: Decision(rule=rule, threshold=0.3, **reach) for label in LABELS}
    stream = manifest.streams[0].model_copy(update={"file": None, "pictures": None})
    return manifest.model_copy(update={"streams": (stream,), "decision": decision})


def spotter(manifest: Manifest) -> Spotter:
    def head(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"scores": score_chunk(feeds["visual"][0])[None]}

    return Spotter(Bundle(Path("fake"), manifest, "fake", {}, FunctionEngine({}, {}, head)), "s")


def scored(manifest: Manifest, rows_TD: np.ndarray) -> dict[int, np.ndarray]:
    """Every row's final scores, as the live path computes them."""
    one = spotter(manifest)
    scores = [s for e in embeddings_of({"visual": rows_TD}, manifest) for s in one.score_rows([e])] + one.flush_scores()
    return {s.index: s.scores_C for s in scores}


def offline(rows_TD: np.ndarray) -> np.ndarray:
    layout = ChunkLayout(L, BORDER)
    if len(rows_TD) < L:
        rows_TD = np.pad(rows_TD, ((0, L - len(rows_TD)), (0, 0)))
    chunks = take_chunks(rows_TD, chunk_starts(len(rows_TD), layout), layout)
    return stitch(np.stack([score_chunk(chunk) for chunk in chunks]), len(rows_TD), layout)


def some_rows(count: int) -> np.ndarray:
    return 0.1 + np.random.default_rng(count).random((count, 1)).astype(np.float32)


@given(st.integers(1, 60))
def test_windows_that_stay_inside_give_the_offline_stitching(count: int) -> None:
    rows = some_rows(count)
    live = scored(chunk_manifest(HOP, "inside"), rows)
    assert np.array_equal(np.stack([live[row] for row in range(count)]), offline(rows)[:count])


@given(st.integers(30, 80))
def test_a_sliding_chunk_equals_the_offline_stitching_where_both_see_the_same_context(count: int) -> None:
    """With the offline hop the chunks are the same ones; only at both ends does live see what is not there."""
    rows = some_rows(count)
    live, wanted = scored(chunk_manifest(HOP, "zeros"), rows), offline(rows)
    last_chunk = (count - L - 1) // HOP * HOP  # the last one before the one that offline moves to the end
    for row in range(BORDER, min(last_chunk + L - BORDER, count - L + BORDER)):
        assert np.array_equal(live[row], wanted[row]), row


@pytest.mark.parametrize("hop", [1, 2, 3, HOP])
def test_every_row_is_scored_from_a_chunk_that_has_its_look_ahead_behind_it(hop: int) -> None:
    rows = some_rows(50)
    live = scored(chunk_manifest(hop, "zeros"), rows)
    padded = np.pad(rows, ((L, 2 * L), (0, 0)))
    for row in range(50):
        ends = [end for end in range(row + BORDER + 1, row + BORDER + 1 + hop) if (end - L) % hop == 0]
        chunk = padded[ends[0] : ends[0] + L]  # rows ends[0] - L to ends[0], shifted by the padding
        assert np.array_equal(live[row], score_chunk(chunk)[row - ends[0] + L])


def test_no_spot_comes_later_than_look_ahead_hop_and_radius_promise() -> None:
    manifest = chunk_manifest(3, "zeros")
    one = spotter(manifest)
    spots = [s for e in embeddings_of({"visual": some_rows(60)}, manifest) for s in one.decide(one.score_rows([e]))]
    assert spots
    for spot in spots + one.flush():
        assert spot.delay_s <= manifest.promised_delay_s(spot.label) == BORDER + 2 + 1 + 1


@pytest.mark.parametrize("rows", [24, 45, 46, 47, 60])
def test_the_greedy_rule_says_on_the_way_what_the_offline_rule_says_of_the_whole_half(rows: int) -> None:
    manifest = chunk_manifest(HOP, "inside", rule="greedy")
    one = spotter(manifest)
    features = some_rows(rows)
    on_the_way = [s for e in embeddings_of({"visual": features}, manifest) for s in one.decide(one.score_rows([e]))]
    assert on_the_way or rows < 45
    said = sorted((s.label, s.media_time) for s in on_the_way + one.flush())
    wanted = offline(features)
    assert said == sorted(
        (label, float(row)) for c, label in enumerate(LABELS) for row in greedy(wanted[:, c], 4, 0.3)[0].tolist()
    )
