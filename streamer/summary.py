"""What a run was worth: true actions beside spots, latency by part. In: actions and received spots. Out: tables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from engines.actions import Action
from streamer.payload import Received
from streamer.screen import clock

TOLERANCE_S = 2.5
"""A spot of the right label this close to an action is counted as found."""
_PARTS = ("grid", "look_ahead", "hold", "compute", "publish")


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """True actions beside what was said of them.

    Attributes:
        found: each action with its spot, or None.
        false: spots of no action.
    """

    found: list[tuple[Action, Received | None]]
    false: list[Received]

    @property
    def recall(self) -> float:
        """Share of the actions that were found; 0 where there is none."""
        return sum(r is not None for _, r in self.found) / max(len(self.found), 1)

    @property
    def precision(self) -> float:
        """Share of the spots that were right; 0 where there is none."""
        right = sum(r is not None for _, r in self.found)
        return right / max(right + len(self.false), 1)


def match(actions: Sequence[Action], received: Sequence[Received], tolerance_s: float = TOLERANCE_S) -> Matched:
    """Give each action the nearest spot of its label and half, and each spot to one action at most.

    Args:
        actions: what happened.
        received: what was said; only confirmed spots count.
        tolerance_s: how far from the action a spot may be.

    Source: none; not SoccerNet's metric, which weighs all thresholds. The nearest pair is taken first.
    """
    confirmed = [one for one in received if one.spot.state == "confirmed"]
    pairs = sorted(
        (abs(one.spot.media_time - action.time_s), a, s)
        for a, action in enumerate(actions)
        for s, one in enumerate(confirmed)
        if (one.spot.label, one.spot.half) == (action.label, action.half)
    )
    spot_of: dict[int, int] = {}
    used: set[int] = set()
    for distance_s, a, s in pairs:
        if distance_s <= tolerance_s and a not in spot_of and s not in used:
            spot_of[a] = s
            used.add(s)
    found = [(action, confirmed[spot_of[a]] if a in spot_of else None) for a, action in enumerate(actions)]
    return Matched(found, [one for s, one in enumerate(confirmed) if s not in used])


def summary(actions: Sequence[Action], received: Sequence[Received], status: Mapping[str, Any]) -> Group:
    """Return what people see at the end.

    Args:
        actions: what happened in the sample.
        received: what the subscriber received.
        status: the streamer's `stopped` status, with its statistics.
    """
    matched = match(actions, received)
    right = len(matched.found) - sum(one is None for _, one in matched.found)
    verdict = (
        f"{right} of {len(matched.found)} actions found (recall {matched.recall:.0%}), {len(matched.false)} false "
        f"{'spot' if len(matched.false) == 1 else 'spots'} (precision {matched.precision:.0%}), "
        f"within {TOLERANCE_S:g} s."
    )
    return Group(
        "\nWhat happened, and what was said of it:",
        _actions_table(matched, received),
        verdict,
        _words_sentence(received),
        "\nFrom the action to the subscriber, in seconds:",
        _latency_table([one for one in received if one.spot.state == "confirmed"]),
        _run_sentence(status),
    )


def _actions_table(matched: Matched, received: Sequence[Received]) -> Table:
    """Return each action with its confirmed spot: how late it was first heard of, and how late that was confirmed."""
    first = {one.spot.id: one for one in reversed(received)}
    table = Table()
    for name in ("action", "label", "found\nat", "confi-\ndence", "heard\nfirst", "late"):
        table.add_column(name, justify="left" if name == "label" else "right", no_wrap=True)
    for action, one in matched.found:
        label = action.label if action.visible else f"{action.label} (not shown)"
        if one is None:
            table.add_row(_exact(action.time_s), label, "missed", "", "", "", style="red")
        else:
            at, confidence = _exact(one.spot.media_time), f"{one.spot.confidence:.0%}"
            heard = first[one.spot.id]
            heard_s = heard.late_s + heard.spot.media_time - one.spot.media_time
            table.add_row(_exact(action.time_s), label, at, confidence, f"{heard_s:.2f} s", f"{one.late_s:.2f} s")
    return table


def _words_sentence(received: Sequence[Received]) -> str:
    """Return how many spots were said before they were settled, and what became of them."""
    early = {one.spot.id for one in received if one.spot.state == "provisional"}
    retracted = sum(one.spot.state == "retracted" for one in received)
    return f"{len(early)} spots were said provisionally, {retracted} of them retracted."


def _latency_table(received: Sequence[Received]) -> Table:
    """Return the delay by part: grid, look-ahead and hold are media time, compute and publish wall clock."""
    table = Table()
    for name in ("part", "p50", "p95", "max"):
        table.add_column(name, justify="left" if name == "part" else "right")
    values = defaultdict(list)
    for one in received:
        for part in _PARTS:
            values[part].append(one.publish_s if part == "publish" else one.spot.latency.get(part, 0.0))
        values["total"].append(one.late_s)
    for part in (*_PARTS, "total"):
        if values[part]:
            p50, p95 = np.percentile(values[part], [50, 95], method="inverted_cdf")
            cells = (f"{p50:.3f}", f"{p95:.3f}", f"{max(values[part]):.3f}")
            table.add_row(part.replace("_", "-"), *cells, style="bold" if part == "total" else "")
    return table


def _run_sentence(status: Mapping[str, Any]) -> str:
    statistics = status.get("statistics") or {}
    factor, seconds, shed = (statistics.get(key) for key in ("real_time_factor", "seconds", "seconds_shed"))
    if factor is None or seconds is None or shed is None:
        return "The streamer has reported no statistics."
    return f"{seconds:.0f} seconds of media at {factor:.2f} times the speed of life; {shed:.0f} seconds shed."


def _exact(seconds: float) -> str:
    return f"{clock(seconds)}.{int(seconds * 10) % 10}"
