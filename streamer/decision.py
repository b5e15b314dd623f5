"""What a run changes in how its bundle decides, and what is then promised."""

import argparse
import math
from collections.abc import Mapping

from engines.bundle import Manifest, check_deadlines
from engines.errors import UsageError
from streamer.config import EVERY_LABEL

_LONGEST_DEADLINE_S = 600


def add_deadline(parser: argparse.ArgumentParser) -> None:
    """Declare `--deadline`; its values are pairs of a label, or EVERY_LABEL, and seconds."""
    parser.add_argument(
        "--deadline",
        action="append",
        type=_deadline,
        default=[],
        metavar="[LABEL=]S",
        help="say final words at most S seconds of media after the action, of all labels or of LABEL; may be repeated",
    )


def _deadline(text: str) -> tuple[str, float]:
    label, named, seconds = text.rpartition("=")
    try:
        value = float(seconds)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LONGEST_DEADLINE_S or (named and not label):
        raise argparse.ArgumentTypeError(f"{text!r}: write S or LABEL=S, S up to {_LONGEST_DEADLINE_S} seconds")
    return label or EVERY_LABEL, value


def decided(
    manifest: Manifest,
    *,
    threshold: float | None = None,
    deadlines_s: Mapping[str, float] | None = None,
    provisional_threshold: float | None = None,
    provisional: bool = True,
) -> Manifest:
    """Return the manifest with other decisions; for the arguments see RunConfig.

    A label whose look-ahead is too large for its deadline is confirmed with a smaller one, if the bundle has it.

    Raises:
        UsageError: there is no such label.
        BundleError: the bundle cannot keep such a deadline.
    """
    wanted = deadlines_s or {}
    unknown = [label for label in wanted if label not in (EVERY_LABEL, *manifest.labels)]
    if unknown:
        some = ", ".join(manifest.labels[:3])
        raise UsageError(f"--deadline: the bundle {manifest.name} has no label {unknown[0]!r}; it has {some}, …")
    changes: dict[str, object] = {} if threshold is None else {"threshold": threshold}
    if provisional_threshold is not None or not provisional:
        changes["provisional_threshold"] = provisional_threshold if provisional else None
    changed = manifest.with_decision(**changes)
    for label in changed.labels:
        deadline_s = wanted.get(label, wanted.get(EVERY_LABEL))
        if deadline_s is not None:
            changed = _within(changed, label, deadline_s)
    check_deadlines(changed)
    return changed


def _within(manifest: Manifest, label: str, deadline_s: float) -> Manifest:
    """Return the manifest with a label's deadline, and a smaller look-ahead where its own is too large for that."""
    decision = manifest.decision[label].model_copy(update={"deadline_s": deadline_s})
    own_s = manifest.head.look_ahead_s if decision.look_ahead_s is None else decision.look_ahead_s
    for look_ahead_s in reversed([a for a in manifest.look_aheads_s if a <= own_s]):
        one = decision.model_copy(update={"look_ahead_s": look_ahead_s})
        changed = manifest.model_copy(update={"decision": {**manifest.decision, label: one}})
        if changed.smallest_deadline_s(label) <= deadline_s:
            break
    return changed


def promise(manifest: Manifest) -> str:
    """Return in a sentence how long after its action a final word comes at most, by part, and the deadlines."""
    slowest = max(manifest.labels, key=manifest.promised_delay_s)
    longest_s = manifest.promised_delay_s(slowest)
    shortest_s = min(manifest.promised_delay_s(label) for label in manifest.labels)
    if math.isinf(longest_s):
        rule = manifest.decision[slowest].rule
        text = f"its rule ({rule}) says a spot when its rivals are settled, however late; --deadline bounds that"
    else:
        text = (
            f"a spot is said at most {longest_s:.2f} s after its action "
            f"(look-ahead {manifest.look_ahead_s(slowest):.2f}, hold {manifest.hold_s(slowest):.2f}, "
            f"grid {manifest.grid_s:.2f})"
        )
    if shortest_s < longest_s:
        text += f", the soonest label at most {shortest_s:.2f} s"
    given_s = sorted({d.deadline_s for d in manifest.decision.values() if d.deadline_s is not None})
    if given_s:
        span = f"{given_s[0]:g}" if len(given_s) == 1 else f"{given_s[0]:g} to {given_s[-1]:g}"
        text += f"; deadline {span} s"
    return text
