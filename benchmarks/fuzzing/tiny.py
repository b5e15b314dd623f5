"""Bundles with graphs of a few hundred bytes: the real thing, only smaller and without sense."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LABELS = ("Goal", "Foul")
ROWS = 4

Inputs = dict[str, tuple[int, Sequence[int]]]
Shapes = dict[str, Sequence[int]]


def _graph(nodes: Sequence[NodeProto], inputs: Inputs, outputs: Shapes, shape: Sequence[int]) -> bytes:
    """Return a serialised graph; the constant `shape` is at hand in it."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, kind, list(dims)) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name, dims in outputs.items()],
        [numpy_helper.from_array(np.array(shape, np.int64), "shape")],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"labels": json.dumps(LABELS)})
    data: bytes = model.SerializeToString()
    return data


def graphs() -> dict[str, bytes]:
    """Return the graphs of two front ends and of a head, by file name; a score is a mean brightness."""
    visual = [
        helper.make_node("Cast", ["pictures"], ["light"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["light"], ["mean"], axes=[1, 2, 3, 4], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["row"]),
    ]
    audio = [
        helper.make_node("ReduceMean", ["samples"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["row"]),
    ]
    both = [
        helper.make_node("Add", ["visual", "audio"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Concat", ["mean", "mean"], ["wide"], axis=1),
        helper.make_node("Sigmoid", ["wide"], ["scores"]),
        helper.make_node("Sub", ["wide", "wide"], ["displacement"]),
        helper.make_node("Reshape", ["scores", "shape"], ["early_scores"]),
        helper.make_node("Reshape", ["displacement", "shape"], ["early_displacement"]),
    ]
    rows: Inputs = {name: (TensorProto.FLOAT, (1, ROWS, 1)) for name in ("visual", "audio")}
    said = dict.fromkeys(("scores", "displacement"), (1, 2)) | dict.fromkeys(
        ("early_scores", "early_displacement"), (1, 1, 2)
    )
    return {
        "visual.onnx": _graph(visual, {"pictures": (TensorProto.UINT8, (1, 2, 8, 16, 3))}, {"row": (1, 1)}, (1, 1)),
        "audio.onnx": _graph(audio, {"samples": (TensorProto.FLOAT, (1, 16_000))}, {"row": (1, 1)}, (1, 1)),
        "head.onnx": _graph(both, rows, dict(said), (1, 1, 2)),
    }


def feature_head() -> bytes:
    """Return the graph of a head for feature files of four columns."""
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["wide"]),
        helper.make_node("MatMul", ["wide", "two"], ["scores"]),
        helper.make_node("Cast", ["shape"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["flat", "form"], ["two"]),
        helper.make_node("Constant", [], ["form"], value_ints=[4, 2]),
    ]
    order = [nodes[i] for i in (0, 1, 5, 3, 4, 2)]
    return _graph(order, {"rows": (TensorProto.FLOAT, (1, ROWS, 4))}, {"scores": (1, 2)}, (0, 0, 0, 0, 1, 0, 0, 1))


def _stream(name: str, **changes: object) -> dict[str, Any]:
    pictures = {"rate": 2, "width": 16, "height": 8, "resize_filter": "area", "aspect": 1.7777777777777777}
    stream: dict[str, Any] = {
        "name": name,
        "modality": name,
        "file": f"{name}.onnx",
        "features": f"tiny_{name}",
        "columns": None,
        "rate": 1,
        "width": 1,
        "look_behind_s": 0.0,
        "look_ahead_s": 0,
        "pictures": pictures if name == "visual" else None,
        "states": [],
    }
    return stream | changes


def manifest() -> dict[str, Any]:
    """Return the manifest that belongs to `graphs`, with every field that a manifest can have; no digests yet."""
    decision = {"rule": "local-max", "threshold": 0.4, "radius_s": 1.0, "window_s": None, "provisional_threshold": 0.3}
    return {
        "format_version": 1,
        "name": "tiny",
        "labels": list(LABELS),
        "streams": [_stream("visual"), _stream("audio")],
        "head": {
            "file": "head.onnx",
            "kind": "tiny",
            "rows": ROWS,
            "look_ahead_s": 1.0,
            "early_look_ahead_s": [0.0],
            "outputs": "row",
            "window_stride_rows": 1,
            "edges": "zeros",
            "row_time_s": 0.5,
            "unscored_rows": 0,
            "max_displacement_s": 0.6,
        },
        "decision": {
            "Goal": decision | {"look_ahead_s": None, "deadline_s": 5.0},
            "Foul": decision | {"look_ahead_s": 0.0, "deadline_s": None},
        },
        "calibration": {label: {"scale": 1.0, "shift": 0.0} for label in LABELS},
        "early_calibration": {label: [{"scale": 1.0, "shift": 0.0}] for label in LABELS},
        "measured": {"tight": 0.5},
        "provenance": {"tool": "fuzz"},
        "sha256": {},
    }


def feature_manifest() -> dict[str, Any]:
    """Return the manifest of a bundle that spots on feature files alone; no digests yet."""
    whole = manifest()
    alone = {"file": None, "features": "F", "width": 4, "pictures": None, "modality": "other"}
    head = whole["head"] | {"early_look_ahead_s": [], "max_displacement_s": 0.0}
    decision = {"rule": "local-max", "threshold": 0.2, "radius_s": 1.0}
    return whole | {
        "streams": [_stream("rows", **alone)],
        "head": head,
        "decision": dict.fromkeys(LABELS, decision),
        "calibration": {},
        "early_calibration": {},
    }


def bundle(of: dict[str, Any], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a bundle's files: graphs, and the manifest with their digests."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return files | {"manifest.json": json.dumps(of | {"sha256": digests}).encode()}
