"""Every default of the live path, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """How a stream is read."""

    urls: tuple[str, ...]
    """One broadcast, or the files of a match's halves in order."""
    live: bool
    """Live sheds whole seconds rather than fall behind; replay loses nothing and waits."""
    speed: float | None = None
    """Times the speed of life at which a file is played; None is as fast as it goes. Streams have their own pace."""
    input_options: Mapping[str, str] = field(default_factory=dict)
    """Passed to FFmpeg."""
    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    threads: int = 2
    """Decoder threads of a replay; live always takes one, since every further one costs a frame of delay."""
    ahead_frames: int = 64
    """Frames, of picture and sound, that a replay decodes ahead."""
    late_s: float = 1.0
    """How far a paced file may fall behind its own clock before pictures are left out up to the next key frame."""
    backlog_s: int = 3
    """Seconds of media that may wait for the engines; then live sheds the oldest, and a replay waits."""


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Where spots go, beside the terminal."""

    mqtt_url: str | None = None
    mqtt_prefix: str = "touchline"
    broker: bool = False
    broker_port: int = 0
    metrics_port: int | None = None
    results: Path | None = None
    """SoccerNet's results; every word, one JSON object a line, if it ends in .jsonl."""
    stop_timeout_s: float = 10.0
    """How long the end of a run waits for the broker to acknowledge."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """When a live stream counts as late."""

    slack_s: float = 0.5
    """How long after its time, by the wall clock, a second counts as overdue."""
    window_seconds: int = 60
    """How many of the last seconds tell what is on time; should span two bursts of a stream that comes in bursts."""
    missed_s: float = 1.0
    """How long after its deadline, by the wall clock, a final word counts as having missed it."""


EVERY_LABEL = "*"
"""In place of a label: all that are not named."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything about one run of `touchline live` or `touchline replay`."""

    bundle: Path
    stream: str
    ingest: IngestConfig
    output: OutputConfig = OutputConfig()
    threshold: float | None = None
    """Replaces every label's threshold; for evaluation, where weak spots count too."""
    deadlines_s: Mapping[str, float] = field(default_factory=dict)
    """Replaces deadlines, by label; see EVERY_LABEL."""
    provisional_threshold: float | None = None
    """Replaces the confidence from which a label speaks before it is settled."""
    provisional: bool = True
    """Whether anything is said before it is settled."""
    guard: GuardConfig = GuardConfig()
