"""What people may order a running streamer to do: be silent, be silent of a label, count scores from another threshold.

In: commands as they come, words as they are said. Out: answers, and which words may be said. Promise: a spot that was
said provisionally always gets its final word, whatever was ordered in between; no payload makes `obey` raise.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress

from pydantic import ValidationError

from engines.decider import Spot
from engines.errors import DataError
from streamer.payload import COMMANDS, AnswerMessage, MuteCommand, PauseCommand, ThresholdCommand, not_a

_LONGEST_REASON = 300


class Desk:
    """Obeys commands.

    Args:
        thresholds: label → the bundle's own threshold.

    Attributes:
        paused: whether nothing is said.
        muted: labels of which nothing is said.
        thresholds: label → threshold that was ordered.
    """

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self._own = dict(thresholds)
        self._open: set[str] = set()  # ids said provisionally, and not finally yet
        self.paused = False
        self.muted: set[str] = set()
        self.thresholds: dict[str, float] = {}
        self._on_threshold: Callable[[str, float], None] = lambda _label, _threshold: None

    def as_text(self) -> str:
        """Return what is ordered, for the next run."""
        return json.dumps({"paused": self.paused, "muted": sorted(self.muted), "thresholds": self.thresholds})

    def recall(self, text: str | None) -> None:
        """Take what an earlier run's `as_text` gave; labels that the bundle does not have are forgotten."""
        state = json.loads(text) if text is not None else {}
        self.paused = state.get("paused", False)
        self.muted = {label for label in state.get("muted", ()) if label in self._own}
        self.thresholds = {k: v for k, v in state.get("thresholds", {}).items() if k in self._own}

    def attach(self, on_threshold: Callable[[str, float], None]) -> None:
        """Have `on_threshold` told of every threshold that is ordered, and of those that are already."""
        self._on_threshold = on_threshold
        for label, threshold in self.thresholds.items():
            on_threshold(label, threshold)

    def lets(self, spot: Spot) -> bool:
        """Return whether a word may be said."""
        silent = self.paused or spot.label in self.muted
        if spot.state == "provisional":
            if not silent:
                self._open.add(spot.id)
            return not silent
        was_open = spot.id in self._open
        self._open.discard(spot.id)
        return was_open or not silent

    def obey(self, command: str, payload: bytes) -> AnswerMessage:
        """Do what a command says; return what became of it."""
        kind = COMMANDS.get(command)
        if kind is None:
            return self._answer(command, None, f"There is no command {command!r}; there are {', '.join(COMMANDS)}.")
        try:
            order = kind.model_validate_json(payload or b"{}")
        except ValidationError as error:
            return self._answer(command, _request_id(payload), str(not_a("command", error)))
        try:
            self._order(order)
        except DataError as error:
            return self._answer(command, order.request_id, str(error))
        return self._answer(command, order.request_id, None)

    def _order(self, order: PauseCommand | MuteCommand | ThresholdCommand) -> None:
        if isinstance(order, PauseCommand):
            self.paused = order.paused
            return
        if order.label not in self._own:
            raise DataError(f"The bundle has no label {order.label!r}.")
        if isinstance(order, MuteCommand):
            (self.muted.add if order.muted else self.muted.discard)(order.label)
        elif order.threshold is None:
            if self.thresholds.pop(order.label, None) is not None:
                self._on_threshold(order.label, self._own[order.label])
        else:
            self.thresholds[order.label] = order.threshold
            self._on_threshold(order.label, order.threshold)

    def _answer(self, command: str, request_id: str | None, reason: str | None) -> AnswerMessage:
        return AnswerMessage(
            command=command,
            request_id=request_id,
            ok=reason is None,
            reason=reason[:_LONGEST_REASON] if reason is not None else None,
            paused=self.paused,
            muted=sorted(self.muted),
            thresholds=dict(self.thresholds),
        )


def _request_id(payload: bytes) -> str | None:
    """Return whose request it is, if that much can be read of it."""
    with suppress(ValueError, RecursionError):
        fields = json.loads(payload)
        if isinstance(fields, dict) and isinstance(fields.get("request_id"), str):
            return str(fields["request_id"])
    return None
