from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.export import export_graph
from training.models.audiovid import AudioVid, AudioVidConfig, LoupeVlad, audiovid_loss


def small(residual: bool = True) -> AudioVid:
    torch.manual_seed(2)
    config = AudioVidConfig(
        widths={"visual": 6, "audio": 4},
        rows=5,
        residual=residual,
        clusters=3,
        d_model=7,
        labels=("card", "substitution", "goal"),
    )
    network = AudioVid(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, 0.5, 0.3)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def some_rows(batch: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"visual": torch.randn(batch, 5, 6, generator=g), "audio": torch.randn(batch, 5, 4, generator=g)}


def normed(x: NDArray[np.float64], norm: nn.BatchNorm1d) -> NDArray[np.float64]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias, mean, var = (
        t.detach().double().numpy() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    y: NDArray[np.float64] = (x - mean) / np.sqrt(var + 1e-3) * weight + bias
    return y


def loupe(layer: LoupeVlad, rows_LD: NDArray[np.float64]) -> NDArray[np.float64]:
    """One window through LOUPE's layer, row by row and cluster by cluster."""
    closeness = normed(rows_LD @ layer.assign.weight.detach().double().numpy().T, layer.assign_norm)
    shares = np.exp(closeness) / np.exp(closeness).sum(1, keepdims=True)
    width, clusters = rows_LD.shape[1], shares.shape[1]
    sums = np.zeros((width, clusters))
    for row, share in zip(rows_LD, shares, strict=True):
        for k in range(clusters):
            centre = 0 if layer.centres is None else layer.centres.detach().double().numpy()[:, k]
            sums[:, k] += share[k] * (row - centre)
    sums /= np.sqrt((sums**2).sum(0))
    vector = sums.reshape(-1) / np.sqrt((sums**2).sum())
    x = layer.reduce.weight.detach().double().numpy() @ vector
    gate = normed(layer.gate.weight.detach().double().numpy() @ x, layer.gate_norm)
    y: NDArray[np.float64] = x / (1 + np.exp(-gate))
    return y


@pytest.mark.parametrize("residual", [True, False])
def test_the_layer_equals_a_computation_row_by_row(residual: bool) -> None:
    network, rows = small(residual), some_rows(3)
    layer = network.streams["visual"]
    assert isinstance(layer, LoupeVlad)
    with torch.no_grad():
        found = layer(rows["visual"]).numpy()
    wanted = [loupe(layer, window.double().numpy()) for window in rows["visual"]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_an_item_does_not_depend_on_the_rest_of_its_batch(residual: bool) -> None:
    network, rows = small(residual), some_rows(4)
    alone = {name: x[2:3] for name, x in rows.items()}
    assert network(rows).shape == (4, 4)
    torch.testing.assert_close(network(rows)[2:3], network(alone), atol=1e-6, rtol=0)


def test_the_published_network_has_as_many_parameters_as_its_layers_add_up_to() -> None:
    with torch.device("meta"):
        network = AudioVid(AudioVidConfig(widths={"visual": 512, "audio": 512}, labels=("card", "subs", "soccer")))
    assign, centres, reduce, gate = 512 * 512, 512 * 512, 512 * 512 * 512, 512 * 512
    stream = assign + 2 * 512 + centres + reduce + gate + 2 * 512
    assert sum(p.numel() for p in network.parameters()) == 2 * stream + 1024 * 4 + 4 == 270_016_516


@pytest.mark.parametrize("residual", [True, False])
def test_the_loss_reaches_every_parameter(residual: bool) -> None:
    network = small(residual).train()
    audiovid_loss(network.logits(some_rows(4)), torch.eye(4), torch.ones(4)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_loss_sums_columns_averages_windows_and_weighs_positives() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    targets, weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 3.0])
    p = 1 / (1 + np.exp(-logits.numpy()))
    wanted = (-2 * np.log(p[0, 0]) - np.log(1 - p[0, 1]) - np.log(1 - p[1, 0]) - 3 * np.log(p[1, 1])) / 2
    np.testing.assert_allclose(float(audiovid_loss(logits, targets, weights)), wanted, rtol=1e-6)


class Positional(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        scores: Tensor = self.network({"visual": visual, "audio": audio})
        return scores


def test_the_onnx_graph_gives_the_same_scores(tmp_path: Path) -> None:
    assert export_graph(Positional(small()), tmp_path / "audiovid.onnx", some_rows(1), ["scores"], {}) < 1e-5
