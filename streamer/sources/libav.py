"""Anything FFmpeg can open, through PyAV.

In: a URL, a path or an open stream of bytes. Out: frames in decoding order, sound as 16 kHz mono. Single broken packets
are counted and survived; what cannot be opened, holds no picture, or breaks off is a SourceFault. There are no time
limits: a read of a silent stream waits for ever, and is ended by killing the process it is in.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import IO, TypeAlias, cast

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from streamer.redact import redact, redact_url
from streamer.sources.base import Cause, Frame, SourceFault, StreamInfo, Wall
from streamer.sources.picture import SQUARE, UPRIGHT, AvPicture, Turn, plausible
from streamer.sources.sound import ToMono
from streamer.timeline import to_us

AnyPacket: TypeAlias = "av.Packet[Stream]"
PacketTap = Callable[[AnyPacket], None]
"""Takes every packet of the chosen streams, before it is decoded. A packet's stream is gone once the source is closed:
PyAV crashes when it is looked at later."""
ProgramClock = Callable[[int], int | None]
"""Stream time in microseconds, as the packets have it, to wall clock in microseconds since 1970; None if unknown."""

_OPTIONS = {
    "correct_ts_overflow": "0",  # FFmpeg repairs a wrap once, and takes every jump back by a minute for one
    "merge_pmt_versions": "1",  # or the picture stops when it moves to another PID
    "seg_format_options": "correct_ts_overflow=0:merge_pmt_versions=1",  # the same, of the segments of HLS
}
_RECORDING_OPTIONS = {
    "live_start_index": "0",
    "m3u8_hold_counters": "2",  # a local playlist without an end is read as it stands, or it would never end
}
_WRAPS_AT = {
    ("mpegts", Fraction(1, 90_000)): 2**33,
    ("hls", Fraction(1, 90_000)): 2**33,
    ("mpeg", Fraction(1, 90_000)): 2**33,
    # 32 bits that some writers take for signed; whoever counts modulo 2^31 reads both
    ("flv", Fraction(1, 1000)): 2**31,
}
_ENTRY_MARGIN_S = 1


class LibavSource:
    """An opened FFmpeg input.

    Args:
        url: anything FFmpeg opens.
        options: passed to FFmpeg; they come before those that are set here.
        format: FFmpeg's name of the container, if it is not to be found out.
        threads: decoder threads; more than one costs threads − 1 frames of delay.
        start_s: enter a recording so many seconds after its first picture; earlier frames may come too, and all of them
            do where it cannot be entered.
        tap: see PacketTap.
        program_clock: see ProgramClock; asked where the packets carry no wall clock.
        recording: whether it has an end of its own; found out if None.
        burst_s: see StreamInfo.
        give_up_after: take the pictures for undecodable when so many more packets failed than pictures came.
        file: read from here; `url` is only its name then.

    Attributes:
        info: see StreamInfo.
        video_stream: that the pictures are of, as PyAV has it.
        audio_stream: that the sound is of; None if there is none.
        first_us: stream time of the first picture, once it is decoded; with `start_s`, of the recording's first one.
        decode_errors: packets and frames that could not be used.
        skipped: packets left out by `skip`.
        waited_s: see Source.

    A frame's `pts` is the stream's own. It may lie beyond `wraps_at`: the two are congruent.

    Raises:
        SourceFault: it cannot be opened, or has no picture.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str] | None = None,
        format: str | None = None,
        threads: int = 1,
        start_s: float | None = None,
        tap: PacketTap | None = None,
        program_clock: ProgramClock | None = None,
        recording: bool | None = None,
        burst_s: float = 0.0,
        give_up_after: int | None = None,
        file: IO[bytes] | None = None,
    ) -> None:
        self._name = redact_url(url)
        self._tap, self._give_up_after = tap, give_up_after
        self.decode_errors = self.skipped = 0
        self.first_us: int | None = None
        self.waited_s = 0.0
        self._skipping = False
        self._turns: dict[float, Turn] = {}
        self._resume_pts: int | None = None  # of the key frame that ended a skip, until it is out of the decoder
        self._seen_key, self._failures, self._any_packet = False, 0, False
        self._busy, self._closed = threading.Lock(), False  # FFmpeg must not be inside what is closed
        local = file is None and os.path.isfile(url.removeprefix("file:"))
        ends = _RECORDING_OPTIONS if local and recording is not False else {}
        merged = {**_OPTIONS, **ends, **(options or {})}
        self._container = _open(url, file, format, merged)
        try:
            self._choose_streams(threads)
            if recording is None:
                recording = local or (file is None and _is_finished_download(url, self._container))
            self.info = self._describe(recording, burst_s)
            if start_s is not None and recording and file is None:
                self._enter(url, format, merged, start_s)
        except BaseException:
            self.close()
            raise
        self._wall = WallOfPackets(self.info.container, self._wraps_at, program_clock)
        self._sound = ToMono(0 if self.audio_stream is None else self._wrap_of(self.audio_stream.time_base))

    def _choose_streams(self, threads: int) -> None:
        video = _best_video(self._container)
        if video is None:
            raise SourceFault(f"{self._name}: there is no picture in it, so there is nothing to watch.", "no_picture")
        audio = self._container.streams.best("audio", related=video)
        self.video_stream = video
        self.audio_stream = audio if isinstance(audio, av.AudioStream) and audio.codec_context is not None else None
        self._base = video.time_base or Fraction(1, 90_000)
        self._wraps_at = self._wrap_of(video.time_base)
        declared, coded = video.sample_aspect_ratio, video.codec_context.sample_aspect_ratio
        self._declared_sar = declared if declared != coded else None  # the container knows better, as FFmpeg has it
        video.thread_type, video.codec_context.thread_count = ("SLICE", 1) if threads == 1 else ("FRAME", threads)

    def _wrap_of(self, base: Fraction | None) -> int:
        return _WRAPS_AT.get((self._container.format.name, base or Fraction(0)), 0)

    def _describe(self, recording: bool, burst_s: float) -> StreamInfo:
        video, audio = self.video_stream, self.audio_stream
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
            burst_s=burst_s,
        )

    def _enter(self, url: str, format: str | None, options: Mapping[str, str], start_s: float) -> None:
        """Go to where a recording is entered, if trying it on another opening of it shows that it can be."""
        with _open(url, None, format, options) as trial:
            video = trial.streams[self.video_stream.index]
            first = _first_picture(trial, video)
            self.first_us = to_us(first, self._base) if first is not None else 0
            target = _entry(trial, video, first, Fraction(start_s) / self._base) if first is not None else None
        if target is not None:
            self._container.seek(target, stream=self.video_stream)

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends; see Source."""
        video, any_picture = self.video_stream.index, False
        for packet in self._packets():
            if self._tap is not None and packet.size:
                self._tap(packet)
            if packet.stream_index != video:
                yield from self._blocks(packet)
                continue
            for frame in self._pictures(packet):
                any_picture = True
                yield frame
        if not any_picture and not self._closed:
            raise self._nothing_seen()

    def _packets(self) -> Iterator[AnyPacket]:
        """Yield what is demuxed of the chosen streams, and at the end an empty packet for each."""
        packets = self._container.demux(*(s for s in (self.video_stream, self.audio_stream) if s is not None))
        while True:
            with self._busy:
                if self._closed:
                    self._container.close()
                    return
                began_s = time.monotonic()
                try:
                    packet = next(packets)
                except (StopIteration, IndexError):  # PyAV trips at the end over streams that appeared meanwhile
                    return
                except (av.FFmpegError, OSError) as error:
                    raise SourceFault(f"{self._name}: the stream broke off: {_reason(error)}.", "broke_off") from error
                self.waited_s += time.monotonic() - began_s
            yield packet

    def _decoded(self, packet: AnyPacket) -> Sequence[object]:
        with self._busy:
            return packet.decode() if not self._closed else ()

    def _pictures(self, packet: AnyPacket) -> Iterator[Frame]:
        if packet.size:
            self._any_packet = True
            self._wall.take(packet)
            self._seen_key |= packet.is_keyframe
            if self._skipping:
                if not packet.is_keyframe:
                    self.skipped += 1
                    return
                self._skipping, self._resume_pts = False, packet.pts
        try:
            decoded = self._decoded(packet)
        except av.FFmpegError:
            self._count_failure()
            return
        for frame in decoded:
            if not isinstance(frame, av.VideoFrame) or not plausible(frame):
                self.decode_errors += 1
                continue
            yield self._picture(frame)

    def _picture(self, frame: av.VideoFrame) -> Frame:
        pts, base, corrupt = frame.pts, frame.time_base or self._base, frame.is_corrupt
        if self._resume_pts is not None and (pts is None or pts >= self._resume_pts):
            self._resume_pts = None
        if self._failures and not corrupt:
            self._failures -= 1
        if self.first_us is None:
            self.first_us = to_us(pts or 0, base)
        return Frame(
            pts=pts,
            time_base=base,
            picture=AvPicture(frame, self._sar(), self._turn(frame)),
            arrived_mono_s=time.monotonic(),
            corrupt=corrupt,
            wraps_at=self._wraps_at,
            wall=self._wall.at(pts, base),
            duration=frame.duration,
        )

    def _sar(self) -> Fraction:
        """Return the shape of the pixels; the codec may change it in mid-stream."""
        sar = self._declared_sar or self.video_stream.codec_context.sample_aspect_ratio
        return sar if sar is not None and sar > 0 else SQUARE

    def _turn(self, frame: av.VideoFrame) -> Turn:
        """Return how a picture stands; found out once for each angle, see Turn.of.

        One that is mirrored up and down alone has no angle, and is not noticed.
        """
        angle = frame.rotation
        if not angle:
            return UPRIGHT
        if angle not in self._turns:
            self._turns[angle] = Turn.of(frame)
        return self._turns[angle]

    def _count_failure(self) -> None:
        """Count a packet that gives no picture.

        Before the first key frame that is no sign of anything. After it a few may succeed by chance: MPEG-2 read as
        H.264 gives a grey picture now and then.
        """
        self.decode_errors += 1
        self._failures += self._seen_key
        if self._give_up_after is not None and self._failures >= self._give_up_after:
            raise SourceFault(f"{self._name}: its pictures can no longer be decoded.", "undecodable")

    def _blocks(self, packet: AnyPacket) -> Iterator[Frame]:
        try:
            decoded = self._decoded(packet)
        except av.FFmpegError:
            self.decode_errors += 1
            return
        failed = self._sound.errors
        for frame in decoded:
            if isinstance(frame, av.AudioFrame):
                yield from self._sound.push(frame)
        self.decode_errors += self._sound.errors - failed

    def _nothing_seen(self) -> SourceFault:
        cause: Cause = "undecodable" if self._any_packet else "no_picture"
        what = "none of its pictures can be decoded" if self._any_packet else "it announces a picture, but sends none"
        return SourceFault(f"{self._name}: {what}, so there is nothing to watch.", cause)

    def skip(self) -> None:
        """Leave out pictures, undecoded, up to the next key frame; none more until that one has come out."""
        self._skipping = self._resume_pts is None

    def close(self) -> None:
        """Release it; safe to call twice, and while another thread reads: what it waits for is released afterwards."""
        self._closed = True
        if self._busy.acquire(blocking=False):
            with suppress(av.FFmpegError):
                self._container.close()
            self._busy.release()


class WallOfPackets:
    """The wall clock of pictures, as their packets or the playlist have it."""

    def __init__(self, container: str, wraps_at: int, program_clock: ProgramClock | None) -> None:
        self._container, self._wraps_at, self._program_clock = container, wraps_at, program_clock
        self._known: tuple[int, int] | None = None  # pts, and the wall clock then

    def take(self, packet: AnyPacket) -> None:
        """Remember what a packet says."""
        if packet.has_sidedata("prft") and packet.pts is not None:
            data = bytes(packet.get_sidedata("prft"))
            self._known = packet.pts, int.from_bytes(data[:8], "little", signed=True)

    def at(self, pts: int | None, base: Fraction) -> Wall | None:
        """Return when a picture was taken; None if nobody says."""
        if pts is None:
            return None
        if self._known is not None:
            known_pts, utc_us = self._known
            step, half = pts - known_pts, self._wraps_at // 2
            if half:
                step = (step + half) % self._wraps_at - half
            clock = "rtcp" if self._container in ("rtsp", "rtp", "sdp") else "prft"
            return Wall(utc_us + to_us(step, base), clock)  # type: ignore[arg-type]
        found = self._program_clock(to_us(pts, base)) if self._program_clock is not None else None
        return Wall(found, "hls") if found is not None else None


class _Reader:
    """An open stream of bytes, from which FFmpeg takes what there is; seeking a pipe is not tried."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = getattr(file, "read1", file.read)


