"""The curve of accuracy under a deadline, as one PNG or SVG file.

In: a `DeadlineReport`. Out: A(D), tight and loose, over the deadline on a logarithmic axis with ∞ at its right end; on
each curve D90 and D95, the least deadlines that keep 90 and 95 % of what no deadline gives. matplotlib is imported when
something is drawn, and nowhere else.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import UsageError
from training.deadline_report import DeadlineReport
from training.deadlines import DEADLINES_S, DeadlineCurve
from training.plots import BLUE, GREY, ORANGE, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INFINITY_S = 160.0  # where ∞ stands on the axis
_PLACES = [min(deadline_s, _INFINITY_S) for deadline_s in DEADLINES_S]
_SIZE_IN = (10.0, 5.6)
_CLOCKS = {"media": "by the media clock", "wall": "compute and publish included"}


def draw(path: Path, report: DeadlineReport) -> None:
    """Write the picture.

    Args:
        path: where to; its suffix, .png or .svg, says how.
        report: what to draw.

    Raises:
        UsageError: another suffix, the file cannot be written, or matplotlib is not there.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{path}: is neither .png nor .svg; give one of these.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"Pictures need matplotlib, which is not there ({error}); run make train-setup.") from error
    figure = Figure(figsize=_SIZE_IN, layout="constrained", dpi=130)
    axes = figure.subplots()
    # The loose curve's squares are larger, to be seen where the tight one lies on it.
    for curve, colour, shape, size in ((report.loose, ORANGE, "s", 9), (report.tight, BLUE, "o", 7)):
        _draw_curve(axes, curve, colour, shape, size)
        _mark(axes, curve, colour, below=curve is report.tight)
    _lay_out(axes, report)
    save(figure, path)


def _draw_curve(axes: "Axes", curve: DeadlineCurve, colour: str, shape: str, size: float) -> None:
    """Draw A(D) and its strict variant; the step from the last deadline to ∞ is dotted."""
    percents = [100 * mean for mean in curve.means]
    strict = [100 * averages.mean for averages in curve.strict]
    for values, width, style in ((percents, 2.0, "-"), (strict, 1.2, "--")):
        axes.plot(_PLACES[:-1], values[:-1], color=colour, lw=width, ls=style)
        axes.plot(_PLACES[-2:], values[-2:], color=colour, lw=width, ls=":")
    axes.plot(_PLACES, percents, shape, color=colour, mec="white", ms=size, zorder=3, clip_on=False, label=curve.metric)


def _mark(axes: "Axes", curve: DeadlineCurve, colour: str, below: bool) -> None:
    """Name D90 and D95 beside the curve, once where they are one."""
    names: dict[float, list[str]] = {}
    for share in (0.9, 0.95):
        deadline_s = curve.least_deadline_s(share)
        if deadline_s is not None:
            names.setdefault(deadline_s, []).append(f"D{100 * share:g}")
    for deadline_s, name in names.items():
        i = DEADLINES_S.index(deadline_s)
        place = (_PLACES[i], 100 * curve.means[i])
        axes.plot(*place, "o", mfc="none", mec=colour, mew=1.2, ms=14, clip_on=False)
        axes.annotate(
            f"{', '.join(name)}: {_symbol(deadline_s)}{' s' * (deadline_s < math.inf)}",
            place,
            xytext=(7, -7) if below else (-7, 7),  # away from the curve, which rises
            textcoords="offset points",
            ha="left" if below else "right",
            va="top" if below else "bottom",
            fontsize=9,
            color=colour,
        )


def _lay_out(axes: "Axes", report: DeadlineReport) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(_PLACES, [_symbol(deadline_s) for deadline_s in DEADLINES_S])
    axes.minorticks_off()
    axes.set_xlim(0.9, 1.1 * _INFINITY_S)
    axes.set_ylim(0, 1.15 * max(*axes.get_ylim(), 1.0))
    axes.set_title(f"Accuracy under a deadline, {_CLOCKS[report.clock]}", loc="left", fontsize=12, pad=30)
    axes.set_xlabel("deadline: seconds from the action to its confirmed word")
    axes.set_ylabel(f"Average-mAP of all {len(report.tight.labels)} labels, percent")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.plot([], [], color=GREY, lw=1.2, ls="--", label="strict: late spots stay as false alarms")
    axes.plot([], [], "o", mfc="none", mec=GREY, mew=1.2, ms=12, label="D90, D95: 90, 95 % of what no deadline gives")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=9, borderaxespad=0.2)


def _symbol(deadline_s: float) -> str:
    return "∞" if deadline_s == math.inf else f"{deadline_s:g}"
