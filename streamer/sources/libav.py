"""Anything FFmpeg can open, through PyAV.

In: a URL or path. Out: frames in decoding order, sound as 16 kHz mono. Single broken packets are counted and
survived; a stream that cannot be opened, holds no picture, or breaks off is a SourceError.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import cast

import av
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.reformatter import Interpolation

from engines.errors import SourceError
from engines.second import FLOAT32, SAMPLE_RATE_HZ, UINT8
from streamer.redact import redact, redact_url
from streamer.sources.base import Frame, PictureSpec, StreamInfo

RESIZE_FILTERS = {"area": Interpolation.AREA, "bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}
_MAX_SIZE_PX = 16_384
_MAX_CHANNELS = 16


class LibavPicture:
    """A decoded PyAV frame, converted on demand."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame

    def rgb(self, spec: PictureSpec) -> UINT8:
        """Return uint8 RGB (H, W, 3); see RESIZE_FILTERS for the names."""
        interpolation = RESIZE_FILTERS[spec.resize_filter]
        try:
            small = self._frame.reformat(spec.width, spec.height, format="rgb24", interpolation=interpolation)
        except av.FFmpegError as error:
            raise SourceError(f"A picture cannot be converted to RGB: {_reason(error)}.") from error
        return cast(UINT8, small.to_ndarray())


class LibavSource:
    """An opened FFmpeg input.

    Args:
        url: anything FFmpeg opens.
        options: passed to FFmpeg as they are.
        open_timeout_s: how long opening may take (FFmpeg may use it twice).
        read_timeout_s: how long the stream may be silent before it counts as broken off.
        threads: decoder threads; more than one costs threads − 1 frames of delay.

    Raises:
        SourceError: it cannot be opened, or has no picture.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str] | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 10.0,
        threads: int = 1,
    ) -> None:
        self._name = redact_url(url)
        self._resampler: AudioResampler | None = None
        self._resampler_key: tuple[object, ...] = ()
        self.decode_errors = 0
        self.skipped = 0
        self._skipping = False
        self._resume_pts: int | None = None  # of the key frame that ended a skip, until it is out of the decoder
        self._container = _open(url, options, (open_timeout_s, read_timeout_s))
        try:
            self._choose_streams(threads)
            self.info = self._describe(recording=os.path.isfile(url.removeprefix("file:")))
        except BaseException:
            self.close()
            raise

    def _choose_streams(self, threads: int) -> None:
        video = self._container.streams.best("video")
        if not isinstance(video, av.VideoStream) or not video.width:
            raise SourceError(f"{self._name}: there is no picture in this stream, so there is nothing to watch.")
        self._video = video
        self._audio = self._container.streams.best("audio", related=video)
        video.thread_type, video.codec_context.thread_count = ("SLICE", 1) if threads == 1 else ("FRAME", threads)

    def _describe(self, *, recording: bool) -> StreamInfo:
        video, audio = self._video, self._audio
        rate = float(video.average_rate) if video.average_rate else None
        known = self._container.duration
        return StreamInfo(
            container=self._container.format.name,
            video=video.codec_context.name,
            audio=audio.codec_context.name if audio is not None else None,
            width=video.width,
            height=video.height,
            rate_fps=rate if rate and 0 < rate <= 240 else None,
            duration_s=known / av.time_base if known and known > 0 else None,
            recording=recording,
        )

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends; see Source."""
        wanted = [stream for stream in (self._video, self._audio) if stream is not None]
        packets = self._container.demux(*wanted)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, IndexError) as error:
                raise SourceError(f"{self._name}: the stream broke off: {_reason(error)}.") from error
            if self._skipping and packet.stream is self._video and packet.size:
                if not packet.is_keyframe:
                    self.skipped += 1
                    continue
                self._skipping, self._resume_pts = False, packet.pts
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                self.decode_errors += 1
                continue
            for frame in decoded:
                if isinstance(frame, av.VideoFrame):
                    yield from self._picture(frame)
                elif isinstance(frame, av.AudioFrame):
                    yield from self._sound(frame)

    def _picture(self, frame: av.VideoFrame) -> Iterator[Frame]:
        if not (0 < frame.width <= _MAX_SIZE_PX and 0 < frame.height <= _MAX_SIZE_PX):
            self.decode_errors += 1
            return
        if self._resume_pts is not None and (frame.pts is None or frame.pts >= self._resume_pts):
            self._resume_pts = None
        base = frame.time_base or self._video.time_base or Fraction(1, 90_000)
        yield Frame(
            pts=frame.pts,
            time_base=base,
            picture=LibavPicture(frame),
            arrived_mono_s=time.monotonic(),
            corrupt=frame.is_corrupt,
        )

    def _sound(self, frame: av.AudioFrame) -> Iterator[Frame]:
        if not 0 < frame.layout.nb_channels <= _MAX_CHANNELS or frame.sample_rate <= 0:
            self.decode_errors += 1
            return
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or key != self._resampler_key:
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
            self._resampler_key = key
        try:
            blocks = self._resampler.resample(frame)
        except (av.FFmpegError, ValueError):
            self.decode_errors += 1
            self._resampler = None
            return
        for block in blocks:
            samples = cast(FLOAT32, block.to_ndarray().reshape(-1))
            yield Frame(
                pts=block.pts,
                time_base=block.time_base or Fraction(1, SAMPLE_RATE_HZ),
                samples=samples,
                arrived_mono_s=time.monotonic(),
            )

    def skip(self) -> None:
        """Leave out pictures, undecoded, up to the next key frame; none more until that one has come out."""
        self._skipping = self._resume_pts is None

    def close(self) -> None:
        """Release it; safe to call twice."""
        with suppress(av.FFmpegError):
            self._container.close()


def _open(url: str, options: Mapping[str, str] | None, timeouts: tuple[float, float]) -> InputContainer:
    name = redact_url(url)
    try:
        return av.open(url, options=dict(options or {}), timeout=timeouts, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{name}: cannot be opened: {_reason(error)}.") from error
    except (ValueError, UnicodeError) as error:
        raise SourceError(f"{name}: is no stream that FFmpeg understands: {redact(str(error))}.") from error


def _reason(error: BaseException) -> str:
    """Say in words what FFmpeg means; its own texts ("Immediate exit requested") help nobody."""
    if isinstance(error, av.ExitError | TimeoutError):
        return "nothing came within the time limit"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, av.InvalidDataError):
        return "its content is no video that FFmpeg understands"
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers there (connection refused)"
    if isinstance(error, av.FFmpegError) and error.strerror:
        return redact(error.strerror)
    return redact(str(error))
