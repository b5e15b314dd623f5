"""Calibration: scores to confidences that mean probabilities, inside the head's graph.

A label's confidence is sigmoid(logit(score) / temperature + shift). Training weighs actions up to 30 times, so scores
are too high as a whole as well as too sure; temperature alone could mend only the second. The order of a label's
scores stays, and so do its spots. A head with early look-aheads has one calibration for each: what it says sooner is
less sure.
"""

from collections.abc import Sequence
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
_PREFIXES = {"scores": "", "early_scores": "early_"}


class Calibration(NamedTuple):
    """How a label's scores become confidences."""

    temperature: float
    shift: float

    @property
    def inverse(self) -> "Calibration":
        """The one that gives the scores back, but for the outermost millionths."""
        return self if self == UNCHANGED else Calibration(1 / self.temperature, -self.shift * self.temperature)


UNCHANGED = Calibration(1.0, 0.0)


def calibrate(scores: FLOAT, calibration: Calibration) -> FLOAT:
    """Return confidences of scores of one label; `UNCHANGED` gives the scores back."""
    return scores if calibration == UNCHANGED else confidences(scores, np.array(calibration))


def confidences(scores: FLOAT, calibrations: FLOAT) -> FLOAT:
    """Return confidences by calibrations (…, 2), each of its own scores (…); a score of 0 means nothing, and stays."""
    p = np.clip(scores, EDGE, 1 - EDGE)
    z = np.log(p / (1 - p)) / calibrations[..., 0] + calibrations[..., 1]
    return np.where(scores > 0, 1 / (1 + np.exp(-z)), 0.0)


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


def calibrate_graph(
    path: Path, calibrations: Sequence[Calibration], early: Sequence[Sequence[Calibration]] = ()
) -> None:
    """Put calibrations behind the scores of a head's graph, in place of earlier ones.

    Args:
        path: the graph; its `scores`, and its `early_scores` if it has any, end in the labels' axis.
        calibrations: of each label, in order.
        early: for each early look-ahead the same.

    Raises:
        BundleError: the graph has no such output.
    """
    model = onnx.load(str(path))
    _behind(model.graph, "scores", calibrations, path)
    if early:
        _behind(model.graph, "early_scores", early, path)
    onnx.save(model, str(path))


def _behind(
    graph: onnx.GraphProto,
    output: str,
    calibrations: Sequence[Calibration] | Sequence[Sequence[Calibration]],
    path: Path,
) -> None:
    """Put calibrations, (C,) or (E, C) of them, behind an output."""
    prefix = _PREFIXES[output]
    table = np.array(calibrations, np.float64)  # (…, 2): temperature and shift
    inverse, shift = (1 / table[..., 0]).astype(np.float32), table[..., 1].astype(np.float32)
    values = [
        numpy_helper.from_array(inverse, f"{prefix}calibration_inverse_temperature"),
        numpy_helper.from_array(shift, f"{prefix}calibration_shift"),
    ]
    present = {value.name: value for value in graph.initializer}
    if values[0].name in present:
        for value in values:
            present[value.name].CopyFrom(value)
        return
    if output not in {o.name for o in graph.output}:
        raise BundleError(f"{path}: the graph has no output {output}, so it cannot be calibrated.")
    raw = f"uncalibrated_{output}"
    for node in graph.node:
        node.output[:] = [raw if name == output else name for name in node.output]
        node.input[:] = [raw if name == output else name for name in node.input]
    graph.initializer.extend(values)
    graph.node.extend(_nodes(graph, output, raw, prefix + "calibration_"))


def _nodes(graph: onnx.GraphProto, output: str, raw: str, prefix: str) -> list[onnx.NodeProto]:
    """Return the nodes from uncalibrated to calibrated scores; a score of exactly 0 stays 0, it means nothing there."""
    constants = {"low": EDGE, "high": 1 - EDGE, "one": 1.0, "zero": 0.0}
    graph.initializer.extend(helper.make_tensor(prefix + k, TensorProto.FLOAT, [], [v]) for k, v in constants.items())
    steps = [
        ("Clip", ["raw", "low", "high"], "p"),
        ("Sub", ["one", "p"], "rest"),
        ("Div", ["p", "rest"], "odds"),
        ("Log", ["odds"], "logit"),
        ("Mul", ["logit", "inverse_temperature"], "scaled"),
        ("Add", ["scaled", "shift"], "shifted"),
        ("Sigmoid", ["shifted"], "sigmoid"),
        ("Greater", ["raw", "zero"], "some"),
        ("Where", ["some", "sigmoid", "zero"], "out"),
    ]
    names = {"raw": raw, "out": output}
    return [
        helper.make_node(kind, [names.get(n, prefix + n) for n in inputs], [names.get(end, prefix + end)])
        for kind, inputs, end in steps
    ]
