"""What every source gives: frames, in the order they were decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol

from engines.errors import SourceError
from engines.second import FLOAT32, UINT8

if TYPE_CHECKING:  # the reading process starts sooner without the bundle's reader
    from engines.bundle import Pictures

Cause = Literal[
    "unreachable", "no_media", "no_picture", "undecodable", "ended", "stalled", "broke_off", "died", "missing_part"
]
"""Why a source cannot be read, or no longer: nobody answers; what answers is no stream; it has no picture; none can be
decoded; a live stream came to its end; nothing came for too long; it broke off with an error; the reading process died;
a part of the system that it needs is not installed."""


class SourceFault(SourceError):
    """A source cannot be opened, or read any further; one sentence, and its typed cause."""

    def __init__(self, sentence: str, cause: Cause) -> None:
        super().__init__(sentence, cause)
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """How a bundle wants its pictures.

    Attributes:
        rate: pictures a second.
        width: in pixels.
        height: in pixels.
        resize_filter: by which one they are resized; see streamer.sources.picture.RESIZE_FILTERS.
        aspect: width over height of the screen that a picture shows, whatever the shape of its pixels.
    """

    rate: int
    width: int
    height: int
    resize_filter: str = "area"
    aspect: float = 16 / 9

    @classmethod
    def of(cls, pictures: "Pictures") -> "PictureSpec":
        """Return what a manifest says."""
        return cls(pictures.rate, pictures.width, pictures.height, pictures.resize_filter, pictures.aspect)


class Picture(Protocol):
    """A decoded picture that is converted only if somebody wants it."""

    def rgb(self, spec: PictureSpec) -> UINT8:
        """Return it as uint8 RGB (H, W, 3), upright, progressive and in the shape of the spec's screen."""


@dataclass(frozen=True, slots=True)
class Wall:
    """When a frame was taken, by the wall clock.

    Attributes:
        utc_us: microseconds since 1970, UTC.
        clock: who says so: the sender's RTCP reports, `prft` in the container, the HLS playlist's program date time, or
            nobody but our own clock on the frame's arrival.
    """

    utc_us: int
    clock: Literal["rtcp", "prft", "hls", "arrival"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded picture, or a block of sound; exactly one of `picture` and `samples` is set.

    Attributes:
        pts: presentation timestamp in `time_base` units; None where the stream has none.
        time_base: seconds per tick.
        picture: for a picture.
        samples: for sound, float32 mono (S,) at 16 kHz in [-1, 1].
        arrived_mono_s: monotonic clock when it was decoded.
        corrupt: the decoder concealed damage in it.
        wraps_at: ticks after which `pts` starts again at 0 (2^33 in MPEG-TS); 0 if it never does.
        wall: when it was taken, if the stream says so; pictures only.
        duration: how long a picture is shown, in `time_base` units; 0 if the stream does not say.
    """

    pts: int | None
    time_base: Fraction
    picture: Picture | None = None
    samples: FLOAT32 | None = None
    arrived_mono_s: float = 0.0
    corrupt: bool = False
    wraps_at: int = 0
    wall: Wall | None = None
    duration: int = 0


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a source found on opening.

    Attributes:
        container: FFmpeg's name of it, or "webrtc".
        video: the codec's name.
        audio: the codec's name; None if there is no sound.
        width: in pixels, as coded.
        height: in pixels, as coded.
        rate_fps: as announced; for people, never for decisions.
        duration_s: of a recording, as announced.
        recording: it has an end of its own (a file, a finished playlist), and after it there is nothing to wait for.
        burst_s: so much media may come at once, and then nothing for as long (the segments of HLS).
    """

    container: str
    video: str
    audio: str | None
    width: int
    height: int
    rate_fps: float | None
    duration_s: float | None
    recording: bool
    burst_s: float = 0.0


class Source(Protocol):
    """An opened stream. Frames come once, in decoding order; the end of the iterator is the end of the stream."""

    @property
    def info(self) -> StreamInfo:
        """What was found on opening."""

    @property
    def decode_errors(self) -> int:
        """Packets and frames that could not be used."""

    @property
    def skipped(self) -> int:
        """Packets of pictures left out by `skip`, or since nobody took them."""

    @property
    def waited_s(self) -> float:
        """For how long, in all, the stream's data had to be waited for: who never waits is behind."""

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends.

        Raises:
            SourceFault: the stream broke off and nothing more will come.
        """

    def skip(self) -> None:
        """Leave out pictures, undecoded, up to the next key frame: for who is too late already."""

    def close(self) -> None:
        """Release it; safe to call twice."""


Listening = Callable[[str], None]
"""Told, with an address, when a source has begun to wait for somebody who sends."""
