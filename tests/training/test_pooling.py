import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals, inputs, weight
from torch import Tensor, nn

from engines.errors import DataError
from training.export import export_graph
from training.importers.pooling import convert
from training.models.pooling import POOLS, Pooling, PoolingConfig, Vlad, nll

ORIGINAL_NAMES = ("MAX", "MAX++", "AVG", "AVG++", "NetVLAD", "NetVLAD++", "NetRVLAD", "NetRVLAD++")
PARAMETERS = {
    "max": (9_234, 1_058_322),
    "max++": (18_450, 1_067_538),
    "avg": (9_234, 1_058_322),
    "avg++": (18_450, 1_067_538),
    "netvlad": (655_378, 1_704_466),
    "netvlad++": (655_378, 1_704_466),
    "netrvlad": (622_610, 1_671_698),
    "netrvlad++": (622_610, 1_671_698),
}


def original_shapes(pool: str, width: int) -> dict[str, tuple[int, ...]]:
    """The state dict of the original network, names and shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    if width != 512:
        shapes |= {"feature_extractor.weight": (512, width), "feature_extractor.bias": (512,)}
    halves = ("pool_layer_before", "pool_layer_after") if pool.endswith("++") else ("pool_layer",)
    vlad = "VLAD" in pool
    for half in halves if vlad else ():
        shapes[f"{half}.clusters"] = (512, 64 // len(halves))
        if "NetV" in pool:
            shapes[f"{half}.clusters2"] = (1, 512, 64 // len(halves))
    pooled = 512 * (64 if vlad else len(halves))
    return {**shapes, "fc.weight": (18, pooled), "fc.bias": (18,)}


def drawn(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(weight(seed, name, shape)) for name, shape in shapes.items()}


def original_network(index: int, width: int, rows: int = 30) -> Pooling:
    pool = ORIGINAL_NAMES[index]
    config = PoolingConfig(widths={"visual": width}, rows=rows, pool=POOLS[index])
    network = Pooling(config).eval()
    seed = 9000 + 10 * index + (width != 512)
    network.load_state_dict(convert(drawn(seed, original_shapes(pool, width)), config))
    return network


@pytest.mark.parametrize("index", range(8), ids=ORIGINAL_NAMES)
def test_the_drawn_weights_are_the_originals(shared: Path, index: int) -> None:
    recipes = json.loads((shared / "fixtures" / "weight_recipes.json").read_text())
    recipe = recipes[f"pool_{ORIGINAL_NAMES[index]}_D512"]
    assert {t["name"]: tuple(t["shape"]) for t in recipe["tensors"]} == original_shapes(ORIGINAL_NAMES[index], 512)
    for tensor in recipe["tensors"]:
        np.testing.assert_array_equal(
            weight(recipe["seed"], tensor["name"], tensor["shape"]).ravel()[:2], np.float32(tensor["head"])
        )


@pytest.mark.parametrize("width", [512, 2048])
@pytest.mark.parametrize("index", range(8), ids=ORIGINAL_NAMES)
def test_scores_logits_pooled_vector_and_loss_equal_the_originals(originals: Originals, index: int, width: int) -> None:
    stored, name = originals.arrays("pooling_full"), f"{ORIGINAL_NAMES[index]}_D{width}"
    x = inputs(9500 + 10 * index, (4, 30, 512)) if width == 512 else abs(inputs(9501 + 10 * index, (4, 30, 2048)))
    rows = {"visual": torch.from_numpy(x)}
    network = original_network(index, width)
    with torch.no_grad():
        vector, logits, scores = network.pooled(rows), network.logits(rows), network(rows)
    np.testing.assert_allclose(logits, stored[f"{name}_logits"], atol=1e-6)
    np.testing.assert_allclose(scores, stored[name], atol=1e-6)
    kept = stored[f"{name}_vec_head"].shape[1]
    np.testing.assert_allclose(vector[:, :kept], stored[f"{name}_vec_head"], atol=1e-6)
    loss = float(nll(scores, torch.from_numpy(stored["labels"])))
    np.testing.assert_allclose(loss, stored[f"{name}_loss"], rtol=1e-5)


@pytest.mark.parametrize("index", [0, 2, 4, 5, 6, 7], ids=lambda i: ORIGINAL_NAMES[i])
def test_a_window_of_seven_rows_gives_the_originals_scores(originals: Originals, index: int) -> None:
    wanted = originals.arrays("pooling_full")[f"{ORIGINAL_NAMES[index]}_D512_T7"]
    rows = {"visual": torch.from_numpy(inputs(9700 + index, (4, 7, 512)))}
    with torch.no_grad():
        np.testing.assert_allclose(original_network(index, 512, rows=7)(rows), wanted, atol=1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_the_bare_layer_equals_the_originals_even_on_a_row_of_zeros(originals: Originals, residual: bool) -> None:
    stored, name = originals.arrays("pooling_reduced"), "NetVLAD" if residual else "NetRVLAD"
    layer = Vlad(6, 4, residual)
    layer.assign.data = torch.from_numpy(stored[f"{name}__clusters"])
    if layer.centres is not None:
        layer.centres.data = torch.from_numpy(stored["NetVLAD__clusters2"][0])
    with torch.no_grad():
        found = layer(torch.from_numpy(stored[f"{name}_x"]))
    np.testing.assert_allclose(found, stored[f"{name}_y"], atol=1e-6)


def older_state(stored: dict[str, np.ndarray], fc: np.ndarray) -> dict[str, Tensor]:
    return {
        "pool_layer.conv.weight": torch.from_numpy(stored["NetVLADv1__conv"]),
        "pool_layer.centroids": torch.from_numpy(stored["NetVLADv1__centroids"]),
        "fc.weight": torch.from_numpy(fc),
        "fc.bias": torch.zeros(len(fc)),
    }


def test_weights_of_the_older_baseline_give_its_scores(originals: Originals) -> None:
    stored = dict(originals.arrays("pooling_reduced"))
    config = PoolingConfig(widths={"visual": 6}, rows=5, pool="netvlad", clusters=4, d_model=6, labels=("a", "b"))
    fc = weight(1, "fc.weight", (3, 24))
    network = Pooling(config).eval()
    network.load_state_dict(convert(older_state(stored, fc), config))
    rows = torch.from_numpy(stored["NetVLADv1_x"])[..., 0].transpose(1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(network.logits({"visual": rows}), stored["NetVLADv1_y"] @ fc.T, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_parameter_counts_are_the_published_ones(pool: str) -> None:
    for width, wanted in zip((512, 2048), PARAMETERS[pool], strict=True):
        network = Pooling(PoolingConfig(widths={"visual": width}, pool=pool))
        assert sum(p.numel() for p in network.parameters()) == wanted


def small(pool: str, rows: int = 6) -> Pooling:
    torch.manual_seed(5)
    config = PoolingConfig(
        widths={"visual": 5, "audio": 4}, rows=rows, pool=pool, clusters=4, d_model=8, labels=("a", "b", "c")
    )
    return Pooling(config).eval()


def small_rows(batch: int, rows: int = 6, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"visual": torch.randn(batch, rows, 5, generator=g), "audio": torch.randn(batch, rows, 4, generator=g)}


@pytest.mark.parametrize("pool", POOLS)
def test_an_item_does_not_depend_on_the_rest_of_its_batch(pool: str) -> None:
    network, rows = small(pool), small_rows(3)
    alone = {name: x[1:2] for name, x in rows.items()}
    torch.testing.assert_close(network(rows)[1:2], network(alone), atol=1e-6, rtol=0)


@given(pool=st.sampled_from(POOLS), rows=st.integers(2, 9), seed=st.integers(0, 99))
def test_order_matters_across_the_halves_of_plus_plus_and_nowhere_else(pool: str, rows: int, seed: int) -> None:
    network, window = small(pool, rows), small_rows(1, rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    half = rows // 2
    within = np.concatenate([np.random.default_rng(seed).permutation(half), half + np.arange(rows - half)])

    def turned(places: np.ndarray) -> Tensor:
        scores: Tensor = network.logits({name: x[:, places] for name, x in window.items()})
        return scores

    as_is = turned(np.arange(rows))
    torch.testing.assert_close(turned(within), as_is, atol=1e-5, rtol=0)
    if not pool.endswith("++"):
        torch.testing.assert_close(turned(order), as_is, atol=1e-5, rtol=0)
    else:
        assert not torch.allclose(turned(np.roll(np.arange(rows), half)), as_is, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_the_loss_reaches_every_parameter(pool: str) -> None:
    network = small(pool).train()
    nll(network(small_rows(4)), torch.eye(4)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_loss_stays_finite_on_scores_of_exactly_0_and_1() -> None:
    scores = torch.tensor([[0.0, 1.0]], requires_grad=True)
    nll(scores, torch.tensor([[1.0, 0.0]])).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


class Positional(nn.Module):
    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *rows: Tensor) -> Tensor:
        scores: Tensor = self.network(dict(zip(self.names, rows, strict=True)))
        return scores


@pytest.mark.parametrize("pool", POOLS)
def test_the_onnx_graph_gives_the_same_scores(pool: str, tmp_path: Path) -> None:
    rows = small_rows(1, rows=7)
    difference = export_graph(Positional(small(pool, 7), tuple(rows)), tmp_path / "pool.onnx", rows, ["scores"], {})
    assert difference < 1e-5


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="pool is 'mean'"):
        PoolingConfig(widths={"a": 1}, pool="mean")
    with pytest.raises(ValueError, match="at least 2 rows"):
        PoolingConfig(widths={"a": 1}, rows=1, pool="avg++")
    with pytest.raises(ValueError, match="even number of clusters"):
        PoolingConfig(widths={"a": 1}, clusters=3)


@pytest.mark.parametrize("shape", [(64,), (32, 512, 1, 1)])
def test_an_older_layer_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    state = {
        "pool_layer.conv.weight": torch.zeros(shape),
        "pool_layer.centroids": torch.zeros(64, 512),
        "fc.weight": torch.zeros(18, 32768),
        "fc.bias": torch.zeros(18),
    }
    with pytest.raises(DataError, match="has shape"):
        convert(state, PoolingConfig(widths={"visual": 512}, pool="netvlad"))


CONFIG = PoolingConfig(widths={"visual": 512})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, "lack 'fc.bias'"),
        ({"pool_layer_after.clusters": torch.zeros(512, 64)}, r"'pool_layer_after.clusters' .* \(512, 64\)"),
        ({"extra": torch.zeros(1)}, "'extra'"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(change: dict[str, Tensor | None], message: str) -> None:
    state = {name: torch.zeros(shape) for name, shape in original_shapes("NetVLAD++", 512).items()} | change
    with pytest.raises(DataError, match=message):
        convert({name: x for name, x in state.items() if x is not None}, CONFIG)


def test_weights_of_another_pool_are_refused() -> None:
    state = {name: torch.zeros(shape) for name, shape in original_shapes("NetVLAD", 512).items()}
    with pytest.raises(DataError, match="pool_layer_before"):
        convert(state, CONFIG)
    with pytest.raises(DataError, match=r"pool_layer\.clusters2"):
        convert(state, dataclasses.replace(CONFIG, pool="netrvlad"))
