"""Pictures of an evaluation: each label's average precision, its curve, and what was said when in a match.

In: a `MapResult`, its `Curve`, and halves with their actions, spots and, at will, scores. Out: one PNG or SVG file.
matplotlib is imported when something is drawn, and nowhere else. The colours are those of Okabe and Ito, which the
colour-blind tell apart too; shapes say the same again.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, UsageError
from training.data.results import HALVES, Predictions, Truth
from training.matching import match
from training.metric import TOLERANCES_S, Curve, MapResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FLOAT32 = NDArray[np.float32]

BLUE, ORANGE, SKY, BLACK, GREY = "#0072B2", "#D55E00", "#56B4E9", "#000000", "#767676"
_WIDTH_IN = 13.0
_LABEL_IN = 0.30  # height of a label's bar
_CURVE_IN = 1.75  # height of a label's precision and recall
_CURVES_A_ROW = 6
_LANE_IN = 0.42  # height of a label's lane
_MARGIN_IN = 1.1  # height of a panel's title and axis
_LANE_HEIGHT = 0.84  # of the lane's 1: confidence or score 1 is here


@dataclass(frozen=True, slots=True, eq=False)
class HalfScores:
    """The scores of one half.

    Attributes:
        scores_TC: float32 in [0, 1].
        rate: rows a second.
        row_time_s: from a row's start to the time that its scores are for.
    """

    scores_TC: FLOAT32
    rate: float = 1.0
    row_time_s: float = 0.5

    @property
    def times_s_T(self) -> NDArray[np.float64]:
        """When in the half each row's scores are for."""
        return np.arange(len(self.scores_TC)) / self.rate + self.row_time_s


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """One half to draw.

    Attributes:
        title: what stands above it.
        truth: the actions.
        predictions: the spots.
        scores: drawn as curves; None to draw the spots alone.
    """

    title: str
    truth: Truth
    predictions: Predictions
    scores: HalfScores | None = None


def read_scores(path: Path, labels: int) -> dict[int, HalfScores]:
    """Return the scores of each half that a file has, as `touchline spot --scores` writes them.

    The file is an npz of arrays "1" and "2", (T, C), and optionally of the numbers "rate" (rows a second; else 1) and
    "row_time_s" (from a row's start to the time that its scores are for; else half a row).

    Raises:
        DataError: the file cannot be read, or its arrays have another form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            scores = {half: file[str(half)] for half in HALVES if str(half) in file}
            numbers = {name: file[name] for name in ("rate", "row_time_s") if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise DataError(f'{path}: is no readable npz ({error}); give one with arrays "1" and "2".') from error
    for half, scores_TC in scores.items():
        if scores_TC.ndim != 2 or scores_TC.shape[1] != labels or scores_TC.dtype.kind != "f":
            form = f"{scores_TC.dtype} {scores_TC.shape}"
            raise DataError(f'{path}: array "{half}" is {form}; give floats in rows of {labels} columns.')
    if not scores:
        raise DataError(f'{path}: has neither array "1" nor "2"; name the halves so.')
    rate = _number(path, numbers, "rate", 1.0)
    if not rate:
        raise DataError(f'{path}: "rate" is 0; give how many rows a second has.')
    row_time_s = _number(path, numbers, "row_time_s", 0.5 / rate)
    return {half: HalfScores(scores_TC, rate, row_time_s) for half, scores_TC in scores.items()}


def _number(path: Path, numbers: Mapping[str, NDArray[np.generic]], name: str, default: float) -> float:
    """Return a number that a file of scores has, or the default."""
    value = numbers.get(name, np.array(default))
    if value.ndim or value.dtype.kind not in "fiu" or not 0 <= float(value) < math.inf:
        raise DataError(f'{path}: "{name}" is {value.dtype} {value.tolist()}; give one number of at least 0.')
    return float(value)


def draw(path: Path, result: MapResult, curve: Curve, timelines: Sequence[Timeline]) -> None:
    """Write a picture: each label's average precision, its precision and recall, and the halves.

    Args:
        path: where to; its suffix, .png or .svg, says how.
        result: the average precisions.
        curve: precision and recall at the widest tolerance, over all actions.
        timelines: the halves.

    Raises:
        UsageError: another suffix, the file cannot be written, or matplotlib is not there.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{path}: is neither .png nor .svg; give one of these.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"Pictures need matplotlib, which is not there ({error}); run make train-setup.") from error
    happening = [c for c, count in enumerate(result.actions) if count]
    lanes = [_lanes(timeline, len(result.labels)) for timeline in timelines]
    heights = [
        len(result.labels) * _LABEL_IN + _MARGIN_IN,
        max(math.ceil(len(happening) / _CURVES_A_ROW), 1) * _CURVE_IN + 0.3,
        *(len(lane) * _LANE_IN + _MARGIN_IN for lane in lanes),
    ]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained", dpi=110)
    panels: list[SubFigure] = np.ravel(figure.subfigures(len(heights), height_ratios=heights)).tolist()  # type: ignore[arg-type]
    bars, curves, *rest = panels
    _draw_bars(bars.subplots(), result)
    tolerance_s = TOLERANCES_S[result.metric][-1]
    _draw_curves(curves, result, curve, happening, tolerance_s)
    for panel, timeline, labels in zip(rest, timelines, lanes, strict=True):
        _draw_timeline(panel.subplots(), timeline, labels, result, tolerance_s)
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write a picture.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}; give another path.") from error