def _open(url: str, file: IO[bytes] | None, format: str | None, options: Mapping[str, str]) -> InputContainer:
    name, what = redact_url(url), url if file is None else _Reader(file)
    try:
        # "replace": names of services come in any character set
        opened = av.open(what, format=format, options=dict(options), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise SourceFault(f"{name}: cannot be opened: {_reason(error)}.", _cause(error)) from error
    except (ValueError, UnicodeError) as error:
        reason = redact(str(error))
        raise SourceFault(f"{name}: is no stream that FFmpeg understands: {reason}.", "no_media") from error
    return cast(InputContainer, opened)


def _best_video(container: InputContainer) -> av.VideoStream | None:
    """Return the stream that FFmpeg takes for the best one, or the largest if that one has not shown its size yet."""
    streams = [s for s in container.streams.video if s.codec_context is not None]
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]  # covers of records
    best = container.streams.best("video")
    if isinstance(best, av.VideoStream) and best in streams and best.width:
        return best
    return max(streams, key=lambda s: s.width * s.height, default=None)


def _is_finished_download(url: str, container: InputContainer) -> bool:
    """Return whether a URL is of a file, or of a playlist that has an end; FFmpeg knows how long those are."""
    web = url.lower().startswith(("http://", "https://"))
    return web and container.size > 0 and (container.duration or 0) > 0


