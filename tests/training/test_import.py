"""Weights of the originals, imported and run on features as a user does, against the original's own steps."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Touchline
from originals import Originals, inputs, weight

from engines.bundle import open_bundle
from engines.labels import SOCCERNET_LABELS
from engines.nms import greedy
from training.chunks import chunk_starts, stitch, take_chunks
from training.encodings import decode_spotting
from training.importers import calf as calf_names
from training.importers import hmtas as hmtas_names
from training.importers import pooling as pooling_names
from training.models.calf import Calf, CalfConfig
from training.models.hmtas import Hmtas
from training.models.pooling import Pooling, PoolingConfig
from training.windows import scored_batches, scoring_windows

State = dict[str, torch.Tensor]
Spots = dict[str, list[tuple[int, float]]]


def original_weights(originals: Originals, model: str, seed: int) -> State:
    """Weights under the original's names, drawn as the fixtures' were."""
    tensors = originals.json("weight_recipes")[model]["tensors"]
    return {t["name"]: torch.from_numpy(weight(seed, t["name"], t["shape"])) for t in tensors}


def imported(touchline_here: Touchline, folder: Path, model: str, state: State, *more: str) -> Path:
    torch.save({"state_dict": state}, folder / "weights.pth.tar")
    bundle = folder / model
    ended = touchline_here("import", model, folder / "weights.pth.tar", "--out", bundle, *more)
    assert ended.code == 0, ended.err
    return bundle


def spotted(touchline_here: Touchline, bundle: Path, folder: Path, features: dict[str, np.ndarray]) -> Spots:
    """What `touchline spot` says of half 1: label → (position in ms, confidence), in order of time."""
    files = []
    for name, rows in features.items():
        np.save(folder / f"1_{name}.npy", rows)
        files.append(folder / f"1_{name}.npy")
    ended = touchline_here("spot", *files, "--bundle", bundle, "--out", folder / "out.json")
    assert ended.code == 0, ended.err
    found: Spots = defaultdict(list)
    for p in json.loads((folder / "out.json").read_text())["predictions"]:
        found[p["label"]].append((int(p["position"]), float(p["confidence"])))
    return found


def suppressed(scores_TC: np.ndarray, windows: list[int], threshold: float, rate: int) -> Spots:
    """The original's rule on a half's scores."""
    found: Spots = {}
    for c, label in enumerate(SOCCERNET_LABELS):
        rows, values = greedy(scores_TC[:, c], windows[c], threshold)
        found[label] = sorted((int(r) * 1000 // rate, float(v)) for r, v in zip(rows, values, strict=True))
    return found


def assert_same(found: Spots, wanted: Spots) -> None:
    assert sum(map(len, wanted.values())) > 10
    for label, spots in wanted.items():
        assert [t for t, _ in found[label]] == [t for t, _ in spots], label
        assert np.allclose([c for _, c in found[label]], [c for _, c in spots], atol=1e-5)


@pytest.mark.parametrize("rows", [240, 700])
def test_an_imported_calf_gives_the_originals_spots(
    touchline_here: Touchline, originals: Originals, tmp_path: Path, rows: int
) -> None:
    """Where the original misplaces its last chunk (700 rows), the spots are those of the right stitching."""
    state = original_weights(originals, "calf_c17", 1701)
    features = inputs(rows, (rows, 512))
    net = Calf(CalfConfig({"visual": 512})).eval()
    net.load_state_dict(calf_names.convert(state, net.config))
    with torch.no_grad():
        spotting = net({"visual": torch.from_numpy(take_chunks(features, chunk_starts(rows)))})[1].numpy()
    scores = stitch(decode_spotting(spotting, 240), rows)
    bundle = imported(touchline_here, tmp_path, "calf", state)
    found = spotted(touchline_here, bundle, tmp_path, {"ResNET_TF2_PCA512": features})
    assert_same(found, suppressed(scores, [40] * 17, 1e-12, 2))


def test_an_imported_netvlad_gives_the_originals_spots(
    touchline_here: Touchline, originals: Originals, tmp_path: Path
) -> None:
    state = original_weights(originals, "pool_NetVLAD++_D512", 9050)
    features = inputs(5, (400, 512))
    net = Pooling(PoolingConfig({"visual": 512})).eval()
    net.load_state_dict(pooling_names.convert(state, net.config))
    with torch.no_grad():
        scores = net({"visual": torch.from_numpy(features[scoring_windows(400, 30)])})[:, 1:].numpy()
    bundle = imported(touchline_here, tmp_path, "pooling", state)
    found = spotted(touchline_here, bundle, tmp_path, {"ResNET_TF2_PCA512": features})
    assert_same(found, suppressed(scores, [60] * 17, 0.0, 2))


def test_an_imported_hmtas_gives_the_originals_spots(
    touchline_here: Touchline, originals: Originals, tmp_path: Path
) -> None:
    """With attention over the window; the last two seconds have no score, as in the original."""
    if not originals.whole:
        pytest.skip("drawing 49 million weights once is enough: done with the full set of fixtures")
    state = original_weights(originals, "hmtas", 4242)
    config = hmtas_names.original_config()
    visual, audio = inputs(7, (60, 8576)), inputs(8, (60, 128))
    net = Hmtas(config).eval()
    net.load_state_dict(hmtas_names.convert(state, config))
    index = scoring_windows(60, 3)[: scored_batches(59)[-1][1]]
    columns, first = {"audio": audio}, 0
    for name, width in hmtas_names.BAIDU_WIDTHS.items():
        columns[name] = visual[:, first : first + width]
        first += width
    with torch.no_grad():
        scores = net({name: torch.from_numpy(x[index]) for name, x in columns.items()})[0][:, 1:].numpy()
    bundle = imported(touchline_here, tmp_path, "hmtas", state)
    found = spotted(touchline_here, bundle, tmp_path, {"baidu_soccer_embeddings": visual, "audio": audio})
    windows = [12, 7, 20, 9, 9, 9, 9, 7, 7, 7, 7, 7, 20, 20, 9, 20, 20]
    assert_same(found, suppressed(scores, windows, 0.2, 1))


def test_weights_of_another_model_are_one_sentence(
    touchline_here: Touchline, originals: Originals, tmp_path: Path
) -> None:
    state = original_weights(originals, "pool_NetVLAD++_D512", 9050)
    torch.save(state, tmp_path / "weights.pth")
    ended = touchline_here("import", "calf", tmp_path / "weights.pth", "--out", tmp_path / "bundle")
    assert ended.code == 1
    assert "holds no weights of calf" in ended.complaint


def test_max_and_avg_must_be_told_apart_by_the_user(touchline_here: Touchline, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(18, 512), "fc.bias": torch.zeros(18)}, tmp_path / "weights.pth")
    ended = touchline_here("import", "pooling", tmp_path / "weights.pth", "--out", tmp_path / "bundle")
    assert (ended.code, "--pool max or avg" in ended.complaint) == (2, True)
    assert (
        touchline_here(
            "import", "pooling", tmp_path / "weights.pth", "--out", tmp_path / "bundle", "--pool", "max"
        ).code
        == 0
    )


def max_weights(outputs: int = 18) -> State:
    return {"fc.weight": torch.zeros(outputs, 512), "fc.bias": torch.zeros(outputs)}


def older_netvlad(outputs: int = 18) -> State:
    return {
        "pool_layer.conv.weight": torch.rand(64, 512, 1, 1),
        "pool_layer.centroids": torch.rand(64, 512),
        "fc.weight": torch.rand(outputs, 64 * 512) / 100,
        "fc.bias": torch.zeros(outputs),
    }


def manifest_of(bundle: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return fields


@pytest.mark.parametrize(
    ("state", "more", "wanted"),
    [
        (older_netvlad(), (), (40, 20, 0.5)),
        (older_netvlad(), ("--older", "--window", "30"), (30, 20, 0.5)),
        (max_weights(), ("--older",), (40, 20, 0.0)),
        (max_weights(), ("--older", "--rate", "1"), (20, 20, 0.0)),
        (max_weights(), ("--pool", "max"), (30, 30, 0.0)),
    ],
)
def test_the_older_pooling_code_has_windows_and_thresholds_of_its_own(
    touchline_here: Touchline, tmp_path: Path, state: State, more: tuple[str, ...], wanted: tuple[int, float, float]
) -> None:
    manifest = manifest_of(imported(touchline_here, tmp_path, "pooling", state, *more))
    decision = manifest["decision"]["Goal"]
    assert (manifest["head"]["rows"], decision["window_s"], decision["threshold"]) == wanted


def small_calf() -> State:
    """A CALF of 3 labels and 5 anchors under the original's names, on rows 8 wide."""
    torch.manual_seed(0)
    net = Calf(CalfConfig({"visual": 8}, anchors=5, labels=("soccer", "card", "subs")))
    names = {"base.0": "conv_1", "base.1": "conv_2", "segment.0": "conv_seg", "segment_norm": "batch_seg"}
    names |= {f"pyramid.{i}": f"conv_p_{i + 1}" for i in range(4)} | {f"spot.{i}": f"conv_spot_{i + 1}" for i in (0, 1)}
    names |= {"place": "conv_conf", "label": "conv_class"}
    state = {}
    for name, tensor in net.state_dict().items():
        module, _, kind = name.rpartition(".")
        theirs = f"{names[module]}.{kind}"
        if theirs == "conv_1.weight":
            tensor = tensor.mT[:, None]
        elif kind == "weight" and module in ("place", "label"):
            tensor = tensor[..., None, None]
        elif kind == "weight" and tensor.ndim == 3:
            tensor = tensor[..., None]
        state[theirs] = tensor
    return state


