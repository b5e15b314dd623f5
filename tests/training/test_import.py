"""Weights of the originals, imported and run on features as a user does, against the original's own steps."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Touchline
from originals import Originals, inputs, weight

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
