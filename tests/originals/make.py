"""Make the small copies beside this file from the full set of fixtures: `python tests/originals/make.py FIXTURES`.

A copy keeps the file's name and, of its arrays, those named here, cut where the slice says so.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent

POOLS = tuple(f"{pool}{plus}" for pool in ("MAX", "AVG", "NetVLAD", "NetRVLAD") for plus in ("", "++"))
POOL_CASES = ("D512", "D512_logits", "D512_loss", "D2048", "D2048_logits", "D2048_loss", "D512_T7")
POOL_CRASHES = (("MAX++", "D512_T7"), ("AVG++", "D512_T7"))

CALF = ("seg", "spot")
CALF_EVENTS = ("none", "single_mid", "two_close", "two_adjacent", "first_and_last", "three_close", "near_edges")
CALF_STITCHED = ("chunk_first_last", "spot_in", "long_idx", "long_val", "content_index", "nms_idx", "nms_val")

ARRAYS: dict[str, dict[str, tuple[slice, ...]]] = {
    # file: {array: what to keep of each axis}
    "calf_encodings.npz": {
        **dict.fromkeys(("cases_json", "K17_frames", "K3_frames", "tse17__three_close", "tse17__near_edges"), ()),
        **{f"tse3__{case}": () for case in CALF_EVENTS},
        **dict.fromkeys(("yolo_starts", "yolo_targets", "yolo_many_onehot_frames", "yolo_many"), ()),
    },
    "calf_full.npz": {
        **{
            f"{size}_{mode}_{out}": np.s_[:1, :80]
            for size in ("c17", "c3")
            for mode in ("eval", "train")
            for out in CALF
        },
        **{f"{size}_bn_running_{stat}_after": () for size in ("c17", "c3") for stat in ("mean", "var")},
        "c17_avgpool_eval_spot": np.s_[:1,],
    },
    "calf_losses.npz": {
        **{name: np.s_[:1, 20:60] for name in ("seg_labels", "seg_pred", "seg_grad", "seg_v2021_01_grad")},
        **{f"seg_{release}scan_class{c}": np.s_[::8, ::2] for release in ("", "v2021_01_") for c in (2, 5, 16)},
        **{"seg_scan_x": np.s_[::8,], "seg_scan_p": np.s_[::2,], "seg_extremes_class2": ()},
        **dict.fromkeys(("spot_true", "spot_pred", "spot_loss", "spot_grad", "spot_permutation"), ()),
        **{f"match_{what}": () for what in ("true", "pred", "permutation", "loss")},
        **{f"rand_{what}": np.s_[:8,] for what in ("true", "pred", "permutation", "loss")},
    },
    "calf_modified_reading.npz": {
        f"{variant}_{out}": np.s_[:1, :40]
        for variant in ("pool", "seg_pool", "base_pool", "base_seg_pool")
        for out in CALF
    },
    "calf_stitching.npz": {f"N{rows}_{what}": () for rows in (240, 321, 500, 560) for what in CALF_STITCHED},
    "metric_arrays.npz": {
        name: ()
        for k in range(3)
        for name in (
            *(f"c{k}_{what}" for what in ("target", "closest", "detection")),
            *(f"c{k}_d{delta}_{what}" for delta in (2, 4, 10, 40, 120) for what in ("rows", "n")),
        )
    },
    "pooling_full.npz": {"labels": ()}
    | {f"{pool}_{case}": () for pool in POOLS for case in POOL_CASES if (pool, case) not in POOL_CRASHES}
    | {f"{pool}_{width}_vec_head": np.s_[:, :16] for pool in POOLS for width in ("D512", "D2048")},
    "vggish.npz": {
        "wave_i16": np.s_[:16_000,],
        "examples": np.s_[:1, :24],
        **dict.fromkeys(("log_mel_first8", "mel_matrix", "mel_matrix_colsum", "hann_periodic_400"), ()),
        **dict.fromkeys(("log_mel_silence_value", "frame_counts"), ()),
    },
}

WHOLE: tuple[str, ...] = (
    "weight_recipes.json",
    # files that are small enough to keep as they are
    "calf_anchors.json",
    "pooling_reduced.npz",
    "rmsnet_head.npz",
    "hmtas_full.npz",
    "hmtas_labels.json",
    "hmtas_windows.json",
    "metric_timing.json",
)


def _nms(content: dict[str, Any]) -> dict[str, Any]:
    """Keep the short signals, and every other of their cases."""
    signals = {name: values for name, values in content["signals"].items() if len(values) < 60}
    cases = [case for case in content["cases"] if case["signal"] in signals]
    return content | {"signals": signals, "cases": cases[::2]}


def _metric_cases(content: dict[str, Any]) -> dict[str, Any]:
    """Keep the small cases, one tolerance boundary among them."""
    small = [name for name, case in content.items() if len(json.dumps(case)) < 5000]
    return {name: content[name] for name in small if not name.startswith("boundary") or name == "boundary_500ms"}


CUT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # file: what to keep of it
    "metric_cases.json": _metric_cases,
    "nms.json": _nms,
}


def main(fixtures: Path) -> None:
    """Write every copy."""
    for name, arrays in ARRAYS.items():
        with np.load(fixtures / name) as file:
            np.savez_compressed(HERE / name, **{key: file[key][part] for key, part in arrays.items()})
    for name in WHOLE:
        (HERE / name).write_bytes((fixtures / name).read_bytes())
    for name, cut in CUT.items():
        content = cut(json.loads((fixtures / name).read_text(encoding="utf-8")))
        (HERE / name).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
