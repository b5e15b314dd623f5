"""Balanced draws, mixed batches and averaged weights."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.sampling import balanced_indices, mix, mixing_shares, moving_average


def test_each_label_is_drawn_as_often_as_any_other() -> None:
    targets = np.zeros((1000, 4), np.float32)
    targets[:, 0] = 1
    targets[[10, 20], 0], targets[10, 1], targets[20, 2] = 0, 1, 1  # two actions among 998 of background; no label 3
    drawn = balanced_indices(targets, 6000, np.random.default_rng(0))
    counts = [np.sum(drawn == 10), np.sum(drawn == 20), np.sum((drawn != 10) & (drawn != 20))]
    np.testing.assert_allclose(counts, 2000, rtol=0.1)


def test_only_windows_that_hold_something_are_drawn() -> None:
    targets = np.array([[0, 0], [0, 1], [0, 0]])
    assert set(balanced_indices(targets, 20, np.random.default_rng(0))) == {1}
    with pytest.raises(ValueError, match="no window"):
        balanced_indices(targets[:1], 1, np.random.default_rng(0))


def test_the_same_generator_draws_the_same_windows() -> None:
    targets = np.eye(5)
    one, other = (balanced_indices(targets, 9, np.random.default_rng(7)).tolist() for _ in range(2))
    assert one == other


@given(alpha=st.floats(0.05, 2), seed=st.integers(0, 9))
def test_the_first_batch_keeps_its_share(alpha: float, seed: int) -> None:
    shares = mixing_shares(4000, alpha, np.random.default_rng(seed))
    assert shares.dtype == torch.float32
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean().item() == pytest.approx(1 / (1 + alpha), abs=0.03)


def test_batches_are_mixed_item_by_item() -> None:
    first = {"rows": torch.ones(2, 3, 4), "targets": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    second = {"rows": torch.zeros(2, 3, 4), "targets": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    mixed = mix(first, second, torch.tensor([0.75, 1.0]))
    assert torch.equal(mixed["rows"], torch.tensor([0.75, 1.0]).view(2, 1, 1).expand(2, 3, 4))
    assert mixed["targets"].tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert mix(first, second, torch.tensor([0.75, 1.0]), united=["targets"])["targets"].tolist() == [[1, 1], [0, 1]]


def test_an_average_follows_quickly_first_and_then_by_its_decay() -> None:
    update, mean = moving_average(0.9), torch.zeros(1)
    update([mean], [torch.ones(1)], 1)
    assert mean.item() == pytest.approx(1 - 2 / 11)
    mean.zero_()
    update([mean], [torch.ones(1)], 1000)
    assert mean.item() == pytest.approx(0.1)


def test_counters_are_copied_not_averaged() -> None:
    count = torch.tensor(3)
    moving_average(0.9)([count], [torch.tensor(8)], 5)
    assert count.item() == 8
