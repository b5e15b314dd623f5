from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.export import export_graph
from training.models.ensemble import (
    FUSION_WEIGHTS,
    MEANS,
    Fusion,
    FusionConfig,
    fusion_loss,
    fusion_windows,
    mean_scores,
)
from training.windows import training_targets


def some_scores(models: int = 4, rows: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((models, rows, 17), np.float32)


def test_the_three_means_of_the_thesis() -> None:
    scores = np.array([[[0.2]], [[0.8]]], np.float32)
    quality = [0.3, 0.6]
    assert mean_scores(scores, quality)[0, 0] == pytest.approx(0.5)
    assert mean_scores(scores, quality, "weighted")[0, 0] == pytest.approx((0.2 * 0.3 + 0.8 * 0.6) / 0.9)
    assert mean_scores(scores, quality, "squared")[0, 0] == pytest.approx((0.2 * 0.09 + 0.8 * 0.36) / 0.45)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.sampled_from(sorted(MEANS)), st.integers(0, 99))
def test_a_mean_lies_between_the_models_and_equals_them_where_they_agree(
    quality: list[float], kind: str, seed: int
) -> None:
    scores = some_scores(len(quality), 3, seed)
    mean = mean_scores(scores, quality, kind)
    assert mean.dtype == np.float32
    assert (mean <= scores.max(0) + 1e-6).all()
    assert (mean >= scores.min(0) - 1e-6).all()
    same = np.repeat(scores[:1], len(quality), axis=0)
    np.testing.assert_allclose(mean_scores(same, quality, kind), scores[0], atol=1e-6)


def test_means_that_cannot_be_are_refused() -> None:
    scores = some_scores(2)
    with pytest.raises(UsageError, match="no ensemble 'best'"):
        mean_scores(scores, [0.5, 0.5], "best")
    with pytest.raises(ValueError, match="2 models, but 3 validation scores"):
        mean_scores(scores, [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="0 or more"):
        mean_scores(scores, [0.0, 0.0], "weighted")


def test_the_fusion_has_the_originals_parameters_but_for_two_layers_that_nothing_uses() -> None:
    count = sum(p.numel() for p in Fusion(FusionConfig()).parameters())
    unused = 2 * (68 * 17 + 17)
    assert count + unused == 902_571


@pytest.mark.parametrize(("attention", "alone"), [("window", True), ("batch", False)])
def test_a_row_is_fused_by_itself_unless_attention_runs_over_the_batch(attention: str, alone: bool) -> None:
    torch.manual_seed(0)
    fusion = Fusion(FusionConfig(feed_forward=32, attention=attention)).eval()
    windows = torch.from_numpy(fusion_windows(some_scores()))
    others = torch.cat([windows[:1], 1 - windows[1:]])
    assert fusion(windows).shape == (5, 17)
    assert torch.allclose(fusion(windows)[0], fusion(others)[0], atol=1e-5) == alone


def test_a_row_comes_with_its_neighbours_and_all_models_side_by_side() -> None:
    scores = some_scores(models=2, rows=5)
    windows = fusion_windows(scores)
    assert windows.shape == (4, 3, 34)
    np.testing.assert_array_equal(windows[2, 0], np.concatenate([scores[0, 1], scores[1, 1]]))
    np.testing.assert_array_equal(windows[2, 2], np.concatenate([scores[0, 3], scores[1, 3]]))
    np.testing.assert_array_equal(windows[0, 0], windows[0, 1])  # the half's start is repeated


def test_the_loss_weights_labels_and_takes_its_targets_from_windows_of_one_row() -> None:
    assert list(FUSION_WEIGHTS.values()) == [20, 10, 10, 15, *10 * [10], 60, 60, 60]
    targets = torch.from_numpy(training_targets([(2, SOCCERNET_LABELS.index("Red card"))], 6, 1)[:, 1:])
    assert targets.shape == (5, 17)
    assert targets.sum() == 1
    loss = fusion_loss(torch.full((5, 17), 0.5), targets)
    assert loss.item() == pytest.approx(np.log(2) * (5 * 17 - 1 + 60) / (5 * 17))
    unweighted = fusion_loss(torch.full((5, 17), 0.5), targets, torch.ones(17))
    assert unweighted.item() == pytest.approx(np.log(2))


def test_the_fusion_learns_to_trust_the_better_model() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((64, 17)) < 0.3).astype(np.float32)
    scores = np.stack([truth * 0.8 + 0.1, rng.random((64, 17), np.float32)])
    torch.manual_seed(0)
    fusion = Fusion(FusionConfig(models=2, rows=1, layers=1, feed_forward=32))
    windows, targets = torch.from_numpy(fusion_windows(scores, rows=1)), torch.from_numpy(truth[:-1])
    optimizer = torch.optim.Adam(fusion.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = fusion_loss(fusion(windows), targets, torch.ones(17))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_fusion_exports_to_onnx(tmp_path: Path) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter cannot follow it
    try:
        windows = torch.from_numpy(fusion_windows(some_scores())[:1])
        worst = export_graph(
            Fusion(FusionConfig(feed_forward=32)), tmp_path / "fusion.onnx", {"windows": windows}, ["scores"], {}
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert worst <= 1e-5
