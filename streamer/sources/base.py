"""What every source gives: frames, in the order they were decoded."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from engines.second import FLOAT32, UINT8


class Picture(Protocol):
    """A decoded picture that is converted only if somebody wants it."""

    def rgb(self, width: int, height: int, resize_filter: str) -> UINT8:
        """Return it as uint8 RGB (height, width, 3), resized by the named filter."""


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
    """

    pts: int | None
    time_base: Fraction
    picture: Picture | None = None
    samples: FLOAT32 | None = None
    arrived_mono_s: float = 0.0
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a source found on opening; for people and logs, never for decisions."""

    video: str
    audio: str | None
    width: int
    height: int
    rate_fps: float | None
    duration_s: float | None
    is_file: bool


class Source(Protocol):
    """An opened stream. Frames come once, in decoding order; the end of the iterator is the end of the stream."""

    info: StreamInfo
    decode_errors: int
    skipped: int
    """Packets of pictures left out by `skip`."""

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends.

        Raises:
            SourceError: the stream broke off and nothing more will come.
        """

    def skip(self) -> None:
        """Leave out pictures, undecoded, up to the next key frame: for who is too late already."""

    def close(self) -> None:
        """Release it; safe to call twice."""
