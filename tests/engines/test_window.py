from typing import Any

import numpy as np
import pytest
from fakes import fake_manifest
from hypothesis import given
from hypothesis import strategies as st

from engines.frontend import Embeddings
from engines.second import FORCED, GAP
from engines.window import RollingWindow, Window


def embeddings(index: int, epoch: int = 0, rate: int = 1) -> Embeddings:
    rows = np.arange(index * rate, (index + 1) * rate, dtype=np.float32)[:, None] + 1
    return Embeddings(epoch, index, {"visual": rows}, True, frozenset())


def window(rows: int = 4, look_ahead: int = 1, rate: int = 1, **head: Any) -> RollingWindow:
    """A window of one stream whose rows hold their number, counted from 1."""
    manifest = fake_manifest(rows=rows, **head)
    stream = manifest.streams[0].model_copy(update={"rate": rate})
    spec = manifest.head.model_copy(update={"look_ahead_s": look_ahead / rate})
    return RollingWindow(manifest.model_copy(update={"streams": (stream,), "head": spec}))


def contents(windows: list[Window]) -> list[list[float]]:
    return [w.rows_LD["visual"][:, 0].tolist() for w in windows]


def run(rolling: RollingWindow, seconds: int, rate: int = 1) -> list[Window]:
    return [w for k in range(seconds) for w in rolling.push(embeddings(k, rate=rate))] + rolling.flush()


@given(st.integers(1, 8), st.sampled_from([1, 2]), st.sampled_from(["zeros", "repeat"]), st.data())
def test_every_row_gets_one_window_in_order(rows: int, rate: int, edges: str, data: st.DataObject) -> None:
    look_ahead = data.draw(st.integers(0, rows - 1))
    seconds = data.draw(st.integers(0, 20))
    last = seconds * rate
    windows = run(window(rows, look_ahead, rate, edges=edges), seconds, rate)
    assert [list(w.scored) for w in windows] == [[row] for row in range(last)]
    for w in windows:
        wanted = np.arange(w.scored[0] + look_ahead - rows + 1, w.scored[0] + look_ahead + 1)
        assert w.first == wanted[0]
        inside = np.clip(wanted, 0, last - 1)
        values = inside + 1 if edges == "repeat" else np.where(inside == wanted, wanted + 1, 0)
        assert w.rows_LD["visual"][:, 0].tolist() == values.tolist()


@given(st.data())
def test_windows_with_a_stride_make_every_row_final_once_with_its_look_ahead_behind_it(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 12))
    look_ahead = data.draw(st.integers(0, rows - 1))
    stride = data.draw(st.integers(1, rows - look_ahead))
    seconds = data.draw(st.integers(1, 40))
    rolling = window(rows, look_ahead, window_stride_rows=stride)
    windows = run(rolling, seconds)
    assert [row for w in windows for row in w.scored] == list(range(seconds))
    for w in windows:
        assert w.first % stride == 0
        assert w.first + rows - look_ahead >= w.scored.stop
        assert w.newest - w.scored[0] < look_ahead + stride


