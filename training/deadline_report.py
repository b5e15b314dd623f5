"""`touchline evaluate --deadlines`: all figures of accuracy under a deadline, as tables or as one JSON object.

In: what happened and what was said when, a half each. Out: a `DeadlineReport`; of it, tables of 80 columns, or plain
values. In JSON, null stands for the deadline ∞, and for what no spot could tell.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from training.data.results import Truth
from training.data.words import History, SaidClock
from training.deadlines import DEADLINES_S, RIGHT_S, DeadlineCurve, Recalls, deadline_curve, find
from training.delays import BUCKETS_S, Delays, ProvisionalFigures, WordFigures, say_delays, word_figures

_SHARES = (0.5, 0.9, 0.95)
_LIVE_S = (3.0, 5.0)  # deadlines that are shown wherever there is no room for all
_CLOCKS = {"media": "media clock", "wall": "media clock, plus compute and publish by the wall clock"}
_NOTHING = "-"


@dataclass(frozen=True, slots=True, eq=False)
class DeadlineReport:
    """How accurate a feed is under deadlines, and when it says its spots.

    Attributes:
        clock: when its words count as said.
        tight: A(D) over tolerances of 1 to 5 s.
        loose: A(D) over tolerances of 5 to 60 s.
        recalls: R(δ, D) at `RIGHT_S`, for each deadline.
        delays: from the action to the confirmed word, of the right spots.
        delays_per_label: the same by label.
        words: how words behave.
    """

    clock: SaidClock
    tight: DeadlineCurve
    loose: DeadlineCurve
    recalls: tuple[Recalls, ...]
    delays: Delays
    delays_per_label: tuple[Delays, ...]
    words: WordFigures


def judge(truths: Sequence[Truth], histories: Sequence[History], clock: SaidClock = "media") -> DeadlineReport:
    """Return all figures, over all halves together.

    Args:
        truths: the actions, a half each, of SoccerNet's labels.
        histories: `histories[i]` belongs to the half of `truths[i]`.
        clock: what the histories were read with.
    """
    saids = [history.said for history in histories]
    found = find(truths, saids)
    delays, delays_per_label = say_delays(found)
    return DeadlineReport(
        clock=clock,
        tight=deadline_curve(truths, saids, "tight"),
        loose=deadline_curve(truths, saids, "loose"),
        recalls=tuple(found.recall(deadline_s) for deadline_s in DEADLINES_S),
        delays=delays,
        delays_per_label=delays_per_label,
        words=word_figures(truths, histories),
    )


# As plain values


def as_json(report: DeadlineReport) -> dict[str, object]:
    """Return the report as plain values; lists by deadline follow `deadlines_s`, those per class `labels`."""
    return {
        "said": report.clock,
        "labels": report.tight.labels,
        "actions": report.tight.actions,
        "deadlines_s": [_finite(deadline_s) for deadline_s in DEADLINES_S],
        "tight": _curve_json(report.tight),
        "loose": _curve_json(report.loose),
        "recall": {
            "tolerance_s": RIGHT_S,
            "all": [recalls.overall for recalls in report.recalls],
            "per_class": [recalls.per_label for recalls in report.recalls],
        },
        "say_delay": {
            "tolerance_s": RIGHT_S,
            "all": asdict(report.delays),
            "per_class": [asdict(delays) for delays in report.delays_per_label],
        },
        "words": _words_json(report.words),
    }


def _curve_json(curve: DeadlineCurve) -> dict[str, object]:
    return {
        "a_mAP": curve.means,
        "a_mAP_occurring": curve.occurring_means,
        "a_mAP_per_class": [averages.per_label for averages in curve.averages],
        "a_mAP_strict": [averages.mean for averages in curve.strict],
        "a_mAP_per_class_strict": [averages.per_label for averages in curve.strict],
        "share": curve.shares,
        "latency_loss": curve.losses,
        **{f"D{100 * share:g}_s": _finite(curve.least_deadline_s(share)) for share in _SHARES},
        "DAUC": curve.area,
    }


def _words_json(words: WordFigures) -> dict[str, object]:
    found = asdict(words)
    if words.provisional is not None:
        buckets = zip(BUCKETS_S, words.provisional.by_delay, strict=True)
        found["provisional"]["by_delay"] = [{"up_to_s": _finite(s), **asdict(precision)} for s, precision in buckets]
    return found


def _finite(seconds: float | None) -> float | None:
    return None if seconds == math.inf else seconds


# As tables


def show(report: DeadlineReport, console: Console) -> None:
    """Print the report as tables."""
    for table in (_by_deadline(report), _scalars(report), _by_label(report), _words(report.words)):
        console.print(table)


def _by_deadline(report: DeadlineReport) -> Table:
    """Return A(D) and R(D) by deadline."""
    title = f"Accuracy under a deadline: average of all {len(report.tight.labels)} labels, in percent"
    table = _table(title, "deadline", "tight", "of ∞", "strict", "loose", "of ∞", "strict", "found")
    for i, (deadline_s, recalls) in enumerate(zip(DEADLINES_S, report.recalls, strict=True)):
        table.add_row(_seconds(deadline_s), *_at(report.tight, i), *_at(report.loose, i), _percent(recalls.overall, 1))
    table.caption = (
        f"Said by the {_CLOCKS[report.clock]}. Strict: late spots stay as false alarms. "
        f"Found: share of the actions whose spot, right within ±{RIGHT_S / 2:g} s, came in time."
    )
    return table


def _at(curve: DeadlineCurve, i: int) -> tuple[str, str, str]:
    return _percent(curve.means[i]), _percent(curve.shares[i], 1), _percent(curve.strict[i].mean)


def _scalars(report: DeadlineReport) -> Table:
    """Return each curve in a few numbers."""
    table = _table("The curve in a few numbers", "", "tight", "loose")
    tight, loose = _few_numbers(report.tight), _few_numbers(report.loose)
    for name, cell in tight.items():
        table.add_row(name, cell, loose[name])
    return table


def _few_numbers(curve: DeadlineCurve) -> Mapping[str, str]:
    """Return a curve's scalars by name."""
    found = {}
    happening = sum(count > 0 for count in curve.actions)
    for deadline_s in (*_LIVE_S, math.inf):
        name = f"A({_symbol(deadline_s)}), average of the {happening} occurring, percent"
        found[name] = _percent(curve.occurring_means[DEADLINES_S.index(deadline_s)])
    for deadline_s in _LIVE_S:
        found[f"latency loss A(∞) − A({deadline_s:g}), points"] = _percent(curve.losses[DEADLINES_S.index(deadline_s)])
    for share in _SHARES:
        found[f"D{100 * share:g}, least deadline with {share:.0%} of A(∞)"] = _seconds(curve.least_deadline_s(share))
    found["DAUC, mean share of A(∞) over log D, 1 to 64 s, percent"] = _percent(curve.area, 1)
    return found


