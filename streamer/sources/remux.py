"""Encoded packets into a file of their own, as they are.

In: the packets of a stretch. Out: an MP4 that plays in browsers if their codecs allow it, else a Matroska file, whose
times begin at 0; its comment says, as JSON, where that is on the stream's clock. Promise: the file is whole or not
there; what keeps it from being written is one sentence.
"""

import errno
import heapq
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext

from engines.errors import TouchlineError
from streamer.sources.ring import Coded, Cut, Track

_MP4_PICTURES = {"h264", "hevc", "av1", "libdav1d", "vp9", "mpeg4"}
_MP4_SOUND = {"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "flac", "alac"}
_MATROSKA_SOUND = _MP4_SOUND | {"mp2", "mp2float", "vorbis", "dca", "truehd", "pcm_s16le", "pcm_s24le", "pcm_f32le"}

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EBADF}


class ClipFault(TouchlineError):
    """A clip cannot be written; one sentence."""


@dataclass(frozen=True, slots=True)
class Written:
    """A clip that is in its place.

    Attributes:
        path: where.
        epoch: in which it lies.
        start_us: media time of its beginning, at or before what was asked for: a clip begins with a key frame.
        end_us: media time of its end.
    """

    path: Path
    epoch: int
    start_us: int
    end_us: int


def write_clip(cut: Cut, stem: Path) -> Written:
    """Write a stretch to `stem` plus the right suffix, and return what was written.

    Raises:
        ClipFault: the folder cannot be written, the disk is full, or no container takes these codecs.
    """
    video = cut.pictures[0].track
    sound = cut.sound[0].track if cut.sound else None
    as_mp4 = _codec(video) in _MP4_PICTURES and (sound is None or _codec(sound) in _MP4_SOUND)
    path = stem.with_name(stem.name + (".mp4" if as_mp4 else ".mkv"))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(cut, part, "mp4" if as_mp4 else "matroska")
        part.replace(path)
    except (OSError, av.FFmpegError, ValueError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipFault(f"{path}: the clip cannot be written: {reason}.") from error
    return Written(path, cut.epoch, cut.start_us, cut.end_us)


def _codec(track: Track) -> str:
    return track.template.codec_context.name


def _write(cut: Cut, part: Path, container: str) -> None:
    options = {"movflags": "+faststart"} if container == "mp4" else {}
    options["avoid_negative_ts"] = "disabled"  # pictures begin at 0, though the first is decoded before that
    with av.open(str(part), "w", format=container, container_options=options) as output:
        output.metadata["comment"] = json.dumps(
            {"epoch": cut.epoch, "start_us": cut.start_us, "end_us": cut.end_us}, separators=(",", ":")
        )
        streams: dict[Track, av.VideoStream | av.AudioStream] = {}
        streams[cut.pictures[0].track] = _add_pictures(output, cut.pictures[0])
        if cut.sound and (container == "mp4" or _codec(cut.sound[0].track) in _MATROSKA_SOUND):
            track = cut.sound[0].track
            streams[track] = output.add_stream_from_template(track.template, opaque=True)
        output.start_encoding()
        for packet in _packets(cut, streams):
            try:
                output.mux_one(packet)
            except av.FFmpegError as error:
                if error.errno in _DISK_ERRORS:
                    raise  # anything else is a damaged packet of sound; the others are good
    if part.stat().st_size == 0:
        raise OSError("nothing was written")


def _add_pictures(output: OutputContainer, key: Coded) -> av.VideoStream:
    """Add the pictures' stream; what it was on opening need not be what it is now, so the key frame is asked."""
    template = key.track.template
    assert isinstance(template, av.VideoStream)
    stream = output.add_stream_from_template(template, opaque=True)
    context = stream.codec_context
    own = _parameter_sets(key)
    if own is not None and own != context.extradata:
        with suppress(av.FFmpegError, ValueError):
            decoder = cast(VideoCodecContext, VideoCodecContext.create(template.codec_context.name, "r"))
            decoder.extradata = own
            picture = (decoder.decode(_packet(key)) + decoder.decode(None))[0]
            context.width, context.height = picture.width, picture.height
            context.extradata = own
    if context.name == "hevc" and output.format.name == "mp4":
        context.codec_tag = "hvc1"  # Apple's players take no other
    return stream


def _parameter_sets(key: Coded) -> bytes | None:
    """Return the parameter sets that lie in a key frame; None if it has none, as in an MP4."""
    with suppress(av.FFmpegError, ValueError):
        filtered = av.BitStreamFilterContext("extract_extradata", key.track.template).filter(_packet(key))
        for packet in filtered:
            if packet.has_sidedata("new_extradata"):
                return bytes(packet.get_sidedata("new_extradata"))
    return None


def _packets(cut: Cut, streams: dict[Track, "av.VideoStream | av.AudioStream"]) -> "Iterator[av.Packet[Any]]":
    """Yield both kinds in the order of their decoding, on a clock that begins with the first picture."""
    start = {track: _ticks(cut.pictures[0], track.time_base) for track in streams}
    last: dict[Track, int] = {}
    for coded in heapq.merge(cut.pictures, cut.sound, key=lambda coded: coded.dts_us):
        track = coded.track
        if track not in streams:
            continue
        packet = _packet(coded)
        packet.stream, packet.time_base = streams[track], track.time_base
        dts = coded.dts - start[track]
        if track in last:
            dts = max(dts, last[track] + 1)  # muxers refuse a packet that goes back
        last[track] = dts
        packet.dts, packet.pts = dts, max(dts, coded.pts - start[track])
        packet.duration = coded.duration
        packet.is_keyframe = coded.is_key
        yield packet


def _packet(coded: Coded) -> "av.Packet[Any]":
    """Return a packet of its own memory, with the padding that FFmpeg reads into."""
    packet: av.Packet[Any] = av.Packet(len(coded.data))
    packet.update(coded.data)
    return packet


def _ticks(key: Coded, time_base: Fraction) -> int:
    """Return when the first picture is shown, in another time base."""
    return round(key.pts * key.track.time_base / time_base)
