"""Every default of the live path, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """How long a source may be silent, and how it is opened again."""

    open_s: float = 20.0
    """How long opening may take."""
    first_s: float = 30.0
    """How long the first second may take from then on: a stream is joined at its next key frame."""
    stall_s: float = 10.0
    """How long nothing may come; for a stream that comes in bursts, a burst longer. `--stall` scales all three."""
    retries: int | None = None
    """How often in a row a live source is opened again, the first time included; None: for ever, if it could be opened
    once, and otherwise not at all, since then its URL is probably wrong."""
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 15.0
    """Before it is opened again: twice as long each time, up to this, and at random between half of it and all."""
    steady_s: float = 30.0
    """After so long without a fault, failures are counted from zero."""


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
    threads: int = 2
    """Decoder threads of a replay; live always takes one, since every further one costs a frame of delay."""
    ahead_frames: int = 64
    """Frames, of picture and sound, that a replay decodes ahead."""
    stale_s: float = 1.0
    """How late live may be, for the engines' sake or the decoder's; then the oldest whole seconds are shed, or pictures
    are left out up to the next key frame."""
    backlog_s: int = 3
    """Seconds of media that a replay decodes before it waits for the engines."""
    watch: WatchConfig = WatchConfig()
    start: tuple[int, float] = (1, 0.0)
    """Half and media time from which words are said; replay only."""
    end: tuple[int, float] | None = None
    """Half and media time up to which words are said; None: to the end."""
    context_s: float = 0.0
    """What is read before the start and after the end, so that the words between are those of a whole run."""
    clips_keep_s: float | None = None
    """How much of the encoded stream is kept for clips; None: nothing."""

    def part(self, half: int) -> tuple[float, float] | None:
        """Return from when to when words are said of a half; None if of no moment of it."""
        last = self.end or (len(self.urls), float("inf"))
        if not self.start[0] <= half <= last[0]:
            return None
        return (self.start[1] if half == self.start[0] else 0.0), (last[1] if half == last[0] else float("inf"))


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """The clips around confirmed spots."""

    folder: Path
    pre_s: float = 10.0
    post_s: float = 5.0


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """What is published, and how."""

    url: str = ""
    """Empty: to the embedded broker."""
    prefix: str = "touchline"
    ca: Path | None = None
    """Certificates of the authorities that may vouch for the broker; the system's own if None."""
    cert: Path | None = None
    key: Path | None = None
    """Who we are to a broker that asks for certificates."""
    scores: bool = False
    """Whether each second's scores are published."""
    commands: bool = False
    """Whether commands are obeyed."""
    clock_s: float = 5.0
    stats_s: float = 10.0
    """How often the clock and the statistics are published."""
    timeout_s: float = 10.0
    """How long the broker may take to answer anything."""
    stop_timeout_s: float = 10.0
    """How long the end of a run waits for the broker to acknowledge."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Where pages, metrics and health are served."""

    port: int
    host: str = "127.0.0.1"
    token: str | None = None
    """What visitors must show; required unless the host is loopback."""
    overlay: Path | None = None
    """How the overlay looks; see pages/overlay.py."""


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Where spots go, beside the terminal."""

    mqtt: MqttConfig | None = None
    broker: bool = False
    """Whether an embedded broker is started; it is published to unless `mqtt` says where."""
    broker_port: int = 0
    serve: ServeConfig | None = None
    files: tuple[Path, ...] = ()
    """Files of spots; the ending decides on the format."""
    state: Path | None = None
    """Where what must outlive the process is kept: the outbox, the clock of a live stream, what was commanded."""
    outbox_capacity: int = 50_000
    """Final words that may wait for the broker; then the oldest are dropped, counted and said."""


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
    clips: ClipConfig | None = None
