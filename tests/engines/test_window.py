import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.frontend import Embeddings
from engines.second import GAP
from engines.window import RollingWindow, Window


def embeddings(index: int, epoch: int = 0) -> Embeddings:
    return Embeddings(epoch, index, {"visual": np.array([index + 1], np.float32)}, True, frozenset())


def window(rows: int = 4, look_ahead: int = 1) -> RollingWindow:
    return RollingWindow({"visual": 1}, rows, look_ahead)


def contents(windows: list[Window]) -> list[list[float]]:
    return [w.rows_LD["visual"][:, 0].tolist() for w in windows]


@given(st.integers(1, 8), st.data())
def test_every_second_gets_one_window_in_order(rows: int, data: st.DataObject) -> None:
    look_ahead = data.draw(st.integers(0, rows - 1))
    seconds = data.draw(st.integers(0, 20))
    rolling = window(rows, look_ahead)
    windows = [w for k in range(seconds) for w in rolling.push(embeddings(k))] + rolling.flush()
    assert [w.index for w in windows] == list(range(seconds))
    for w in windows:
        wanted = [
            k + 1 if 0 <= k < seconds else 0 for k in range(w.index + look_ahead - rows + 1, w.index + look_ahead + 1)
        ]
        assert w.rows_LD["visual"][:, 0].tolist() == wanted


def test_rows_before_the_first_and_after_the_last_are_zero() -> None:
    rolling = window(rows=3, look_ahead=1)
    done = rolling.push(embeddings(0)) + rolling.push(embeddings(1)) + rolling.flush()
    assert contents(done) == [[0, 1, 2], [1, 2, 0]]


def test_a_window_never_spans_two_epochs() -> None:
    rolling = window(rows=3, look_ahead=1)
    done = [
        w for e in (embeddings(0), embeddings(1), embeddings(1, epoch=1)) for w in rolling.push(e)
    ] + rolling.flush()
    assert [(w.epoch, w.index) for w in done] == [(0, 0), (0, 1), (1, 1)]
    assert contents(done)[1:] == [[1, 2, 0], [0, 2, 0]]


def test_a_shed_second_leaves_a_gap_and_a_flag() -> None:
    rolling = window(rows=3, look_ahead=0)
    done = rolling.push(embeddings(0)) + rolling.push(embeddings(2))
    assert contents(done) == [[0, 0, 1], [0, 1, 0], [1, 0, 3]]
    assert [w.has_picture for w in done] == [True, False, True]
    assert [GAP in w.flags for w in done] == [False, True, True]
    assert [w.newest for w in done] == [0, 2, 2]  # the hole is scored when the second after it was seen
