from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.export import export_graph
from training.models.baidu import BaiduConfig, BaiduTransformer, baidu_netvlad, sinusoids
from training.models.cartas import Cartas, CartasConfig
from training.models.pooling import Pooling, nll


def transformer() -> nn.Module:
    torch.manual_seed(1)
    config = BaiduConfig(
        widths={"visual": 6, "graph": 4}, rows=5, d_model=8, heads=2, layers=2, feed_forward=9, labels=("a", "b", "c")
    )
    return BaiduTransformer(config).eval()


def multistream() -> nn.Module:
    torch.manual_seed(1)
    config = CartasConfig(
        widths={"visual": 6, "graph": 4}, ready=("graph",), rows=5, clusters=4, d_model=8, labels=("a", "b", "c")
    )
    network = Cartas(config)
    for _ in range(5):  # running statistics that are not the initial ones
        network(some_rows(8))
    return network.eval()


def some_rows(batch: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"visual": torch.randn(batch, 5, 6, generator=g), "graph": torch.randn(batch, 5, 4, generator=g)}


both = pytest.mark.parametrize("make", [transformer, multistream])


@both
def test_an_item_does_not_depend_on_the_rest_of_its_batch(make: Callable[[], nn.Module]) -> None:
    network, rows = make(), some_rows(4)
    alone = {name: x[3:] for name, x in rows.items()}
    scores = network(rows)
    assert scores.shape == (4, 4)
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(scores[3:], network(alone), atol=1e-6, rtol=0)


@both
def test_the_order_of_rows_matters(make: Callable[[], nn.Module]) -> None:
    network, rows = make(), some_rows(2)
    assert not torch.allclose(network(rows), network({name: x.flip(1) for name, x in rows.items()}), atol=1e-4)


@both
def test_the_loss_reaches_every_parameter(make: Callable[[], nn.Module]) -> None:
    network = make().train()
    nll(network(some_rows(4)), torch.eye(4)).backward()  # type: ignore[no-untyped-call]
    # a shift of all the logits before a batch norm changes nothing: the last bias of Cartas is without effect
    silent = {"out.bias"} if isinstance(network, Cartas) else set()
    for name, p in network.named_parameters():
        assert p.grad is not None
        assert name in silent or p.grad.abs().sum() > 0


class Positional(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, visual: Tensor, graph: Tensor) -> Tensor:
        scores: Tensor = self.network({"visual": visual, "graph": graph})
        return scores


@pytest.fixture
def no_fast_path() -> Iterator[None]:
    """The exporter cannot follow the fast path of torch's encoder layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@both
@pytest.mark.usefixtures("no_fast_path")
def test_the_onnx_graph_gives_the_same_scores(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    assert export_graph(Positional(make()), tmp_path / "net.onnx", some_rows(1), ["scores"], {}) < 1e-5


def test_netvlad_on_baidus_rows_has_the_published_number_of_parameters() -> None:
    config = baidu_netvlad({"baidu": 8576})
    network = Pooling(config).eval()
    assert (config.rows, config.pool) == (7, "netvlad++")
    assert network.pool.before == 3
    assert sum(p.numel() for p in network.parameters()) == 5_046_802
    assert network({"baidu": torch.randn(2, 7, 8576)}).shape == (2, 18)


def test_the_transformer_over_baidus_rows_has_as_many_parameters_as_its_layers_add_up_to() -> None:
    attention = 4 * 512 * 512 + 4 * 512
    feed_forward = 2 * 512 * 64 + 64 + 512
    layer = attention + feed_forward + 4 * 512
    wanted = 8576 * 512 + 2 * 512 + 3 * layer + 512 * 18 + 18
    network = BaiduTransformer(BaiduConfig(widths={"baidu": 8576}))
    assert sum(p.numel() for p in network.parameters()) == wanted


@pytest.mark.parametrize("width", [6, 7])
def test_positions_are_sines_and_cosines_of_ever_slower_pace(width: int) -> None:
    wanted = [
        [(np.cos if i % 2 else np.sin)(row / 10_000 ** (i // 2 * 2 / width)) for i in range(width)] for row in range(5)
    ]
    np.testing.assert_allclose(sinusoids(5, width), wanted, atol=1e-6)


def test_the_published_three_streams_have_as_many_parameters_as_their_layers_add_up_to() -> None:
    network = Cartas(CartasConfig(widths={"rgb": 512, "audio": 512, "graph": 512}, ready=("graph",)))
    pooled = 2 * 512 * 64 + 64 * 512 * 512 + 512
    wanted = 2 * pooled + 2 * 512 + 3 * 512 * 18 + 18 + 2 * 18
    assert sum(p.numel() for p in network.parameters()) == wanted == 33_715_254


def test_of_a_ready_stream_only_the_scored_row_counts() -> None:
    network, rows = multistream(), some_rows(2)
    changed = {**rows, "graph": torch.where(torch.arange(5)[None, :, None] == 2, rows["graph"], 9.0)}
    assert torch.equal(network(rows), network(changed))
    moved = {**rows, "graph": rows["graph"].roll(1, 1)}
    assert not torch.allclose(network(rows), network(moved), atol=1e-4)


def test_any_embedding_can_be_a_pooled_stream() -> None:
    network = Cartas(CartasConfig(widths={"a": 3, "b": 8, "c": 5}, rows=4, clusters=2, d_model=8, labels=("x",))).eval()
    rows = {name: torch.randn(2, 4, width) for name, width in network.config.widths.items()}
    assert network(rows).shape == (2, 2)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ready names \['graf'\]"):
        CartasConfig(widths={"graph": 4}, ready=("graf",))
    with pytest.raises(ValueError, match="at least 2 rows"):
        CartasConfig(widths={"graph": 4}, rows=1)
