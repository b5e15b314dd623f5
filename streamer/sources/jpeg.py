"""A decoded picture as JPEG, for people who want to see what is being analysed."""

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from streamer.sources.base import PictureSpec, SourceFault
from streamer.sources.picture import AvPicture

WIDTH = 640
_HEIGHT = 480
"""Pictures that are taller than 4:3, as a phone's, are fitted into this height."""
_QUALITY = "5"  # FFmpeg's scale: 2 is best, 31 worst
_BLOCK = 2  # colour is kept for so many pixels


class JpegEncoder:
    """Turns pictures into JPEGs about WIDTH wide, upright and in the shape in which they are shown; for one thread."""

    def __init__(self) -> None:
        self._context: VideoCodecContext | None = None
        self._colours = VideoReformatter()
        self._count = 0

    def encode(self, picture: AvPicture) -> bytes:
        """Return a picture as JPEG.

        Raises:
            SourceFault: FFmpeg cannot convert it.
        """
        width = min(WIDTH, _HEIGHT * picture.shape)
        size = _even(width), _even(width / picture.shape)
        rgb = picture.rgb(PictureSpec(0, *size, aspect=picture.shape))
        whole = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
        frame = self._colours.reformat(whole, format="yuvj420p", threads=1)
        self._count += 1
        frame.pts = self._count
        try:
            return b"".join(bytes(packet) for packet in self._encoder(*size).encode(frame))
        except av.FFmpegError as error:
            raise SourceFault(f"A picture cannot be shown: {error.strerror}.", "undecodable") from error

    def _encoder(self, width: int, height: int) -> VideoCodecContext:
        """Return what encodes pictures of a size; the last one is kept."""
        context = self._context
        if context is None or (context.width, context.height) != (width, height):
            context = av.CodecContext.create("mjpeg", "w")
            context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
            context.time_base = Fraction(1, 25)
            context.options = {"qmin": _QUALITY, "qmax": _QUALITY}
            context.thread_count = 1
            self._context = context
        return context


def _even(length_px: float) -> int:
    return max(_BLOCK, round(length_px / _BLOCK) * _BLOCK)
