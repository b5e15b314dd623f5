"""Epochs of halves: their order, their blocks, the windows gathered out of them."""

import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.features import FeatureStream, LoadedHalf, blocks, find_halves, gather


def loaded(match: str, count: int, seed: int = 0) -> LoadedHalf:
    rows = np.random.default_rng([seed, count]).random((count, 4), np.float32)
    return LoadedHalf(match, 1, 1.0, (), {"video": rows[:, :3].copy(), "audio": rows[:, 3:].copy()})


def test_windows_are_the_rows_asked_for() -> None:
    half = loaded("a", 6)
    index = np.array([[0, 1, 2], [4, 5, 5]])
    windows = half.window(index)
    np.testing.assert_array_equal(windows["video"], half.rows["video"][index])
    assert windows["audio"].shape == (2, 3, 1)


@given(data=st.data())
def test_windows_of_several_halves_come_in_the_order_asked_for(data: st.DataObject) -> None:
    block = [loaded(name, count) for name, count in (("a", 3), ("b", 7), ("c", 5))]
    which = data.draw(st.lists(st.integers(0, 2), max_size=9))
    index = [data.draw(st.lists(st.integers(0, block[i].length - 1), min_size=2, max_size=2)) for i in which]
    windows = gather(block, np.array(which, np.int64), np.array(index, np.int64).reshape(-1, 2))
    for w, (i, rows) in enumerate(zip(which, index, strict=True)):
        np.testing.assert_array_equal(windows["video"][w], block[i].rows["video"][rows])
        np.testing.assert_array_equal(windows["audio"][w], block[i].rows["audio"][rows])


@pytest.mark.parametrize("row", [-1, 6])
def test_a_window_beyond_its_half_is_refused(row: int) -> None:
    with pytest.raises(ValueError, match="beyond its half"):
        loaded("a", 6).window(np.array([[0, row]]))


def names(found: Sequence[Sequence[LoadedHalf]]) -> list[list[str]]:
    return [[half.match for half in block] for block in found]


@given(
    counts=st.lists(st.integers(1, 40), max_size=12),
    limit=st.integers(1, 600),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 99),
)
def test_an_epoch_has_every_half_once_in_blocks_within_the_limit(
    counts: list[int], limit: int, seed: int, epoch: int
) -> None:
    halves = [loaded(str(i), count) for i, count in enumerate(counts)]
    found = list(blocks(halves, seed, epoch, limit))
    assert sorted(name for block in names(found) for name in block) == sorted(h.match for h in halves)
    sizes = [sum(half.nbytes for half in block) for block in found]
    assert all(size <= limit or len(block) == 1 for size, block in zip(sizes, found, strict=True))
    assert all(size + following[0].nbytes > limit for size, following in zip(sizes, found[1:], strict=False))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    halves = [loaded(str(i), 5) for i in range(12)]
    assert names(list(blocks(halves, 1, 3, 200))) == names(list(blocks(halves, 1, 3, 200)))
    drawn = [names(list(blocks(halves, seed, epoch, 200))) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert all(drawn[i] != drawn[j] for i in range(6) for j in range(i))


def test_halves_on_disk_and_halves_in_memory_come_in_the_same_blocks(tmp_path: Path) -> None:
    matches = [f"l/s/{i}" for i in range(5)]
    for match in matches:
        (tmp_path / match).mkdir(parents=True)
        for half in (1, 2):
            np.save(tmp_path / match / f"{half}_x.npy", loaded(match, 10 + half, len(match)).rows["video"])
    halves, _ = find_halves(tmp_path, matches, [FeatureStream("video", "x")], rate=1, labels_name=None)
    kept = [half.load() for half in halves]
    assert [h.nbytes for h in kept] == [h.nbytes for h in halves]
    from_disk, from_memory = (list(blocks(h, 0, 0, 400)) for h in (halves, kept))
    assert len(from_disk) > 2
    assert names(from_disk) == names(from_memory)
    assert from_memory[0][0] in kept
    for a, b in zip(chain(*from_disk), chain(*from_memory), strict=True):
        np.testing.assert_array_equal(a.rows["video"], b.rows["video"])
        assert (a.half, a.actions, a.length) == (b.half, b.actions, b.length)


class Counting(LoadedHalf):
    """Counts how many of its kind are in memory; loads only when it may."""

    alive: set[int]
    most: int
    may_load: threading.Semaphore

    def load(self) -> LoadedHalf:
        Counting.may_load.acquire()
        half = Counting(self.match, self.half, self.rate, self.actions, self.rows)
        Counting.alive.add(id(half))
        Counting.most = max(Counting.most, len(Counting.alive))
        return half

    def __del__(self) -> None:
        Counting.alive.discard(id(self))


def test_at_most_two_blocks_are_in_memory() -> None:
    Counting.alive, Counting.most, Counting.may_load = set(), 0, threading.Semaphore(2)
    halves = [Counting(str(i), 1, 1.0, (), {"video": np.zeros((10, 1), np.float32)}) for i in range(8)]
    found = []
    for block in blocks(halves, 0, 0, limit_bytes=80):
        found.append(len(block))
        Counting.may_load.release(2)  # now that the block before is let go
    del block
    assert found == [2, 2, 2, 2]
    assert Counting.most <= 4
    assert not Counting.alive


def test_leaving_an_epoch_early_ends_its_thread() -> None:
    before = threading.active_count()
    for _ in blocks([loaded(str(i), 5) for i in range(6)], 0, 0, 100):
        assert threading.active_count() <= before + 1
        break
    assert threading.active_count() == before