def _by_label(report: DeadlineReport) -> Table:
    """Return tight A(D), and the delays, of each label."""
    live = [DEADLINES_S.index(deadline_s) for deadline_s in (*_LIVE_S, math.inf)]
    headings = [f"A({_symbol(DEADLINES_S[i])})" for i in live]
    title = "By label: tight, in percent, and seconds from the action to its confirmed word"
    table = _table(title, "label", *headings, "right", "p50", "p95", "p99", "max")
    curve = report.tight
    for c, (label, actions) in enumerate(zip(curve.labels, curve.actions, strict=True)):
        cells = [_percent(curve.averages[i].per_label[c], 1) if actions else _NOTHING for i in live]
        table.add_row(label, *cells, *_delay_cells(report.delays_per_label[c], actions))
    table.add_section()
    means = [_percent(curve.means[i], 1) for i in live]
    table.add_row(f"all {len(curve.labels)}", *means, *_delay_cells(report.delays, sum(curve.actions)))
    return table


def _delay_cells(delays: Delays, actions: int) -> list[str]:
    times_s = (delays.p50_s, delays.p95_s, delays.p99_s, delays.max_s)
    return [f"{delays.count}/{actions}", *(_number(time_s, 1) for time_s in times_s)]


def _words(words: WordFigures) -> Table:
    """Return how words behave."""
    table = _table("Words", "", "")
    table.show_header = False
    table.add_row("confirmed spots", str(words.confirmed))
    table.add_row("… retracted after that, percent", _percent(words.retracted, 1))
    table.add_row("… revision that confirmed them, mean", _number(words.revisions, 2))
    if words.provisional is None:
        table.add_row("spots that were provisional first", _NOTHING)
    else:
        _add_provisional(table, words.provisional)
    return table


def _add_provisional(table: Table, figures: ProvisionalFigures) -> None:
    """Add what provisional words are worth."""
    table.add_row("spots that were provisional first", str(figures.precision.count))
    table.add_row("… confirmed and right in the end, percent", _percent(figures.precision.share, 1))
    for after_s, up_to_s, precision in zip((0, *BUCKETS_S), BUCKETS_S, figures.by_delay, strict=False):
        if precision.count:
            name = f"  … of the {precision.count} first said {after_s:g} to {_symbol(up_to_s)} s after it"
            table.add_row(name, _percent(precision.share, 1))
    table.add_row("… retracted unconfirmed, percent", _percent(figures.retracted, 1))
    table.add_row("… ahead of the confirmed word, p50, seconds", _number(figures.lead.p50_s, 1))
    table.add_row("… ahead of the confirmed word, p95, seconds", _number(figures.lead.p95_s, 1))
    table.add_row("… moved until confirmed, p95, seconds", _number(figures.drift.p95_s, 1))


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _percent(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{100 * value:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _symbol(seconds: float) -> str:
    return "∞" if seconds == math.inf else f"{seconds:g}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    return "∞" if seconds == math.inf else f"{seconds:g} s"
