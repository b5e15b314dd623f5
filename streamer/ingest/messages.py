"""What the reading process says of a source, and what the streamer makes of it; plain values, all of them."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from engines.errors import TouchlineError
from engines.second import Second
from streamer.sources.base import Cause, SourceFault, StreamInfo
from streamer.timeline import Anchor

State = Literal["opening", "listening", "running", "waiting", "ended", "failed"]
"""Of a source: being opened; waiting for somebody who sends; giving seconds; waiting before it is opened again; at its
own end; given up."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What reading has counted so far.

    Attributes:
        frames: pictures decoded.
        decode_errors: packets, pictures and blocks of sound that could not be decoded.
        corrupt_frames: pictures kept though damaged.
        skipped_frames: pictures left out, undecoded, since the decoder was late.
        stale_seconds: seconds shed, since the engines were late.
        pending_seconds: seconds that wait for the engines now.
        repairs: timestamps repaired, by cause.
    """

    frames: int = 0
    decode_errors: int = 0
    corrupt_frames: int = 0
    skipped_frames: int = 0
    stale_seconds: int = 0
    pending_seconds: int = 0
    repairs: dict[str, int] = field(default_factory=dict)

    def after(self, past: "Counts") -> "Counts":
        """Return these counts with those of past connections added."""
        sums = {
            f.name: getattr(self, f.name) + getattr(past, f.name)
            for f in fields(self)
            if f.name not in ("repairs", "pending_seconds")
        }
        causes = self.repairs.keys() | past.repairs.keys()
        repairs = {cause: self.repairs.get(cause, 0) + past.repairs.get(cause, 0) for cause in sorted(causes)}
        return Counts(**sums, pending_seconds=self.pending_seconds, repairs=repairs)


@dataclass(frozen=True, slots=True)
class Opened:
    """The source of half `half` is open; `again` if it was before."""

    half: int
    info: StreamInfo
    again: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A second of half `half`; `anchor` is where another connection would go on."""

    half: int
    second: Second
    counts: Counts
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class HalfEnded:
    """Half `half` is over. `error` says why, if it broke off."""

    half: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """How a source is, from now on.

    Attributes:
        half: whose source.
        state: how it is.
        cause: why, if something is wrong.
        reason: the same in one sentence; or whom a listening source waits for.
        failures: how often in a row it could not be read.
        retry_in_s: when it is opened again, if it is waiting.
    """

    half: int
    state: State
    cause: Cause | None = None
    reason: str | None = None
    failures: int = 0
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClipDone:
    """A clip was written, or could not be; `error` says why."""

    path: Path | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PreviewOrder:
    """Whether pictures are wanted for people to see."""

    wanted: bool


@dataclass(frozen=True, slots=True, repr=False)
class Preview:
    """A picture of what is being analysed, for people to see."""

    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Listening:
    """The source waits for somebody who sends."""

    address: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The source is open."""

    info: StreamInfo


@dataclass(frozen=True, slots=True)
class Alive:
    """A recording is being read, though nothing of it is wanted yet."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over; `fault` says why, unless it came to its own end."""

    fault: SourceFault | None


Message = Opened | Arrived | HalfEnded | SourceChanged | ClipDone
"""What the streamer hears."""

Said = Listening | Connected | Alive | Arrived | Ended | TouchlineError
"""What the reading process of one connection says of it."""

Report = Said | ClipDone | Preview
"""What the reading process says."""