def _lanes(timeline: Timeline, labels: int) -> list[int]:
    """Return the labels to draw: those that happen or were spotted; all if there is neither."""
    seen = np.union1d(timeline.truth.labels_N, timeline.predictions.labels_N)
    return [int(label) for label in seen] or list(range(labels))


def _draw_bars(axes: "Axes", result: MapResult) -> None:
    """Draw a bar per label, with a mark for the visible and the unshown actions, and its numbers at the side."""
    rows = np.arange(len(result.labels))
    overall = 100 * np.array(result.overall.per_label)
    actions = np.array(result.actions)
    shown = np.array(result.visible_actions)
    axes.barh(rows, overall, height=0.62, color=SKY, label="all actions")
    for part, counts, shape, colour, name in (
        (result.visible, shown, "o", BLUE, "visible actions"),
        (result.unshown, actions - shown, "D", ORANGE, "unshown actions"),
    ):
        there = np.flatnonzero(counts)
        values = 100 * np.array(part.per_label)[there]
        axes.plot(values, there, shape, ms=6, mfc=colour, mec="white", ls="", label=name, clip_on=False, zorder=3)
    mean = 100 * result.overall.mean
    axes.axvline(mean, color=GREY, lw=1, ls="--", label=f"average {mean:.1f} %", zorder=0)
    for row in rows:
        colour = BLACK if actions[row] else GREY
        value = f"{overall[row]:.1f} %" if actions[row] else "–"
        axes.text(107, float(row), value, va="center", ha="right", fontsize=9, color=colour)
        axes.text(
            108,
            float(row),
            _counted(result.actions[row], result.visible_actions[row]),
            va="center",
            fontsize=9,
            color=colour,
        )
    kind = "corrected" if result.corrected else "SoccerNet's"
    axes.set_title(f"Average precision by label ({kind} {result.metric})", loc="left", fontsize=12)
    axes.set_xlabel("average precision, percent")
    axes.xaxis.set_label_coords(50, -0.06, axes.get_xaxis_transform())
    axes.set_yticks(rows, result.labels)
    axes.set_xticks(range(0, 101, 20))
    axes.set(xlim=(-1, 125), ylim=(len(rows) - 0.4, -0.6))
    _clean(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0.42, 1.0), ncols=4, frameon=False, fontsize=9, borderaxespad=0.2)


def _counted(actions: int, shown: int) -> str:
    if not actions:
        return "no action"
    return f"{actions} action{'s' * (actions > 1)}, {shown} visible"


