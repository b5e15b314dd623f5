"""How a label is to be decided: look-ahead and reach of its rule, threshold, and from when it is spoken of early.

In: a bundle's scores of the validation halves (`Recorded`), and what is asked for (`Wish`). Out: a `Decision` a label.
Promise: everything is measured by the decider that runs live, under the rule and the deadline that will run; no other
split is looked at.

The procedure, in five sentences. Every look-ahead that the deadline allows is tried with every reach of the rule, and
is worth the tight Average-mAP of what is said by the deadline. A label takes what is best for it, one with fewer than
ENOUGH actions what is best for all labels together; of what is within SLACK of the best it takes the soonest. Then each
label's threshold is the one with the best F1, or the lowest that reaches the precision asked for. Last, provisional
words are tried from every confidence of GRID up: a label speaks from the lowest one at which the wanted share of its
provisional words ends confirmed and right. A label that reaches this from no confidence stays silent until it is sure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engines.bundle import Decision, Manifest, check_deadlines
from engines.decider import Spot
from engines.second import FORCED
from training.data.results import FLOAT, Truth
from training.deadlines import deadline_map
from training.ranked import ENOUGH, Point, at_precision, best_f1, points, rank, verdicts
from training.scoring import FLOOR, Recorded, said_of, words_of

REACHES_S = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""NMS radii to choose from where the head places its actions (displacement); of greedy's windows they are half."""
WIDE_REACHES_S = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
"""The same for heads that score whole windows, whose peaks are as wide as these."""
SLACK = 0.01
"""Average precisions this near to each other are alike: one action more or less of a hundred."""
GRID = tuple(round(float(1 / (1 + np.exp(-logit))), 3) for logit in np.arange(-4, 5.25, 0.25))
"""Confidences to try where each must be decided anew: even in their logits."""

Halves = Sequence[Recorded]
Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a choice.

    Attributes:
        rule: that will decide.
        deadline_s: by which every final word is to be said; None: when the rule has settled it.
        precision: share of the spots that is to be right; None: the best balance with how many are found (F1).
        provisional_precision: share of the provisional words that is to end confirmed and right; None: say none.
        calibrated: whether scores are to become probabilities first.
    """

    rule: Literal["local-max", "greedy"] = "local-max"
    deadline_s: float | None = None
    precision: float | None = None
    provisional_precision: float | None = 0.8
    calibrated: bool = True


def untracked(items: Sequence[Any], _what: str) -> Iterable[Any]:
    """Return the items, without showing how far they are."""
    return items


def candidates(manifest: Manifest, wish: Wish) -> list[Decision]:
    """Return the settings to choose from, the one with the shortest promised delay first.

    Raises:
        BundleError: no look-ahead is small enough for the deadline; it names the smallest deadline possible.
    """
    reach = "radius_s" if wish.rule == "local-max" else "window_s"
    given_s = REACHES_S if manifest.head.max_displacement_s else WIDE_REACHES_S
    reaches_s = {r if wish.rule == "local-max" else 2 * r for r in given_s}
    reaches_s |= {getattr(d, reach) for d in manifest.decision.values() if d.rule == wish.rule}
    only = len(manifest.look_aheads_s) == 1
    made = [
        Decision(
            rule=wish.rule,
            threshold=FLOOR,
            look_ahead_s=None if only else look_ahead_s,
            deadline_s=wish.deadline_s,
            **{reach: reach_s},
        )
        for look_ahead_s in manifest.look_aheads_s
        for reach_s in sorted(reaches_s)
    ]
    check_deadlines(everywhere(manifest, made[0]))
    return sorted((d for d in made if _is_kept(manifest, d)), key=lambda d: _promise(manifest, d))


def everywhere(manifest: Manifest, decision: Decision) -> Manifest:
    """Return the manifest with every label decided alike."""
    return manifest.model_copy(update={"decision": dict.fromkeys(manifest.labels, decision)})


def _is_kept(manifest: Manifest, decision: Decision) -> bool:
    smallest_s = everywhere(manifest, decision).smallest_deadline_s(manifest.labels[0])
    return decision.deadline_s is None or smallest_s <= decision.deadline_s


def _promise(manifest: Manifest, decision: Decision) -> tuple[float, ...]:
    manifest = everywhere(manifest, decision)
    label, reach_s = manifest.labels[0], decision.radius_s if decision.rule == "local-max" else decision.window_s
    return manifest.promised_delay_s(label), manifest.look_ahead_s(label), reach_s or 0.0


def actions_of(halves: Halves, labels: Sequence[str]) -> dict[str, int]:
    """Return how many actions of each label there are."""
    return {label: sum(a.label == label for half in halves for a in half.actions) for label in labels}


def decided(manifest: Manifest, halves: Halves) -> list[list[Spot]]:
    """Return what is said of each half."""
    return [words_of(manifest, half) for half in halves]


def choose_settings(manifest: Manifest, halves: Halves, wish: Wish, track: Track = untracked) -> dict[str, Decision]:
    """Return for each label look-ahead and reach; their thresholds are FLOOR.

    Raises:
        BundleError: as `candidates`.
    """
    tried, actions = candidates(manifest, wish), actions_of(halves, manifest.labels)
    worth = np.array([_worth(everywhere(manifest, d), halves, wish) for d in track(tried, "choosing")])
    occurring = [c for c, label in enumerate(manifest.labels) if actions[label]]
    together = _soonest(worth[:, occurring].mean(axis=1)) if occurring else 0
    return {
        label: tried[_soonest(worth[:, c]) if actions[label] >= ENOUGH else together]
        for c, label in enumerate(manifest.labels)
    }


def _worth(manifest: Manifest, halves: Halves, wish: Wish) -> FLOAT:
    """Return each label's tight Average-mAP of what is said by the deadline (C,)."""
    labels = manifest.labels
    truths = [Truth.of(half.actions, labels) for half in halves]
    saids = [said_of(words, labels) for words in decided(manifest, halves)]
    deadline_s = np.inf if wish.deadline_s is None else wish.deadline_s
    return np.array(deadline_map(truths, saids, deadline_s, "tight", labels).per_label)


