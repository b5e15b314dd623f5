from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from originals import Originals, inputs
from originals import weight as original_weight
from torch import Tensor

from engines.errors import DataError
from training.encodings import K_SECONDS_V1
from training.export import export_graph
from training.importers.calf import convert
from training.models.calf import VARIANTS, Calf, CalfConfig

V2 = CalfConfig({"visual": 512})
V1 = CalfConfig({"visual": 512}, anchors=5, labels=tuple(K_SECONDS_V1))
MODIFIED = CalfConfig({"visual": 512}, **VARIANTS["Base+Seg+Pool"])
REDUCED = CalfConfig({"visual": 8}, rows=48, receptive_field=16, anchors=4, capsules=4, labels=("a", "b", "c"))


def original_shapes(config: CalfConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the original's tensors."""
    labels, wide = len(config.labels), sum(config.widths.values())
    kernels: dict[str, tuple[int, ...]] = {"conv_1": (128, 1, 1, wide), f"conv_{config.base_layers}": (32, 128, 1, 1)}
    kernels |= {f"conv_{i}": (128, 128, 3, 3) for i in range(2, config.base_layers)}
    reach = config.receptive_field
    for i, (out, share) in enumerate([(8, 7), (16, 3), (32, 2), (64, 1)], 1):
        kernels[f"conv_p_{i}"] = (out, 32, int(np.ceil(reach / share)), 1)
    halves = len(config.segmentation_kernels)
    for i, kernel in enumerate(config.segmentation_kernels):
        name = "conv_seg" if halves == 1 else ("conv_seg_a", "conv_seg_b")[i]
        kernels[name] = (config.capsules * labels // halves, 152, kernel, 1)
    kernels |= {"conv_spot_1": (32, (config.capsules + 1) * labels, 3, 1), "conv_spot_2": (16, 32, 3, 1)}
    pooled = 16 * (config.rows // 8 - 1)
    kernels |= {"conv_conf": (2 * config.anchors, pooled, 1, 1), "conv_class": (labels * config.anchors, pooled, 1, 1)}
    shapes = {f"{name}.weight": shape for name, shape in kernels.items()}
    shapes |= {f"{name}.bias": (shape[0],) for name, shape in kernels.items()}
    return shapes | {f"batch_seg.{leaf}": (config.rows,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def original_state(config: CalfConfig, seed: int) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(original_weight(seed, name, shape)) for name, shape in original_shapes(config).items()
    }


def with_original_weights(config: CalfConfig, seed: int) -> Calf:
    net = Calf(config)
    net.load_state_dict(convert(original_state(config, seed), config))
    return net.eval()


def original_rows(seed: int) -> dict[str, Tensor]:
    return {"visual": torch.from_numpy(inputs(seed, (2, 1, 240, 512)))[:, 0]}


def assert_close(found: Tensor, wanted: np.ndarray, atol: float = 1e-5, rtol: float = 0) -> None:
    there = found.detach()[tuple(slice(length) for length in wanted.shape)]
    np.testing.assert_allclose(there.numpy(), wanted, atol=atol, rtol=rtol)


CASES = [("c17", V2, 1701, 1702), ("c3", V1, 301, 302)]


@pytest.mark.parametrize(("case", "config", "weights", "rows"), CASES)
def test_with_the_originals_weights_its_outputs_come_out(
    originals: Originals, case: str, config: CalfConfig, weights: int, rows: int
) -> None:
    stored, net = originals.arrays("calf_full"), with_original_weights(config, weights)
    segmentation, anchors = net(original_rows(rows))
    assert_close(segmentation, stored[f"{case}_eval_seg"])
    assert_close(anchors, stored[f"{case}_eval_spot"])


@pytest.mark.parametrize(("case", "config", "weights", "rows"), CASES)
def test_in_training_rows_are_normalised_over_the_batch_as_in_the_original(
    originals: Originals, case: str, config: CalfConfig, weights: int, rows: int
) -> None:
    stored, net = originals.arrays("calf_full"), with_original_weights(config, weights).train()
    segmentation, anchors = net(original_rows(rows))
    assert_close(segmentation, stored[f"{case}_train_seg"])
    assert_close(anchors, stored[f"{case}_train_spot"])
    state = net.state_dict()
    assert_close(state["segment_norm.running_mean"], stored[f"{case}_bn_running_mean_after"])
    assert_close(state["segment_norm.running_var"], stored[f"{case}_bn_running_var_after"])


def test_with_average_pooling_the_anchors_alone_change(originals: Originals) -> None:
    stored = originals.arrays("calf_full")
    pooled = with_original_weights(CalfConfig({"visual": 512}, **VARIANTS["Pool"]), 1701)
    segmentation, anchors = pooled(original_rows(1702))
    assert_close(anchors, stored["c17_avgpool_eval_spot"])
    assert_close(segmentation, stored.get("c17_avgpool_eval_seg", stored["c17_eval_seg"]))


@pytest.mark.parametrize("variant", ["Pool", "Seg+Pool", "Base+Pool", "Base+Seg+Pool"])
def test_the_modified_models_are_configurations(originals: Originals, variant: str) -> None:
    stored, name = originals.arrays("calf_modified_reading"), variant.lower().replace("+", "_")
    net = with_original_weights(CalfConfig({"visual": 512}, **VARIANTS[variant]), 5150)
    segmentation, anchors = net(original_rows(1702))
    assert_close(segmentation, stored[f"{name}_seg"])
    assert_close(anchors, stored[f"{name}_spot"])


def test_every_layer_of_a_small_calf_gives_the_originals_numbers(shared: Path) -> None:
    with np.load(shared / "fixtures" / "calf_reduced.npz") as file:
        stored = dict(file)
    net = Calf(REDUCED).eval()
    state = {name[3:]: torch.from_numpy(array) for name, array in stored.items() if name.startswith("w__")}
    net.load_state_dict(convert(state, REDUCED))
    seen: dict[str, Tensor] = {}
    layers = {
        "conv_p_4": net.pyramid[3],
        "conv_seg": net.segment[0],
        "batch_seg": net.segment_norm,
        "conv_spot_1": net.spot[0],
        "conv_spot_2": net.spot[1],
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    pools = iter(["max_pool_spot", "max_pool_spot_1", "max_pool_spot_2"])
    net.pool.register_forward_hook(lambda _, __, out: seen.__setitem__(next(pools), out))
    segmentation, anchors = net({"visual": torch.from_numpy(stored["x"])[:, 0]})
    activations = [name for name in stored if name.startswith("act__")]
    assert len(activations) == 7
    for name in activations:
        wanted = stored[name]
        assert_close(seen[name[5:]], wanted[..., 0] if name != "act__batch_seg" else wanted)
    assert_close(segmentation, stored["seg"])
    assert_close(anchors, stored["spot"])


@pytest.mark.parametrize(
    ("recipe", "config"),
    [("calf_c17", V2), ("calf_c3", V1), ("calf_modified_base_seg_pool", MODIFIED)],
)
def test_the_importer_knows_every_tensor_of_the_original(shared: Path, recipe: str, config: CalfConfig) -> None:
    stored = Originals(shared / "fixtures", whole=True).json("weight_recipes")[recipe]["tensors"]
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in stored} == original_shapes(config)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 578_245),
        ({"labels": tuple(K_SECONDS_V1), "anchors": 5}, 332_129),
        ({"labels": tuple(K_SECONDS_V1)}, 355_379),
        ({"anchors": 5}, 489_895),
        (VARIANTS["Pool"], 578_245),
        (VARIANTS["Seg+Pool"], 578_245),
        (VARIANTS["Base+Pool"], 1_168_581),
        (VARIANTS["Base+Seg+Pool"], 1_168_581),
    ],
)
def test_the_number_of_parameters_is_the_originals(changes: Mapping[str, Any], wanted: int) -> None:
    assert sum(p.numel() for p in Calf(CalfConfig({"visual": 512}, **changes)).parameters()) == wanted


def small(**changes: Any) -> Calf:
    torch.manual_seed(1)
    fields = {"widths": {"visual": 8}, "rows": 48, "receptive_field": 16, "anchors": 4, "capsules": 4}
    net = Calf(CalfConfig(**{**fields, "labels": ("a", "b", "c"), **changes}))
    with torch.no_grad():  # outputs that depend on the input well within float32
        for parameter in net.parameters():
            parameter.mul_(2)
    return net.eval()


def some_rows(batch: int = 3, **widths: int) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {name: torch.randn(batch, 48, width) for name, width in (widths or {"visual": 8}).items()}


def test_with_equal_kernels_the_two_halves_of_seg_are_the_original_layer() -> None:
    whole, halves, rows = small(), small(segmentation_kernels=(3, 3)), some_rows()
    state = whole.state_dict()
    for leaf in ("weight", "bias"):
        first, second = state.pop(f"segment.0.{leaf}").chunk(2)
        state |= {f"segment.0.{leaf}": first, f"segment.1.{leaf}": second}
    halves.load_state_dict(state)
    for mine, theirs in zip(halves(rows), whole(rows), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("kernels", [(3, 5), (3, 7), (5, 3)])
def test_with_unequal_kernels_each_half_of_the_capsules_sees_its_own_stretch(kernels: tuple[int, int]) -> None:
    net, rows = small(segmentation_kernels=kernels), some_rows(1)
    seen: list[Tensor] = []
    for half in net.segment:
        half.register_forward_hook(lambda _, args, out: seen.append(torch.autograd.grad(out[0, 0, 24], args[0])[0]))
    net({name: x.requires_grad_() for name, x in rows.items()})
    reach = [len(gradient[0].abs().sum(0).nonzero()) for gradient in seen]
    assert reach == list(kernels)


def test_only_the_middle_column_of_a_3_by_3_kernel_matters() -> None:
    net, rows = small(base_layers=6), some_rows()
    before = net(rows)
    wide = [weight for weight in net.base.parameters() if weight.ndim == 4]
    assert len(wide) == 4
    for weight, gradient in zip(wide, torch.autograd.grad(before[0].sum() + before[1].sum(), wide), strict=True):
        assert not gradient[..., [0, 2]].any()
        assert gradient[..., 1].any()
        with torch.no_grad():
            weight[..., [0, 2]] = 9
    for now, then in zip(net(rows), before, strict=True):
        assert torch.equal(now, then)


def test_an_item_does_not_depend_on_the_rest_of_its_batch() -> None:
    net, rows = small(), some_rows()
    others = {name: torch.cat([x[:1], x[1:] * 3 - 1]) for name, x in rows.items()}
    for alone, together in zip(net(others), net(rows), strict=True):
        assert torch.allclose(alone[0], together[0], atol=1e-6)


def test_several_streams_are_one_stream_side_by_side_in_the_configurations_order() -> None:
    two, one, rows = small(widths={"audio": 3, "visual": 5}), small(), some_rows(visual=5, audio=3)
    one.load_state_dict(two.state_dict())
    joined = torch.cat([rows["audio"], rows["visual"]], 2)
    for mine, theirs in zip(two(rows), one({"visual": joined}), strict=True):
        assert torch.equal(mine, theirs)


def test_an_exported_calf_gives_the_same_numbers(tmp_path: Path) -> None:
    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small(base_layers=6, segmentation_kernels=(3, 5), pooling="avg")

        def forward(self, visual: Tensor) -> tuple[Tensor, Tensor]:
            outputs: tuple[Tensor, Tensor] = self.net({"visual": visual})
            return outputs

    module, path, rows = Exported(), tmp_path / "calf.onnx", some_rows(2)
    export_graph(module, path, rows, ["segmentation", "spotting"], {})
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        ["segmentation", "spotting"], {"visual": rows["visual"].numpy()}
    )
    for mine, theirs in zip(found, module(rows["visual"]), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), atol=1e-5)


