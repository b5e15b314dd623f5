"""What `touchline tune` prints: how each label is decided from now on, and how far its confidences are off."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from engines.bundle import Decision, Manifest
from training.choice import Halves, decided
from training.ranked import Ranked, rank
from training.reliability import Reliability


def chosen_table(before: Manifest, after: Manifest, halves: Halves) -> Table:
    """Return how each label is decided, and what that gives on the halves that it was chosen on.

    Args:
        before: what it was.
        after: what it is.
        halves: as the bundle scores them now.
    """
    rule = "radius" if after.rule == "local-max" else "window"
    table = Table("label", title=f"chosen (rule {after.rule})", box=box.SIMPLE_HEAD, padding=0)
    table.columns[0].no_wrap = True
    headings = (
        "ac-\ntions",
        "ahead,\ns",
        f"{rule},\ns",
        "from",
        "was",
        "early\nfrom",
        "preci-\nsion",
        "recall",
        "delay,\ns",
    )
    for heading in headings:
        table.add_column(heading, justify="right", min_width=max(5, *map(len, heading.split("\n"))))
    silent = after.with_decision(provisional_threshold=None)
    ranked = rank(decided(silent, halves), [half.actions for half in halves], after.labels)
    for label, found in ranked.items():
        old, new = before.decision[label], after.decision[label]
        early = new.provisional_threshold
        table.add_row(
            label,
            str(found.actions),
            f"{after.look_ahead_s(label):g}",
            f"{_reach_s(new):g}",
            f"{new.threshold:.3f}",
            f"{old.threshold:.3f}",
            "–" if early is None else f"{early:.3f}",
            *_shares(found),
            f"{after.promised_delay_s(label):.2f}",
        )
    return table


def _reach_s(decision: Decision) -> float:
    return (decision.radius_s if decision.rule == "local-max" else decision.window_s) or 0.0


def _shares(found: Ranked) -> tuple[str, str]:
    """Return precision and recall."""
    right = int(found.right.sum())
    precision, recall = (f"{right / count:.2f}" if count else "–" for count in (len(found.right), found.actions))
    return precision, recall


def error_table(found: Sequence[Reliability]) -> Table:
    """Return the expected calibration errors before and after, a look-ahead a column; labels that have ENOUGH spots."""
    title = "expected calibration error, before → after"
    table = Table("look-ahead", title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for one in found:
        table.add_column(f"{one.look_ahead_s:g} s", justify="right")
    table.add_row("all labels", *(_both(one.error) for one in found))
    table.add_row("  above 0.1", *(_both(one.upper_error) for one in found), end_section=True)
    errors = [one.errors for one in found]
    for label in found[0].before:
        if any(label in some for some in errors):
            table.add_row(label, *(_both(some[label]) if label in some else "–" for some in errors))
    return table


def _both(error: tuple[float, float]) -> str:
    return f"{error[0]:.2f}→{error[1]:.2f}"