WIDTH_8 = ("--features", "own", "--rate", "2")


def test_labels_of_v1_stand_in_each_codes_own_order(touchline_here: Touchline, tmp_path: Path) -> None:
    pooling = imported(touchline_here, tmp_path, "pooling", max_weights(4), "--pool", "max")
    assert manifest_of(pooling)["labels"] == ["card", "subs", "soccer"]
    calf = imported(touchline_here, tmp_path, "calf", small_calf(), *WIDTH_8)
    assert manifest_of(calf)["labels"] == ["soccer", "card", "subs"]


def test_a_calf_with_average_pooling_gives_that_ones_scores(touchline_here: Touchline, tmp_path: Path) -> None:
    state, rows = small_calf(), inputs(3, (1, 240, 8))
    bundle = open_bundle(imported(touchline_here, tmp_path, "calf", state, *WIDTH_8, "--pool", "avg"))
    scores = bundle.head.run({"visual": rows})["scores"]
    for pooling in ("avg", "max"):
        config = CalfConfig({"visual": 8}, anchors=5, labels=("soccer", "card", "subs"), pooling=pooling)
        net = Calf(config).eval()
        net.load_state_dict(calf_names.convert(state, config))
        with torch.no_grad():
            wanted = decode_spotting(net({"visual": torch.from_numpy(rows)})[1].numpy(), 240)
        assert np.allclose(scores, np.maximum(wanted, 0), atol=1e-5) == (pooling == "avg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_seg.weight": torch.zeros(10)}, "rows is 10"),
        ({"conv_p_4.weight": torch.zeros(64, 32, 81, 1)}, "receptive_field is 81"),
        ({"conv_seg.weight": None}, "0 segmentation_kernels"),
        ({"conv_conf.weight": torch.zeros(1, 464, 1, 1)}, "holds no weights of calf"),
        ({"conv_class.weight": torch.zeros(0, 464, 1, 1)}, "no label"),
        ({"conv_1.weight": torch.zeros(128, 1, 1, 200_000)}, "width"),
    ],
)
def test_weights_that_make_no_network_are_one_sentence_that_names_the_file(
    touchline_here: Touchline, tmp_path: Path, change: dict[str, torch.Tensor | None], said: str
) -> None:
    state = {name: x for name, x in (small_calf() | change).items() if x is not None}
    torch.save(state, tmp_path / "weights.pth")
    ended = touchline_here("import", "calf", tmp_path / "weights.pth", "--out", tmp_path / "bundle", *WIDTH_8)
    assert ended.code == 1
    assert str(tmp_path / "weights.pth") in ended.complaint
    assert said in ended.complaint


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--labels", *"abcdefghijklmno", "p", "p"), "names p more than once"),
        (("--older", "--pool", "avg"), "leave --older out"),
        (("--pool", "max++", "--window", "1"), "needs at least 2 rows"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(
    touchline_here: Touchline, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    torch.save(max_weights(), tmp_path / "weights.pth")
    ended = touchline_here(
        "import", "pooling", tmp_path / "weights.pth", "--out", tmp_path / "bundle", "--pool", "max", *more
    )
    assert ended.code in (1, 2)
    assert said in ended.complaint


@pytest.mark.parametrize(
    "more",
    [
        ("--window", "0"),
        ("--window", "-5"),
        ("--window", "200000"),
        ("--features", "a/b"),
        ("--features", "a\\b"),
        ("--features", ""),
    ],
)
def test_options_out_of_bounds_are_usage_errors(
    touchline_here: Touchline, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        touchline_here("import", "pooling", tmp_path / "weights.pth", "--out", tmp_path / "bundle", *more)
    assert ended.value.code == 2


def test_what_does_not_belong_to_the_model_is_refused(touchline_here: Touchline, tmp_path: Path) -> None:
    torch.save(small_calf(), tmp_path / "weights.pth")
    for more, said in ((("--older",), "--older is for weights of pooling"), (("--pool", "netvlad"), "max or avg")):
        ended = touchline_here("import", "calf", tmp_path / "weights.pth", "--out", tmp_path / "bundle", *more)
        assert (ended.code, said in ended.complaint) == (2, True)
