"""The benchmark's literal loops do what the originals do; else its ratios would mean nothing."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from originals import Originals

from engines.labels import SOCCERNET_LABELS
from engines.nms import greedy
from training.data.results import HALVES, read_predictions, read_truth
from training.encodings import k_rows, time_shifts
from training.metric import TOLERANCES_S
from training.windows import training_targets


@pytest.fixture
def loops(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("original_loops", root / "benchmarks" / "original_loops.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loops_match_as_the_original_does(originals: Originals, loops: Any) -> None:
    arrays = originals.arrays("metric_arrays")
    for delta in (2, 10, 120):
        half = (arrays[f"c0_{what}"] for what in ("target", "closest", "detection"))
        rows, visible, unshown = loops.half_scores(*half, delta)
        assert rows.tolist() == arrays[f"c0_d{delta}_rows"].tolist()
        assert [visible, unshown] == arrays[f"c0_d{delta}_n"].tolist()
    assert loops.closest(arrays["c0_target"][:, None])[:, 0].tolist() == arrays["c0_closest"].tolist()


def test_the_loops_give_the_originals_figures(originals: Originals, loops: Any, tmp_path: Path) -> None:
    case = originals.json("metric_cases")["duplicates_last_wins"]
    truths, predictions = [], []
    for game in case["games"].values():
        for name, key in (("labels.json", "annotations"), ("results.json", "predictions")):
            (tmp_path / name).write_text(json.dumps({key: game[key]}))
        truth, found = read_truth(tmp_path / "labels.json")[0], read_predictions(tmp_path / "results.json")[0]
        truths += [truth[half] for half in HALVES]
        predictions += [found[half] for half in HALVES]
    arrays = list(loops.grids(truths, predictions))
    targets, closests, detections = ([half[i] for half in arrays] for i in range(3))
    for metric in ("tight", "at2"):
        averages = loops.average_maps(targets, closests, detections, 2, TOLERANCES_S[metric])
        for values, part in zip(averages, ("", "_visible", "_unshown"), strict=True):
            assert values == pytest.approx(case["results"][metric][f"a_mAP_per_class{part}"], abs=1e-12, rel=0)


def test_the_other_loops_give_what_ours_do(loops: Any) -> None:
    scores_TC = np.random.default_rng(0).beta(1, 6, (300, 2))
    for window in (7, 40):
        suppressed = loops.suppressed(scores_TC, window)
        for c in range(2):
            assert np.flatnonzero(suppressed[:, c] >= 0).tolist() == sorted(greedy(scores_TC[:, c], window, 0.0)[0])
    actions = loops.some_actions(5)
    onehot_TC = np.zeros((loops.ROWS, 17))
    onehot_TC[tuple(actions.T)] = 1
    k_4C = k_rows(SOCCERNET_LABELS, 2)
    assert np.array_equal(loops.shifts(onehot_TC, k_4C), time_shifts(actions, loops.ROWS, k_4C))
    seconds = actions // np.array([2, 1])
    assert np.array_equal(loops.window_labels(seconds, 2700, 3), training_targets(seconds, 2700, 3))
