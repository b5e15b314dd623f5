"""How far confidences mean what they say: calibration errors before and after, and their picture.

Of all labels' spots together, and of each label that has ENOUGH of them; a look-ahead each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import UsageError
from training.plots import BLUE, GREY, ORANGE, save
from training.ranked import ENOUGH, Ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10
_PANEL_IN = 3.2


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """The spots of one look-ahead, with their confidences before and after calibration.

    Attributes:
        look_ahead_s: which.
        before: of each label.
        after: of each label.
    """

    look_ahead_s: float
    before: Mapping[str, Ranked]
    after: Mapping[str, Ranked]

    @property
    def error(self) -> tuple[float, float]:
        """The expected calibration error of all spots, before and after."""
        return _both(list(self.before.values()), list(self.after.values()))

    @property
    def upper_error(self) -> tuple[float, float]:
        """The same without the lowest bin: it holds most spots, and nearly all of them are wrong, as it should be."""
        return _both(list(self.before.values()), list(self.after.values()), first=1)

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """The same as `error` of each label with ENOUGH spots."""
        found = {label: f for label, f in self.before.items() if len(f.right) >= ENOUGH}
        return {label: _both([f], [self.after[label]]) for label, f in found.items()}


def _both(before: Sequence[Ranked], after: Sequence[Ranked], first: int = 0) -> tuple[float, float]:
    error, calibrated = (round(expected_calibration_error(found, first), 4) for found in (before, after))
    return error, calibrated


def expected_calibration_error(found: Sequence[Ranked], first: int = 0) -> float:
    """Return how far confidences are from the share of right spots, on average over equally wide bins of confidence.

    Args:
        found: the spots.
        first: the first of the BINS that counts.
    """
    said, right, count = (values[first:] for values in _bins(found))
    return float(np.abs(said - right).sum() / count.sum()) if count.any() else 0.0


def _bins(found: Sequence[Ranked]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of the confidences in each bin, how many spots in it are right, and how many there are."""
    confidences = np.concatenate([f.confidences for f in found])
    bin_of = np.minimum((confidences * BINS).astype(int), BINS - 1)
    right = np.concatenate([f.right for f in found]).astype(float)
    said, hits = (np.bincount(bin_of, weights, BINS) for weights in (confidences, right))
    return said, hits, np.bincount(bin_of, minlength=BINS)


def check_plot(path: Path) -> None:
    """Refuse a file that cannot be drawn, before hours of work.

    Raises:
        UsageError: another suffix than .png or .svg, no such folder, or matplotlib is not there.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{path}: is neither .png nor .svg; give one of these.")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder; give another path.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"Pictures need matplotlib, which is not there ({error}); run make train-setup.") from error


def draw(path: Path, found: Sequence[Reliability]) -> None:
    """Write a picture: confidence against the share of right spots, before and after, a panel a look-ahead.

    Args:
        path: where to; its suffix, .png or .svg, says how.
        found: what to draw.

    Raises:
        UsageError: as `check_plot`, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(_PANEL_IN * len(found), 2 * _PANEL_IN), 4.4), layout="constrained", dpi=130)
    grid = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for one, (curve, counts) in zip(found, grid.T, strict=True):
        for name, ranked, shape, colour in (
            ("before", one.before, "D", ORANGE),
            ("calibrated", one.after, "o", BLUE),
        ):
            _draw_spots(curve, counts, list(ranked.values()), name, shape, colour)
        curve.plot((0, 1), (0, 1), color=GREY, lw=1, ls="--", zorder=0)
        curve.set_title(f"look-ahead {one.look_ahead_s:g} s", loc="left", fontsize=11, pad=32)
        curve.set(xlim=(0, 1), ylim=(0, 1))
        curve.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, borderaxespad=0.2)
        counts.set(yscale="log", xlabel="confidence")
        for axes in (curve, counts):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#dddddd", lw=0.6)
            axes.set_axisbelow(True)
    grid[0, 0].set_ylabel("share of right spots")
    grid[1, 0].set_ylabel("spots")
    save(figure, path)


def _draw_spots(curve: "Axes", counts: "Axes", found: Sequence[Ranked], name: str, shape: str, colour: str) -> None:
    """Draw a mark for each bin that has spots, and below it how many."""
    said, right, count = _bins(found)
    whole, upper = (100 * expected_calibration_error(found, first) for first in (0, 1))
    some, label = count > 0, f"{name}: {whole:.1f} % off, {upper:.0f} % above 0.1"
    curve.plot(
        said[some] / count[some],
        right[some] / count[some],
        marker=shape,
        ms=5,
        lw=1.2,
        mec="white",
        color=colour,
        label=label,
        clip_on=False,
        zorder=3,
    )
    edges = np.arange(BINS + 1) / BINS
    counts.stairs(count, edges, color=colour, lw=1.4)
