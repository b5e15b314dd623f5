"""HMTAS and the models it grew from, against the original's numbers and against the thesis."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from originals import Originals, inputs, weight
from torch import Tensor, nn

from engines.errors import DataError, UsageError
from engines.labels import SOCCERNET_LABELS
from training.export import export_graph
from training.importers import original_name
from training.importers.hmtas import BAIDU_WIDTHS, convert, original_config, original_modules
from training.models.hmtas import (
    CLASS_WEIGHTS,
    THESIS_MODELS,
    Hmtas,
    HmtasConfig,
    column_weights,
    hmtas_loss,
    thesis_model,
    weighted_nll,
)

WEIGHTS = column_weights(CLASS_WEIGHTS)
OUTPUTS = ("mix", "audio", "tpn", "gta", "vtn", "ircsn", "i3d")
ATTENTION = {"orig": "batch", "bf": "window"}
LAYER = 3_152_384  # parameters of an encoder layer of the thesis's size


@cache
def original_state() -> dict[str, Tensor]:
    """Return the weights that the fixtures were made with, under the original's names."""
    with torch.device("meta"):
        network = Hmtas(original_config())
    return {
        theirs: torch.from_numpy(weight(4242, theirs, tensor.shape))
        for ours, tensor in network.state_dict().items()
        if not (theirs := original_name(ours, original_modules())).endswith("num_batches_tracked")
    }


@cache
def original_rows() -> dict[str, Tensor]:
    baidu = torch.split(torch.from_numpy(inputs(4243, (6, 3, 8576))), list(BAIDU_WIDTHS.values()), 2)
    return {"audio": torch.from_numpy(inputs(4244, (6, 3, 128))), **dict(zip(BAIDU_WIDTHS, baidu, strict=True))}


@cache
def original(attention: str) -> Hmtas:
    with torch.device("meta"):
        network = Hmtas(original_config(attention=attention))
    network.load_state_dict(convert(original_state(), network.config), assign=True)
    return network.eval()


def outputs_of(network: Hmtas, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    scores, _, own = network(rows)
    return {"mix": scores, **own}


def small(**changes: Any) -> HmtasConfig:
    config = HmtasConfig(
        {"visual": 6, "audio": 4}, rows=5, look_ahead=1, d_model=16, heads=2, layers=1, feed_forward=32
    )
    return replace(config, **changes)


def small_thesis_model(name: str) -> HmtasConfig:
    """Return a row of Table 5.2 with windows of 5 rows."""
    config = thesis_model(name, {"tpn": 4, "vtn": 2}, {"audio": 4}, rows=5).config
    return replace(config, d_model=16, heads=2, feed_forward=32)


def build(config: HmtasConfig, seed: int = 3) -> Hmtas:
    torch.manual_seed(seed)
    return Hmtas(config).eval()


def some_rows(config: HmtasConfig, batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, config.rows, width, generator=generator) for name, width in config.widths.items()}


def count(config: HmtasConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Hmtas(config).parameters())


