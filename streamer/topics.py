"""Where a stream's messages go: `<prefix>/<stream>/…`."""

import re
from dataclasses import dataclass

from engines.errors import UsageError

_NO_CHARACTERS = "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
_NOT_IN_A_LEVEL = re.compile(rf"[+#/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NO_CHARACTERS}]")
"""Wildcards, the separator, and what MQTT, or some brokers, do not take as text."""
_LONGEST_LEVEL, _LONGEST_BASE = 200, 10_000


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a stream's messages go; `base` is `<prefix>/<stream>`."""

    base: str

    @property
    def spots(self) -> str:
        """Final words."""
        return f"{self.base}/spots"

    @property
    def provisional(self) -> str:
        """Provisional words."""
        return f"{self.base}/spots/provisional"

    def by_label(self, label: str) -> str:
        """Final words of one label."""
        return f"{self.base}/spots/by-label/{_NOT_IN_A_LEVEL.sub('-', label.strip())[:_LONGEST_LEVEL] or '-'}"

    @property
    def status(self) -> str:
        """How the stream is; retained."""
        return f"{self.base}/status"

    @property
    def clock(self) -> str:
        """Media time beside the wall clock; retained."""
        return f"{self.base}/clock"

    @property
    def scores(self) -> str:
        """What each second scored."""
        return f"{self.base}/scores"

    @property
    def stats(self) -> str:
        """How the run goes."""
        return f"{self.base}/stats"

    def command(self, name: str) -> str:
        """One command; `+` for all."""
        return f"{self.base}/cmd/{name}"

    @property
    def answers(self) -> str:
        """What became of commands."""
        return f"{self.base}/answers"


def topics(prefix: str, stream: str | None) -> Topics:
    """Return a stream's topics; what MQTT does not allow in a name becomes `-`. None stands for every stream.

    Raises:
        UsageError: prefix or stream is empty or too long, or the prefix is reserved for the broker.
    """
    levels = [_level(part) for part in prefix.strip("/").split("/")]
    if levels[0].startswith("$"):
        raise UsageError("The prefix must not start with '$', which is reserved for the broker.")
    base = "/".join([*levels, "+" if stream is None else _level(stream)])
    if len(base) > _LONGEST_BASE:
        raise UsageError(f"The prefix has too many levels: {len(base)} characters; {_LONGEST_BASE} are allowed.")
    return Topics(base)


def _level(name: str) -> str:
    if not 0 < len(name.strip()) <= _LONGEST_LEVEL:
        raise UsageError(f"Each level of a topic must have 1 to {_LONGEST_LEVEL} characters; got {len(name.strip())}.")
    return _NOT_IN_A_LEVEL.sub("-", name.strip())