def test_weights_that_do_not_fit_are_one_sentence_that_names_the_tensor() -> None:
    state = original_state(REDUCED, 1)
    counted = {**state, "batch_seg.num_batches_tracked": torch.tensor(7)}
    assert convert(counted, REDUCED)["segment_norm.num_batches_tracked"] == 7
    with pytest.raises(DataError, match=r"conv_seg\.bias"):
        convert({name: x for name, x in state.items() if name != "conv_seg.bias"}, REDUCED)
    with pytest.raises(DataError, match=r"conv_7\.weight"):
        convert({**state, "conv_7.weight": torch.zeros(1)}, REDUCED)
    for name in ("conv_1.weight", "conv_class.weight", "conv_p_2.weight", "batch_seg.weight"):
        with pytest.raises(DataError, match=name):
            convert({**state, name: torch.zeros(5, 5)}, REDUCED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "pooling is 'mean'"),
        ({"base_layers": 3}, "base_layers is 3"),
        ({"segmentation_kernels": (3, 3, 3)}, "3 segmentation_kernels cannot share 16 capsules"),
        ({"receptive_field": 81}, "receptive_field is 81"),
        ({"rows": 14}, "rows is 14"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalfConfig({"visual": 8}, **changes)


def test_the_chunks_borders_and_hop_follow_from_the_configuration() -> None:
    assert (V2.layout.rows, V2.layout.border, V2.layout.hop) == (240, 40, 160)
    assert (REDUCED.layout.border, REDUCED.layout.hop) == (8, 32)