def test_the_weights_are_the_originals(originals: Originals) -> None:
    if not originals.whole:
        pytest.skip("the list of weights is in the full set alone")
    recipes = originals.json("weight_recipes")["hmtas"]["tensors"]
    state = original_state()
    assert {r["name"]: tuple(r["shape"]) for r in recipes} == {name: tuple(x.shape) for name, x in state.items()}
    for recipe in recipes:
        tensor = state[recipe["name"]].double()
        np.testing.assert_allclose(tensor.flatten()[:2], recipe["head"], rtol=1e-6)
        np.testing.assert_allclose(tensor.sum(), recipe.get("sum", tensor.sum()), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("meaning", ATTENTION)
def test_scores_are_the_originals(originals: Originals, meaning: str) -> None:
    stored = originals.arrays("hmtas_full")
    with torch.no_grad():
        found = outputs_of(original(ATTENTION[meaning]), original_rows())
    for name in OUTPUTS:
        np.testing.assert_allclose(found[name], stored[f"{meaning}_{name}"], atol=1e-5, rtol=0)


def test_scores_of_a_window_alone_in_its_batch_are_the_originals(originals: Originals) -> None:
    stored = originals.arrays("hmtas_full")
    for i in range(6):
        with torch.no_grad():
            found = outputs_of(original("batch"), {name: x[i : i + 1] for name, x in original_rows().items()})
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name][0], stored[f"orig_single_{name}"][i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("meaning", ATTENTION)
def test_the_loss_is_the_originals(originals: Originals, meaning: str) -> None:
    stored = originals.arrays("hmtas_full")
    out = {name: torch.from_numpy(stored[f"{meaning}_{name}"]) for name in OUTPUTS}
    labels = torch.from_numpy(stored["labels"])
    each = [float(weighted_nll(out[name], labels, WEIGHTS)) for name in OUTPUTS]
    np.testing.assert_allclose(each, stored[f"{meaning}_loss_each"], rtol=1e-5)
    mix = out.pop("mix")
    total = hmtas_loss(mix, out, labels, WEIGHTS)
    np.testing.assert_allclose(float(total), stored[f"{meaning}_loss_total"], rtol=1e-5)
    unweighted = hmtas_loss(mix, {}, labels, column_weights(None))
    np.testing.assert_allclose(float(unweighted), stored[f"{meaning}_loss_unweighted_mix"], rtol=1e-5)


def test_gradients_are_the_originals(originals: Originals) -> None:
    stored = originals.arrays("hmtas_full")
    wanted = json.loads(str(stored["orig_grad_names"]))
    network = original("batch")
    scores, _, own = network(original_rows())
    hmtas_loss(scores, own, torch.from_numpy(stored["labels"]), WEIGHTS).backward()  # type: ignore[no-untyped-call]
    found = {}
    for ours, parameter in network.named_parameters():
        assert parameter.grad is not None
        found[original_name(ours, original_modules())] = float(parameter.grad.norm())
    network.zero_grad()
    assert found.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(found[name], norm, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_missing_a_strange_and_a_misshapen_weight_are_one_sentence() -> None:
    state, config = original_state(), original_config()
    with pytest.raises(DataError, match=r"lack 'conv3B\.weight'"):
        convert({name: x for name, x in state.items() if name != "conv3B.weight"}, config)
    with pytest.raises(DataError, match=r"'fc_extra\.weight' is in the weights"):
        convert({**state, "fc_extra.weight": torch.zeros(1)}, config)
    with pytest.raises(DataError, match=r"'conv1A\.weight' has shape \(512, 128, 1\) .* \(512, 512, 1\) here"):
        convert(state, original_config(audio_width=512))


def test_counters_of_the_normalisations_come_along() -> None:
    state = {**original_state(), "norm2B.num_batches_tracked": torch.tensor(7)}
    converted = convert(state, original_config())
    assert converted["streams.gta.norm.num_batches_tracked"] == 7
    assert converted["streams.audio.norm.num_batches_tracked"] == 0


def test_an_hmtas_has_the_published_number_of_parameters() -> None:
    assert count(original_config()) == 48_660_606
    assert count(original_config(audio_width=512)) == 48_857_214
    assert thesis_model("m7", BAIDU_WIDTHS, {"audio": 512}).config == replace(
        original_config(audio_width=512), widths={**BAIDU_WIDTHS, "audio": 512}
    )


def test_each_row_of_table_5_2_adds_one_thing() -> None:
    rows = [thesis_model(name, BAIDU_WIDTHS, {"audio": 128}) for name in THESIS_MODELS]
    assert [row.config.rows for row in rows] == [7, 3, 3, 3, 3, 3, 3, 3]
    assert [row.config.look_ahead for row in rows] == [3, 1, 1, 1, 1, 1, 1, 1]
    assert [row.class_weights is not None for row in rows] == 5 * [False] + 3 * [True]
    head, projection, stem = 512 * 18 + 18, 8576 * 512, 2 * 512
    m = [count(row.config) for row in rows]
    assert m[0] == m[1] == 8576 * 18 + 18
    assert m[2] == projection + stem + LAYER + head
    assert m[3] == m[2] + LAYER
    assert m[4] == projection + 5 * stem + 6 * 2 * LAYER + head
    assert m[5] == m[4]
    assert m[6] == m[5] + 128 * 512 + stem + 2 * LAYER
    assert m[7] == m[6] + 6 * head == 48_660_606


def test_a_row_that_table_5_2_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no model 'm8'"):
        thesis_model("m8", {"tpn": 4}, {})


def test_a_fully_connected_network_is_a_linear_layer_on_the_maximum_of_the_rows() -> None:
    config = small_thesis_model("m1")
    network, rows = build(config), some_rows(config, 2)
    highest = np.concatenate([x.numpy().max(1) for x in rows.values()], 1)
    logits = highest @ network.out.weight.detach().numpy().T + network.out.bias.detach().numpy()
    scores, shift, own = network(rows)
    np.testing.assert_allclose(scores.detach(), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert shift.shape == (2, 17)
    assert not shift.any()
    assert own == {}


@pytest.mark.parametrize(
    "config", [*map(small_thesis_model, THESIS_MODELS), small(readout="row", positions=True, max_displacement_s=1.25)]
)
def test_an_item_does_not_depend_on_the_rest_of_its_batch(config: HmtasConfig) -> None:
    network, rows = build(config), some_rows(config, 4)
    others = {name: torch.cat([x[:1], x[1:] * 3 - 1]) for name, x in rows.items()}
    assert torch.allclose(network(rows)[0][0], network(others)[0][0], atol=1e-6)


def test_with_attention_over_the_batch_an_item_depends_on_the_rest_as_in_the_original_code() -> None:
    config = small(attention="batch")
    network, rows = build(config), some_rows(config, 4)
    others = {name: torch.cat([x[:1], x[1:] * 3 - 1]) for name, x in rows.items()}
    assert not torch.allclose(network(rows)[0][0], network(others)[0][0], atol=1e-4)


@pytest.mark.parametrize("name", THESIS_MODELS)
def test_the_order_of_rows_does_not_matter_in_the_thesis(name: str) -> None:
    config = small_thesis_model(name)
    network, rows = build(config), some_rows(config, 2)
    turned = {name: x.flip(1) for name, x in rows.items()}
    assert torch.allclose(network(rows)[0], network(turned)[0], atol=1e-6)


def test_with_positions_the_order_of_rows_matters() -> None:
    config = small(readout="row", positions=True)
    network, rows = build(config), some_rows(config, 2)
    with torch.no_grad():
        for stream in network.streams.values():
            stream.positions.mul_(50)  # type: ignore[operator]
    turned = {name: x.clone() for name, x in rows.items()}
    for x in turned.values():
        x[:, :3] = x[:, :3].flip(1)  # the row that is read stays where it is
    assert not torch.allclose(network(rows)[0], network(turned)[0], atol=1e-4)


def test_a_displacement_output_starts_at_none_and_stays_in_reach() -> None:
    config = small(max_displacement_s=1.25)
    network, rows = build(config), some_rows(config, 2)
    assert not network(rows)[1].any()
    assert network.displacement is not None
    nn.init.constant_(network.displacement.bias, 50)
    assert torch.allclose(network(rows)[1], torch.tensor(1.25))


def test_a_network_for_several_look_aheads_takes_the_windows_of_each() -> None:
    config = small(rows=7, look_ahead=4, look_aheads=(0, 2, 4), readout="row", positions=True, max_displacement_s=0.8)
    network, rows = build(config), some_rows(config, 3)
    assert config.look_behind == 2
    said = {k: network({name: x[:, : 3 + k] for name, x in rows.items()}) for k in config.look_aheads}
    assert {(scores.shape, shift.shape) for scores, shift, _ in said.values()} == {((3, 18), (3, 17))}
    later = {name: torch.cat([x[:, :5], x[:, 5:] * 3 - 1], 1) for name, x in rows.items()}
    assert torch.equal(network({name: x[:, :5] for name, x in later.items()})[0], said[2][0])
    assert not torch.allclose(network(later)[0], said[4][0], atol=1e-4)


def test_each_look_ahead_is_told_to_the_network_by_a_vector_of_its_own() -> None:
    config = small(rows=5, look_ahead=2, look_aheads=(1, 2), readout="row")
    network, rows = build(config), some_rows(config, 2)
    before = {k: network({name: x[:, : 3 + k] for name, x in rows.items()})[0] for k in (1, 2)}
    with torch.no_grad():
        for stream in network.streams.values():
            stream.horizons[0].add_(torch.randn(16))  # type: ignore[index]
    after = {k: network({name: x[:, : 3 + k] for name, x in rows.items()})[0] for k in (1, 2)}
    assert not torch.allclose(before[1], after[1], atol=1e-4)
    assert torch.equal(before[2], after[2])


def test_a_single_look_ahead_has_no_vector_and_the_same_weights_as_before() -> None:
    alone, named = (build(small(readout="row", **more)) for more in ({}, {"look_aheads": (1,)}))
    assert alone.state_dict().keys() == named.state_dict().keys()
    rows = some_rows(alone.config, 2)
    assert torch.equal(alone(rows)[0], named(rows)[0])


def test_every_layer_of_an_encoder_starts_with_its_own_weights() -> None:
    network = build(small(layers=2))
    assert network.mix is not None
    first, second = network.mix.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_intermediate_supervision_has_three_tenths_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    final, *own = torch.from_numpy(rng.uniform(0.1, 0.9, (4, 5, 18)).astype(np.float32))
    targets = torch.from_numpy(rng.integers(0, 2, (5, 18)).astype(np.float32))
    of_streams = [weighted_nll(scores, targets, WEIGHTS) for scores in own]
    together = hmtas_loss(final, {str(i): scores for i, scores in enumerate(own)}, targets, WEIGHTS)
    alone = weighted_nll(final, targets, WEIGHTS)
    assert torch.isclose(together, 0.7 * alone + 0.1 * sum(of_streams))
    assert torch.equal(hmtas_loss(final, {}, targets, WEIGHTS), alone)


def test_in_half_precision_scores_and_loss_stay_finite_and_in_full() -> None:
    config = small()
    network, rows = build(config), some_rows(config, 3)
    nn.init.constant_(network.out.bias, 12)  # bfloat16 rounds the score of that to 1
    with torch.autocast("cpu", torch.bfloat16):
        scores, _, own = network(rows)
        loss = hmtas_loss(scores, own, torch.zeros(3, 18), WEIGHTS)
    assert scores.dtype == loss.dtype == torch.float32
    assert (scores < 1).all()
    assert loss.isfinite()


def test_class_weights_follow_the_labels() -> None:
    weights = dict(zip(("background", *SOCCERNET_LABELS), WEIGHTS.tolist(), strict=True))
    assert weights["background"] == 1
    assert (weights["Penalty"], weights["Substitution"], weights["Red card"]) == (20, 15, 30)
    assert (weights["Goal"], weights["Yellow card"], weights["Yellow->red card"]) == (10, 10, 30)
    assert column_weights(CLASS_WEIGHTS, ("Goal", "Penalty")).tolist() == [1, 10, 20]
    with pytest.raises(ValueError, match="no class weight for Pass"):
        column_weights(CLASS_WEIGHTS, ("Goal", "Pass"))


class _Exported(nn.Module):
    """The network as it is exported: one tensor a stream in."""

    def __init__(self, network: Hmtas) -> None:
        super().__init__()
        self.network = network

    def forward(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        scores, shift, _ = self.network(dict(zip(self.network.config.widths, rows, strict=True)))
        return scores, shift


@pytest.mark.parametrize("name", ["m0", "m3", "m7"])
def test_the_thesis_models_export_to_onnx(name: str, tmp_path: Path) -> None:
    config = small_thesis_model(name)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter cannot follow it
    try:
        worst = export_graph(
            _Exported(build(config)), tmp_path / "head.onnx", some_rows(config, 1), ["scores", "displacement"], {}
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert worst <= 1e-5
    assert [i.name for i in onnx.load(str(tmp_path / "head.onnx")).graph.input] == list(config.widths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"look_ahead": 5}, "look_ahead is 5; a window of 5 rows allows 0 to 4"),
        ({"readout": "mean"}, "readout is 'mean'; accepted: 'max', 'row'"),
        ({"attention": "time"}, "attention is 'time'; accepted: 'window', 'batch'"),
        ({"look_aheads": (1, 0)}, "they must rise to look_ahead, 1"),
        ({"look_aheads": (0, 2)}, "they must rise to look_ahead, 1"),
        ({"look_aheads": (0, 1)}, "several look-aheads need readout 'row'"),
        ({"layers": -1}, "layers is -1"),
        ({"layers": 0}, "without an encoder layer"),
        ({"layers": 0, "hierarchy": False, "intermediate": False, "positions": True}, "without an encoder layer"),
        ({"hierarchy": False}, "intermediate supervision needs a hierarchy"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)
