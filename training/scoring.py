"""A trained network's spots on whole halves, and what the metric says of them.

The same rows, windows and rule as live, computed in blocks with torch: for choosing settings and for progress while
training. Reported scores come from the exported bundle run through `engines.spotter`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engines.nms import local_maxima
from training.data.clips import Batch, cut
from training.data.soccernet import Half
from training.measure import FLOOR
from training.metric import MapResult, Predictions, Truth, average_map
from training.models.spotter import DemoNet

_BLOCK_S = 32


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A network's output on one half of T seconds.

    Attributes:
        half: what was scored.
        scores_TC: float32 in [0, 1].
        times_TC: int64, microseconds of media time, by the displacement.
    """

    half: Half
    scores_TC: np.ndarray
    times_TC: np.ndarray


@torch.no_grad()
def rows_of(net: DemoNet, half: Half) -> dict[str, torch.Tensor]:
    """Return each stream's rows (T, D) on the grid of whole seconds."""
    net.eval()
    blocks: list[dict[str, torch.Tensor]] = []
    rate = half.spec.rate
    for first in range(0, half.seconds, _BLOCK_S):
        t = min(_BLOCK_S, half.seconds - first)
        pictures, samples, valid = cut(half, first * rate, t)
        ones = torch.from_numpy(valid.astype(np.float32))[None]
        nothing = torch.zeros(0)
        batch = Batch(torch.from_numpy(pictures)[None], torch.from_numpy(samples)[None], ones, ones, nothing, nothing)
        blocks.append({name: rows[0] for name, rows in net.rows(batch).items()})
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


@torch.no_grad()
def score(net: DemoNet, half: Half, rows: Mapping[str, torch.Tensor] | None = None) -> Scored:
    """Return a half's scores; from `rows` if given, else from its pictures and sound."""
    net.eval()
    scores, shift = net.scores_of(dict(rows) if rows is not None else rows_of(net, half))
    middles = (np.arange(len(scores)) * 1_000_000 + 500_000)[:, None]
    times = np.maximum(middles + np.round(shift.numpy().astype(np.float64) * 1000).astype(np.int64) * 1000, 0)
    return Scored(half, scores.numpy(), times)


def spots_of(
    scored: Scored, labels: Sequence[str], radii_s: Mapping[str, float], thresholds: Mapping[str, float]
) -> list[tuple[str, float, float]]:
    """Return (label, media time in seconds, confidence) of every spot, by the local-max rule."""
    spots = []
    for c, label in enumerate(labels):
        times, scores = scored.times_TC[:, c], scored.scores_TC[:, c]
        stands = local_maxima(times, scores, round(radii_s[label] * 1e6)) & (scores >= thresholds[label])
        spots += [(label, float(times[i] / 1e6), float(scores[i])) for i in np.flatnonzero(stands)]
    return spots


def measure(
    scored: Sequence[Scored], labels: Sequence[str], radii_s: Mapping[str, float], metric: str = "tight"
) -> MapResult:
    """Return the metric over all spots above FLOOR."""
    floor = dict.fromkeys(labels, FLOOR)
    truths = [Truth.of(s.half.actions, labels) for s in scored]
    return average_map(
        truths, [Predictions.of(spots_of(s, labels, radii_s, floor), labels) for s in scored], metric, labels
    )