def _draw_curves(
    panel: "SubFigure", result: MapResult, curve: Curve, happening: Sequence[int], tolerance_s: int
) -> None:
    """Draw precision over recall, a small chart for each label that happens."""
    panel.suptitle(f"Precision and recall within ±{tolerance_s / 2:g} s", x=0.1, ha="left", fontsize=12)
    rows = max(math.ceil(len(happening) / _CURVES_A_ROW), 1)
    charts = panel.subplots(rows, _CURVES_A_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    for i, axes in enumerate(charts):
        if i >= len(happening):
            axes.set_visible(False)
            continue
        label = happening[i]
        some = curve.recall_CK[label] > 0
        recall, precision = 100 * curve.recall_CK[label, some], 100 * curve.precision_CK[label, some]
        axes.plot(recall, precision, color=BLUE, lw=1.5, marker="o", ms=2.5)
        axes.set_title(result.labels[label], fontsize=9)
        axes.set(xlim=(0, 102), ylim=(0, 105), xticks=(0, 50, 100), yticks=(0, 50, 100))
        axes.tick_params(labelsize=8, labelbottom=i + _CURVES_A_ROW >= len(happening))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", lw=0.6)
    panel.supxlabel("recall, percent", fontsize=9)
    panel.supylabel("precision, percent", fontsize=9)


def _draw_timeline(
    axes: "Axes", timeline: Timeline, labels: Sequence[int], result: MapResult, tolerance_s: int
) -> None:
    """Draw a lane per label: actions as ticks through it, spots as high as they are sure, scores as a line."""
    truth, predictions = timeline.truth, timeline.predictions
    matched = match(truth, predictions, tolerance_s, result.labels, corrected=result.corrected)
    floor_of = {label: len(labels) - 1 - lane for lane, label in enumerate(labels)}
    last_s = max(int(part.positions_ms_N.max(initial=0)) / 1000 for part in (truth, predictions))
    _draw_actions(axes, truth, floor_of)
    right = f"spot, right (within ±{tolerance_s / 2:g} s)"
    _draw_spots(axes, predictions, matched.rows_M[matched.hits_M], floor_of, "o", BLUE, right)
    _draw_spots(axes, predictions, matched.rows_M[~matched.hits_M], floor_of, "X", ORANGE, "spot, false alarm")
    if timeline.scores is not None:
        _draw_scores(axes, timeline.scores, floor_of)
        last_s = max(last_s, len(timeline.scores.scores_TC) / timeline.scores.rate)
    axes.set_title(timeline.title, loc="left", fontsize=12, pad=24)
    axes.set_xlabel("minutes into the half; a spot stands as high in its lane as it is sure")
    axes.set_yticks([floor_of[label] + _LANE_HEIGHT / 2 for label in labels], [result.labels[c] for c in labels])
    end = max(last_s, 1) / 60 * 1.01
    axes.locator_params(axis="x", nbins=12, steps=[1, 2, 5, 10])
    axes.set(xlim=(-0.01 * end, end), ylim=(-0.1, len(labels)))
    axes.hlines(list(floor_of.values()), *axes.get_xlim(), color=GREY, lw=0.5, zorder=0)
    _clean(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=9, borderaxespad=0.1)


def _draw_actions(axes: "Axes", truth: Truth, floor_of: dict[int, int]) -> None:
    """Draw each action as a tick through its lane, dashed where the broadcast did not show it."""
    for chosen, style, name in (
        (truth.visible_N, "solid", "action"),
        (~truth.visible_N, (0, (2, 1.5)), "action, unshown"),
    ):
        floors = np.array([floor_of[label] for label in truth.labels_N[chosen].tolist()], float)
        minutes = truth.positions_ms_N[chosen] / 60_000
        axes.vlines(minutes, floors, floors + 0.94, color=BLACK, lw=1.3, ls=style, label=name, zorder=2)


def _draw_spots(
    axes: "Axes",
    predictions: Predictions,
    rows: NDArray[np.int64],
    floor_of: dict[int, int],
    shape: str,
    colour: str,
    name: str,
) -> None:
    """Draw spots as marks, as far up their lane as they are sure."""
    floors = np.array([floor_of[label] for label in predictions.labels_N[rows].tolist()], float)
    sure = np.clip(predictions.confidences_N[rows], 0, 1)
    minutes = predictions.positions_ms_N[rows] / 60_000
    axes.plot(
        minutes,
        floors + _LANE_HEIGHT * sure,
        shape,
        ms=5,
        mfc=colour,
        mec="white",
        mew=0.5,
        ls="",
        label=name,
        zorder=3,
    )


def _draw_scores(axes: "Axes", scores: HalfScores, floor_of: dict[int, int]) -> None:
    """Draw each label's scores as a filled line from its lane's floor up."""
    minutes_T = scores.times_s_T / 60
    for label, floor in floor_of.items():
        heights_T = floor + _LANE_HEIGHT * np.clip(scores.scores_TC[:, label], 0, 1)
        name = "score" if label == next(iter(floor_of)) else None
        axes.fill_between(minutes_T, floor, heights_T, color=SKY, alpha=0.75, lw=0, label=name, zorder=1)


def _clean(axes: "Axes") -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