def _first_picture(container: InputContainer, video: Stream) -> int | None:
    """Return the pts of the first picture that can be decoded."""
    with suppress(av.FFmpegError, IndexError):
        for packet in container.demux(video):
            with suppress(av.FFmpegError):
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame) and plausible(frame):
                        return frame.pts
    return None


def _entry(container: InputContainer, video: Stream, first: int, ticks: Fraction) -> int | None:
    """Return the pts to seek to for a picture no later than so many ticks after the first; None if there is none.

    Not every container knows its key frames: after a seek it may take the rest of a group until one comes.
    """
    back_s = _ENTRY_MARGIN_S
    while (target := int(first + ticks - back_s / (video.time_base or 1))) > first:
        with suppress(av.FFmpegError):
            container.seek(target, stream=video)
            landed = _first_picture(container, video)
            if landed is not None and first <= landed <= first + ticks:
                return target
        back_s *= 2
    return None


def _cause(error: BaseException) -> Cause:
    return "no_media" if isinstance(error, av.InvalidDataError | EOFError) else "unreachable"


def _reason(error: BaseException) -> str:
    """Say in words what FFmpeg means; its own texts ("Invalid data found") help nobody."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, av.InvalidDataError):
        return "its content is no video that FFmpeg understands"
    if isinstance(error, EOFError):
        return "it ends before anything is in it"
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers there (connection refused)"
    if isinstance(error, av.FFmpegError) and error.strerror:
        return redact(error.strerror)
    return redact(str(error))
