"""A decoded picture, as the engines want it.

In: a PyAV frame. Out: RGB, upright, progressive, in the shape of a screen. Only pictures that somebody asks for are
converted, and each is resized once.
"""

import math
import threading
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

from engines.second import UINT8
from streamer.sources.base import PictureSpec, SourceFault

RESIZE_FILTERS = {"area": Interpolation.AREA, "bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}
SQUARE = Fraction(1)
_MAX_SIZE_PX = 16_384
_SAME_SHAPE = 0.01
"""A picture whose shape differs from the screen's by less is stretched; 1366x768 is meant to be 16:9."""
_of_thread = threading.local()


def plausible(frame: av.VideoFrame) -> bool:
    """Return whether a frame's size can be meant; after damage decoders give out any."""
    return 0 < frame.width <= _MAX_SIZE_PX and 0 < frame.height <= _MAX_SIZE_PX


class Turn:
    """How a display matrix turns and mirrors a picture: swapped sides first, then flips."""

    def __init__(self, sideways: bool = False, mirrored: bool = False, upside_down: bool = False) -> None:
        self.sideways, self._mirrored, self._upside_down = sideways, mirrored, upside_down

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Turn":
        """Return what a frame's display matrix says: x' = a·x + c·y, y' = b·x + d·y.

        Not for every frame: PyAV ties a frame whose side data was looked at to itself, and it outlives its use by much.
        """
        matrix = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
        if matrix is None:
            return cls()
        a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), np.int32)[:5])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, picture: UINT8) -> UINT8:
        """Return the picture upright."""
        if self.sideways:
            picture = picture.transpose(1, 0, 2)
        if self._mirrored:
            picture = picture[:, ::-1]
        return picture[::-1] if self._upside_down else picture


UPRIGHT = Turn()


class AvPicture:
    """A decoded PyAV frame, converted on demand.

    Args:
        frame: as it was decoded.
        sar: width over height of its pixels.
        turn: how it stands.
    """

    def __init__(self, frame: av.VideoFrame, sar: Fraction = SQUARE, turn: Turn = UPRIGHT) -> None:
        self._frame, self._sar, self._turn = frame, sar, turn

    @property
    def rotation(self) -> int:
        """By how many degrees it lies on its side, anticlockwise."""
        return int(self._frame.rotation)

    @property
    def shape(self) -> float:
        """Width over height, as it is shown."""
        shape = float(self._frame.width * self._sar / self._frame.height)
        return 1 / shape if self._turn.sideways else shape

    def rgb(self, spec: PictureSpec) -> UINT8:
        """Return it as uint8 RGB (H, W, 3), with black bars where its shape is not the screen's.

        Of an interlaced frame only the upper field is used, half the lines: what engines want is smaller still.

        Raises:
            SourceFault: FFmpeg cannot convert it.
        """
        try:
            return self._on_screen(spec)
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceFault(f"A picture cannot be converted to RGB: {reason}.", "undecodable") from error

    def _on_screen(self, spec: PictureSpec) -> UINT8:
        frame, turn = self._frame, self._turn
        width, height = _fit(self.shape, spec)
        if frame.interlaced_frame and frame.height > 1:
            frame = _upper_field(frame)
        size = (height, width) if turn.sideways else (width, height)
        small = _scaler().reformat(
            frame, *size, format="rgb24", interpolation=RESIZE_FILTERS[spec.resize_filter], threads=1
        )
        picture = turn.apply(cast(UINT8, small.to_ndarray()))
        if (width, height) == (spec.width, spec.height):
            return picture
        screen = np.zeros((spec.height, spec.width, 3), np.uint8)
        left, top = (spec.width - width) // 2, (spec.height - height) // 2
        screen[top : top + height, left : left + width] = picture
        return screen


def _scaler() -> VideoReformatter:
    """Return this thread's; one that is kept costs half of one that is made for every picture."""
    if not hasattr(_of_thread, "scaler"):
        _of_thread.scaler = VideoReformatter()
    return cast(VideoReformatter, _of_thread.scaler)


def _fit(shape: float, spec: PictureSpec) -> tuple[int, int]:
    """Return the size of a picture of a shape within the screen."""
    narrower = shape / spec.aspect
    if math.isclose(narrower, 1.0, rel_tol=_SAME_SHAPE):
        return spec.width, spec.height
    if narrower < 1:
        return max(1, round(spec.width * narrower)), spec.height
    return spec.width, max(1, round(spec.height / narrower))


def _upper_field(frame: av.VideoFrame) -> av.VideoFrame:
    """Return every second line of a frame, from the first."""
    field = av.VideoFrame(frame.width, (frame.height + 1) // 2, frame.format.name)
    for whole, half in zip(frame.planes, field.planes, strict=True):
        lines = _lines(whole)[::2]
        into = _lines(half)
        width = min(lines.shape[1], into.shape[1])
        into[:, :width] = lines[:, :width]
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    return field


def _lines(plane: VideoPlane) -> UINT8:
    """Return a view of a plane's bytes, a row for each line, padding included."""
    return np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size].reshape(plane.height, -1)
