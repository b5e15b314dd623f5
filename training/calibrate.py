"""Calibration: scores to confidences that mean probabilities, inside the head's graph.

A label's confidence is sigmoid(logit(score) / temperature + shift). Training weighs actions up to 30 times, so scores
are too high as a whole as well as too sure; temperature alone could mend only the second. The order of a label's
scores stays, and so do its spots.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize

from engines.errors import BundleError

FLOAT = NDArray[np.float64]
EDGE = 1e-6
"""Scores are kept this far off 0 and 1 before their logit is taken."""
_TEMPERATURES, _SHIFTS = "calibration_inverse_temperature", "calibration_shift"
_RAW = "uncalibrated_scores"


class Calibration(NamedTuple):
    """How a label's scores become confidences."""

    temperature: float
    shift: float


UNCHANGED = Calibration(1.0, 0.0)


def calibrate(scores: FLOAT, calibration: Calibration) -> FLOAT:
    """Return confidences of scores of one label; `UNCHANGED` gives the scores back."""
    if calibration == UNCHANGED:
        return scores
    p = np.clip(scores, EDGE, 1 - EDGE)
    confidences: FLOAT = 1 / (1 + np.exp(-(np.log(p / (1 - p)) / calibration.temperature + calibration.shift)))
    return confidences


def fit_calibration(scores: FLOAT, right: NDArray[np.bool_]) -> Calibration:
    """Return the calibration under which what happened is likeliest; unchanged where all spots are right, or none.

    Args:
        scores: of a label's spots.
        right: whether each is right.

    Source: Platt, 1999; his targets too, which keep a handful of spots from making anything certain.
    """
    hits = int(np.sum(right))
    if not 0 < hits < len(right):
        return UNCHANGED
    p = np.clip(scores, EDGE, 1 - EDGE)
    logits = np.log(p / (1 - p))
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(x: FLOAT) -> float:
        z = logits * np.exp(x[0]) + x[1]
        return float(np.mean(np.logaddexp(0, z) - targets * z))

    best = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-3, 3), (-20, 20)]).x
    return Calibration(round(float(np.exp(-best[0])), 6), round(float(best[1]), 6))


def calibrate_graph(path: Path, calibrations: list[Calibration]) -> None:
    """Put a calibration per label behind the `scores` of a head's graph, in place of an earlier one.

    Args:
        path: the graph; its `scores` end in the labels' axis.
        calibrations: of each label, in order.

    Raises:
        BundleError: the graph has no output `scores`.
    """
    model = onnx.load(str(path))
    graph = model.graph
    inverse = np.array([1 / c.temperature for c in calibrations], np.float32)
    shift = np.array([c.shift for c in calibrations], np.float32)
    if all(c == UNCHANGED for c in calibrations):
        inverse, shift = np.ones_like(inverse), np.zeros_like(shift)
    values = [numpy_helper.from_array(inverse, _TEMPERATURES), numpy_helper.from_array(shift, _SHIFTS)]
    present = {value.name: value for value in graph.initializer}
    if _SHIFTS in present:
        for value in values:
            present[value.name].CopyFrom(value)
    else:
        if "scores" not in {output.name for output in graph.output}:
            raise BundleError(f"{path}: the graph has no output scores, so it cannot be calibrated.")
        for node in graph.node:
            node.output[:] = [_RAW if name == "scores" else name for name in node.output]
            node.input[:] = [_RAW if name == "scores" else name for name in node.input]
        graph.initializer.extend(values)
        graph.node.extend(_nodes(graph))
    onnx.save(model, str(path))


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes from uncalibrated to calibrated scores; a score of exactly 0 stays 0, it means nothing there."""
    constants = {"calibration_low": EDGE, "calibration_high": 1 - EDGE, "calibration_one": 1.0, "calibration_zero": 0.0}
    graph.initializer.extend(helper.make_tensor(k, TensorProto.FLOAT, [], [v]) for k, v in constants.items())
    steps = [
        ("Clip", [_RAW, "calibration_low", "calibration_high"], "calibration_p"),
        ("Sub", ["calibration_one", "calibration_p"], "calibration_rest"),
        ("Div", ["calibration_p", "calibration_rest"], "calibration_odds"),
        ("Log", ["calibration_odds"], "calibration_logit"),
        ("Mul", ["calibration_logit", _TEMPERATURES], "calibration_scaled"),
        ("Add", ["calibration_scaled", _SHIFTS], "calibration_shifted"),
        ("Sigmoid", ["calibration_shifted"], "calibration_sigmoid"),
        ("Greater", [_RAW, "calibration_zero"], "calibration_some"),
        ("Where", ["calibration_some", "calibration_sigmoid", "calibration_zero"], "scores"),
    ]
    return [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