def test_windows_that_stay_inside_score_up_to_both_ends() -> None:
    rolling = window(rows=6, look_ahead=1, window_stride_rows=4, edges="inside")
    windows = run(rolling, 12)
    assert [(w.first, list(w.scored)) for w in windows] == [
        (0, [0, 1, 2, 3, 4]),
        (4, [5, 6, 7, 8]),
        (6, [7, 8, 9, 10, 11]),
    ]
    assert contents(windows)[-1] == [7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize("seconds", [1, 3, 6])
def test_a_half_no_longer_than_a_window_has_it_all_scored_by_one(seconds: int) -> None:
    windows = run(window(rows=6, look_ahead=1, window_stride_rows=4, edges="inside"), seconds)
    assert (windows[-1].first, list(windows[-1].scored)) == (0, list(range(seconds)))


def test_rows_before_the_first_and_after_the_last_are_zero() -> None:
    assert contents(run(window(rows=3, look_ahead=1), 2)) == [[0, 1, 2], [1, 2, 0]]


def test_a_window_never_spans_two_epochs() -> None:
    rolling = window(rows=3, look_ahead=1)
    done = [
        w for e in (embeddings(0), embeddings(1), embeddings(1, epoch=1)) for w in rolling.push(e)
    ] + rolling.flush()
    assert [(w.epoch, w.scored[0]) for w in done] == [(0, 0), (0, 1), (1, 1)]
    assert contents(done)[1:] == [[1, 2, 0], [0, 2, 0]]


def test_a_shed_second_leaves_a_gap_and_a_flag() -> None:
    rolling = window(rows=3, look_ahead=0)
    done = rolling.push(embeddings(0)) + rolling.push(embeddings(2))
    assert contents(done) == [[0, 0, 1], [0, 1, 0], [1, 0, 3]]
    assert [sorted(w.with_picture) for w in done] == [[0], [], [2]]
    assert [GAP in w.flags for w in done] == [False, True, True]
    assert [w.newest for w in done] == [0, 1, 2]  # as if an empty second had come


@given(st.integers(1, 12), st.sets(st.integers(0, 4), max_size=3), st.sampled_from([1, 2]))
def test_every_row_is_scored_once_with_each_look_ahead_as_soon_as_that_is_there(
    seconds: int, early: set[int], rate: int
) -> None:
    rolling = window(rows=9, look_ahead=5, early_look_ahead_s=tuple(sorted(early)))
    windows = run(rolling, seconds)
    assert [row for w in windows for row in w.scored] == list(range(seconds))
    for i, ahead in enumerate(sorted(early)):
        at = [(w.early[i], w) for w in windows if w.early[i] is not None]
        assert [row for row, _ in at] == list(range(seconds))
        assert all(w.newest == min(row + ahead, seconds - 1) for row, w in at if row is not None)


@given(st.integers(1, 12), st.integers(-1, 14), st.sampled_from([(), (0, 1)]))
def test_rows_that_cannot_wait_are_scored_without_the_rest_of_their_look_ahead(
    seconds: int, last: int, early: tuple[int, ...]
) -> None:
    rolling = window(rows=6, look_ahead=3, early_look_ahead_s=early)
    before = [w for k in range(seconds) for w in rolling.push(embeddings(k))]
    hurried = rolling.expire([last] * (1 + len(early)))
    assert rolling.expire([last] * (1 + len(early))) == []
    after = [w for k in range(seconds, seconds + 4) for w in rolling.push(embeddings(k))] + rolling.flush()
    assert [row for w in before + hurried + after for row in w.scored] == list(range(seconds + 4))
    assert all(row <= last < seconds + 3 or last >= seconds for w in hurried for row in w.scored)
    for w, rows in zip(hurried, contents(hurried), strict=True):
        assert w.newest == seconds - 1
        assert rows == [k + 1 if 0 <= k < seconds else 0 for k in range(w.first, w.first + 6)]
    for w, rows in zip(after, contents(after), strict=True):
        assert rows == [k + 1 if 0 <= k < seconds + 4 else 0 for k in range(w.first, w.first + 6)]
    for i in range(len(early)):
        rows_of = [w.early[i] for w in before + hurried + after if w.early[i] is not None]
        assert rows_of == list(range(seconds + 4))


@given(st.integers(1, 14), st.integers(-1, 16), st.sampled_from([1, 2, 3]), st.integers(0, 3))
def test_rows_that_wait_for_the_stride_alone_are_scored_too(seconds: int, last: int, stride: int, ahead: int) -> None:
    rolling = window(rows=8, look_ahead=ahead, window_stride_rows=stride, outputs="chunk")
    before = [w for k in range(seconds) for w in rolling.push(embeddings(k))]
    hurried = rolling.expire([last])
    scored = [row for w in before + hurried for row in w.scored]
    assert scored == list(range(len(scored)))
    assert len(scored) >= min(last + 1, seconds)
    after = [w for k in range(seconds, seconds + 9) for w in rolling.push(embeddings(k))] + rolling.flush()
    assert scored + [row for w in after for row in w.scored] == list(range(seconds + 9))


def test_hurrying_one_look_ahead_leaves_the_others_theirs() -> None:
    rolling = window(rows=6, look_ahead=3, early_look_ahead_s=(1,))
    before = [w for k in range(8) for w in rolling.push(embeddings(k))]
    assert [w.early for w in before][-1] == (6,)
    hurried = rolling.expire([7, -1])
    assert [(list(w.scored), w.early, FORCED in w.flags) for w in hurried] == [([], (7,), True)]
    after = rolling.push(embeddings(8))
    assert [(list(w.scored), w.early, FORCED in w.flags) for w in after] == [([5], (None,), False)]
