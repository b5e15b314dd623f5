"""What a head said of whole halves, before anything is decided: its spots, and what the metric says of them.

`Scored` is what a network says offline, at one look-ahead; the local-max rule over it serves training's validation.
`Recorded` is what a bundle says live, at all of them; the real decider runs over it as often as one likes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.actions import Action
from engines.bundle import Manifest
from engines.decider import Decider, Spot
from engines.head import Scores
from engines.nms import local_maxima
from training.data.words import NEVER, Said
from training.metric import MapResult, Predictions, Truth, average_map

FLOOR = 0.01
"""Every spot above this counts in the ranking, whatever the bundle's own thresholds."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A network's output on one half of T rows.

    Attributes:
        actions: what happened in it.
        scores_TC: float32 in [0, 1].
        times_TC: int64, microseconds of media time, by the displacement.
    """

    actions: Sequence[Action]
    scores_TC: np.ndarray
    times_TC: np.ndarray


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
    truths = [Truth.of(s.actions, labels) for s in scored]
    return average_map(
        truths, [Predictions.of(spots_of(s, labels, radii_s, floor), labels) for s in scored], metric, labels
    )


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """All that a bundle's head says of one half.

    Attributes:
        actions: what happened in it.
        scores: of every row at every look-ahead, in the order that the live path has them.
    """

    actions: Sequence[Action]
    scores: Sequence[Scores]


def words_of(manifest: Manifest, recorded: Recorded) -> list[Spot]:
    """Return what is said of a half, by the decider that runs live.

    Where nothing is said early, scores at look-aheads that confirm no label are passed over: they change no word.
    """
    decider, decisions = Decider(manifest, "recorded"), manifest.decision.values()
    used_s = {manifest.head.look_ahead_s if d.look_ahead_s is None else d.look_ahead_s for d in decisions}
    if any(d.provisional_threshold is not None for d in decisions):
        used_s = set(manifest.look_aheads_s)
    used = {round(look_ahead_s * manifest.rate) for look_ahead_s in used_s}
    words = [word for scores in recorded.scores if scores.look_ahead in used for word in decider.push(scores)]
    return words + decider.flush()


def said_of(words: Sequence[Spot], labels: Sequence[str]) -> Said:
    """Return the confirmed spots of a half and when they were said."""
    index = {label: i for i, label in enumerate(labels)}
    return Said.of(
        (round(w.media_time * 1000), index[w.label], w.confidence, round(w.emitted_at * 1000), NEVER)
        for w in sorted(words, key=lambda w: w.media_time)
        if w.state == "confirmed"
    )