def _soonest(worth_K: FLOAT) -> int:
    """Return the first that is about as good as the best."""
    return int(np.argmax(worth_K >= worth_K.max() - SLACK))


def choose_thresholds(
    manifest: Manifest, halves: Halves, wish: Wish, track: Track = untracked
) -> tuple[dict[str, float], list[str]]:
    """Return each label's threshold, and the labels that never reach the precision.

    Args:
        manifest: its thresholds are so low that every spot counts.
        halves: with the confidences that will run.
        wish: what is asked for.
        track: shows how far it is.
    """
    given, actions = _given(manifest, halves, track), actions_of(halves, manifest.labels)
    chosen, lacking = {}, []
    for label in manifest.labels:
        group = [label] if actions[label] >= ENOUGH else list(manifest.labels)
        found, count = given(group), sum(actions[name] for name in group)
        point = None if wish.precision is None else at_precision(found, wish.precision)
        if wish.precision is None:
            chosen[label] = best_f1(found, count)
        elif point is not None:
            chosen[label] = point.threshold
        else:
            chosen[label] = max(found, key=lambda p: (p.precision, p.said)).threshold if found else 0.5
            lacking.append(label)
    return chosen, lacking


def _given(manifest: Manifest, halves: Halves, track: Track) -> Callable[[Sequence[str]], list[Point]]:
    """Return the function from some labels to what each threshold gives of them.

    What a deadline forces depends on what reaches the threshold: for labels of which it forces any, every threshold of
    GRID is decided anew. Of the others one run tells it for all.
    """
    labels, happened = manifest.labels, [half.actions for half in halves]
    words = decided(manifest, halves)
    ranked = rank(words, happened, labels)
    forced = {word.label for half in words for word in half if FORCED in word.flags}
    runs = {
        threshold: rank(decided(manifest.with_decision(threshold=threshold), halves), happened, labels)
        for threshold in (track(GRID, "thresholds") if forced else ())
    }

    def given(group: Sequence[str]) -> list[Point]:
        if forced.isdisjoint(group):
            return points([ranked[label] for label in group])
        return [
            Point(t, sum(len(r[name].right) for name in group), sum(int(r[name].right.sum()) for name in group))
            for t, r in runs.items()
        ]

    return given


def choose_provisional(
    manifest: Manifest, halves: Halves, share: float, track: Track = untracked
) -> dict[str, float | None]:
    """Return from which confidence each label is spoken of before it is settled; None: it is not.

    Args:
        manifest: as it will confirm.
        halves: with the confidences that will run.
        share: of the provisional spots that is to end confirmed and right.
        track: shows how far it is.
    """
    actions = actions_of(halves, manifest.labels)
    runs = {t: _outcomes(manifest.with_decision(provisional_threshold=t), halves) for t in track(GRID, "early words")}
    chosen: dict[str, float | None] = {}
    for label in manifest.labels:
        group = [label] if actions[label] >= ENOUGH else list(manifest.labels)
        given = [
            Point(t, sum(run[name].said for name in group), sum(run[name].right for name in group))
            for t, run in runs.items()
        ]
        point = at_precision(given, share)
        chosen[label] = None if point is None else max(point.threshold, _lowest(manifest, label))
    return chosen


def _lowest(manifest: Manifest, label: str) -> float:
    """Return the confidence below which nothing can be said early: none, where a smaller look-ahead speaks first."""
    decision, first_s = manifest.decision[label], manifest.look_aheads_s[0]
    speaks_first = manifest.head.look_ahead_s > first_s and decision.look_ahead_s != first_s
    return 0.0 if speaks_first else decision.threshold


def _outcomes(manifest: Manifest, halves: Halves) -> Mapping[str, Point]:
    """Return how many spots of each label are provisional first, and how many of these end confirmed and right."""
    said, right = dict.fromkeys(manifest.labels, 0), dict.fromkeys(manifest.labels, 0)
    for half in halves:
        words = words_of(manifest, half)
        early = {w.id: w.label for w in words if w.state == "provisional" and w.revision == 1}
        for label in early.values():
            said[label] += 1
        for spot, is_right in verdicts(words, half.actions):
            right[spot.label] += is_right and spot.id in early
    return {label: Point(0.0, said[label], right[label]) for label in manifest.labels}
