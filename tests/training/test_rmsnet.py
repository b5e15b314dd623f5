from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals, inputs, weight
from torch import Tensor, nn

from training.export import export_graph
from training.models.rmsnet import (
    RmsNet,
    RmsNetConfig,
    background_clips,
    decode,
    hidden_rows,
    rmsnet_loss,
    shifted_clips,
)

# ours → the original's name, shape
ORIGINAL: dict[str, tuple[str, tuple[int, ...]]] = {
    "temporal_1": ("temporal_conv1", (512, 2048, 9)),
    "temporal_2": ("temporal_conv2", (256, 512, 9)),
    "hidden": ("fc2", (128, 256)),
    "out": ("fc_class", (18, 128)),
    "offset": ("fc_t_shift", (1, 128)),
}


def original_head() -> RmsNet:
    network = RmsNet(RmsNetConfig(widths={"visual": 2048}))
    state = {}
    for ours, (theirs, shape) in ORIGINAL.items():
        for kind, size in (("weight", shape), ("bias", shape[:1])):
            drawn = weight(606, f"{theirs}.{kind}", size)
            # the original's background is its last column
            state[f"{ours}.{kind}"] = torch.from_numpy(np.roll(drawn, 1, axis=0) if ours == "out" else drawn)
    network.load_state_dict(state)
    return network.eval()


def test_logits_offset_and_size_equal_the_originals(originals: Originals) -> None:
    stored, network = originals.arrays("rmsnet_head"), original_head()
    rows = {"visual": torch.from_numpy(abs(inputs(607, (2, 41, 2048, 1, 1)))[..., 0, 0])}
    with torch.no_grad():
        logits, offset = network.logits_and_offset(rows)
    np.testing.assert_allclose(np.roll(logits, -1, axis=1), stored["logits"], atol=1e-5)
    np.testing.assert_allclose(offset[:, None], stored["offset"], atol=1e-5)
    assert sum(p.numel() for p in network.parameters()) == stored["head_params"] == 10_652_947


def small(backbone: nn.Module | None = None, width: int = 5) -> RmsNet:
    torch.manual_seed(4)
    config = RmsNetConfig(widths={"visual": width}, rows=9, channels=(8, 6), hidden=7, labels=("a", "b"))
    return RmsNet(config, backbone).eval()


def test_an_item_does_not_depend_on_the_rest_of_its_batch_and_scores_add_up_to_1() -> None:
    network, x = small(), torch.randn(4, 9, 5)
    scores = network({"visual": x})
    torch.testing.assert_close(scores[1:2], network({"visual": x[1:2]}), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.sum(1), torch.ones(4))


def tiny_backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_backbone_makes_rows_of_frames_and_is_trained_with_its_norms_frozen() -> None:
    network, frames = small(tiny_backbone()).train(), torch.randn(2, 9, 3, 6, 6)
    assert network.backbone is not None
    before = {name: x.clone() for name, x in network.backbone.named_buffers()}
    logits, offset = network.logits_and_offset({"visual": frames})
    rmsnet_loss(logits, offset, torch.tensor([1, 0]), torch.tensor([0.3, 0.0])).backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(x, before[name]) for name, x in network.backbone.named_buffers())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    network.eval()
    with torch.no_grad():
        rows = torch.stack([network.backbone(frame) for frame in frames])
        torch.testing.assert_close(network({"visual": frames}), small_with(network)({"visual": rows}))


def small_with(network: RmsNet) -> RmsNet:
    head = small()
    head.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("backbone.")})
    return head


def test_the_loss_counts_the_offset_of_actions_only_ten_times() -> None:
    logits, offset = torch.zeros(3, 4), torch.tensor([0.5, 0.2, 0.9])
    columns, wanted = torch.tensor([2, 0, 1]), torch.tensor([0.6, 0.9, 0.6])
    np.testing.assert_allclose(
        float(rmsnet_loss(logits, offset, columns, wanted)), np.log(4) + 10 * (0.1**2 + 0.3**2) / 2, rtol=1e-5
    )
    background = torch.zeros(3, dtype=torch.long)
    np.testing.assert_allclose(float(rmsnet_loss(logits, offset, background, wanted)), np.log(4), rtol=1e-6)


def test_an_action_is_in_all_41_clips_at_the_originals_offsets() -> None:
    starts, columns, offsets = shifted_clips([100], [3], 41)
    shifts = np.arange(-20, 21)  # the original moves the clip around the action by these
    order = np.argsort(starts)
    np.testing.assert_array_equal(starts[order], 100 - 20 + shifts)
    np.testing.assert_allclose(offsets[order], 0.5 - shifts / 41, rtol=1e-6)
    assert set(columns) == {4}


@given(
    actions=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 16)), min_size=1, max_size=5),
    rows=st.integers(1, 60),
)
def test_a_perfect_prediction_decodes_to_the_actions_row(actions: Sequence[tuple[int, int]], rows: int) -> None:
    starts, columns, offsets = shifted_clips([r for r, _ in actions], [c for _, c in actions], rows)
    scores = np.eye(18, dtype=np.float32)[columns]
    found = decode(scores, offsets, rows)
    wanted = [action for action in actions for _ in range(rows)]
    for start, window, (row, label) in zip(starts, found, wanted, strict=True):
        assert window is not None
        assert window[1:] == (label, 1.0)
        assert abs(start + window[0] - row) < 1e-4


def test_a_background_window_decodes_to_nothing() -> None:
    scores = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    assert decode(scores, np.array([0.5, 0.25], np.float32), 4) == [None, (0.5, 0, 0.75)]


@given(actions=st.lists(st.integers(0, 999), max_size=6), half_rows=st.integers(1, 1000), rows=st.integers(1, 41))
def test_background_clips_lie_in_the_half_side_by_side_and_away_from_actions(
    actions: list[int], half_rows: int, rows: int
) -> None:
    actions = [row % half_rows for row in actions]
    starts = background_clips(actions, half_rows, rows)
    assert all(0 <= start <= half_rows - rows for start in starts)
    assert (np.diff(starts) >= rows).all()
    for start in starts:
        assert all(abs(row - action) > rows for action in actions for row in (start, start + rows - 1))
        assert not any(start <= action < start + rows for action in actions)
    if not actions:
        assert len(starts) == half_rows // rows


@given(rows=st.integers(2, 41), place=st.integers(0, 40), probability=st.sampled_from([0.0, 1.0]))
def test_hidden_are_all_rows_before_the_action_and_none_of_background(
    rows: int, place: int, probability: float
) -> None:
    place %= rows
    offset = np.full(2, (place + 0.5) / rows, np.float32)
    hidden = hidden_rows(offset, np.array([4, 0]), rows, np.random.default_rng(0), probability)
    assert hidden[0].tolist() == [probability == 1 and row < place for row in range(rows)]
    assert not hidden[1].any()


class Positional(nn.Module):
    def __init__(self, network: RmsNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, visual: Tensor) -> Tensor:
        return torch.cat(
            [self.network({"visual": visual}), self.network.logits_and_offset({"visual": visual})[1][:, None]], 1
        )


def test_the_onnx_graph_gives_the_same_scores_and_offset(tmp_path: Path) -> None:
    rows = {"visual": torch.randn(1, 9, 5)}
    assert export_graph(Positional(small()), tmp_path / "rmsnet.onnx", rows, ["scores"], {}) < 1e-5
