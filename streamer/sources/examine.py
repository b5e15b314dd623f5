"""What FFmpeg knows of an opened stream, and what its packets show.

In: an opened source, and every packet of its streams. Out: plain values. For people who want to know what they have;
the live path decides on none of it.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamer.sources.base import Frame, Source
from streamer.sources.libav import LibavSource
from streamer.sources.picture import AvPicture
from streamer.timeline import LONGEST_HOLE_US, to_us

if TYPE_CHECKING:
    from av import Packet
    from av.stream import Stream

_FIELD_ORDERS = {1: "progressive", 2: "tff", 3: "bff", 4: "tff", 5: "bff"}
_LONGEST_GOP_US = 600_000_000


@dataclass(frozen=True, slots=True)
class StreamSeen:
    """One stream of a container, as announced.

    Attributes:
        index: its place in the container.
        pid: its packet identifier, in MPEG-TS.
        type: video, audio, subtitle, data or unknown.
        codec: FFmpeg's name; None if it knows none.
        used: whether its frames are taken.
        fps: pictures a second, as announced.
        field_order: progressive, tff or bff; None if nobody says.
        sar: width over height of its pixels.
    """

    index: int
    type: str
    codec: str | None
    used: bool
    pid: int | None = None
    profile: str | None = None
    language: str | None = None
    width: int | None = None
    height: int | None = None
    pixel_format: str | None = None
    fps: float | None = None
    field_order: str | None = None
    sar: float | None = None
    rate_hz: int | None = None
    layout: str | None = None


def streams_of(source: Source) -> tuple[StreamSeen, ...]:
    """Return every stream of a source's container; of WebRTC, what it uses."""
    if isinstance(source, LibavSource):
        used = (source.video_stream, source.audio_stream)
        in_ts = source.info.container in ("mpegts", "hls")
        return tuple(_seen(s, any(s is one for one in used), in_ts) for s in source.video_stream.container.streams)
    info = source.info
    video = StreamSeen(0, "video", info.video, True, width=info.width, height=info.height, fps=info.rate_fps)
    return (video,) if info.audio is None else (video, StreamSeen(1, "audio", info.audio, True))


def _seen(stream: "Stream", used: bool, in_ts: bool) -> StreamSeen:
    context = stream.codec_context
    values: dict[str, Any] = {"pid": stream.id if in_ts else None}
    if stream.language not in (None, "und"):
        values["language"] = stream.language
    if context is not None:
        values["profile"] = context.profile
    if context is not None and stream.type == "video":
        rate, sar = stream.average_rate, getattr(stream, "sample_aspect_ratio", None)
        values |= {
            "width": context.width,  # type: ignore[attr-defined]
            "height": context.height,  # type: ignore[attr-defined]
            "pixel_format": context.pix_fmt,  # type: ignore[attr-defined]
            "fps": float(rate) if rate and 0 < rate <= 240 else None,
            "field_order": _FIELD_ORDERS.get(context.field_order),  # type: ignore[attr-defined]
            "sar": float(sar) if sar else None,
        }
    if context is not None and stream.type == "audio":
        values |= {"rate_hz": context.sample_rate, "layout": context.layout.name}  # type: ignore[attr-defined]
    return StreamSeen(stream.index, stream.type, context.name if context is not None else None, used, **values)


@dataclass(frozen=True, slots=True)
class PacketsSeen:
    """What the packets have shown so far.

    Attributes:
        pictures: packets of pictures.
        corrupt: those of them that the container says are damaged.
        without_pts: those without a timestamp.
        before_key: those before the first key frame, which cannot be decoded.
        key_frames: how many there were.
        gop_s: longest time from a key frame to the next one; None before there were two.
        since_key_s: from the last key frame to the last picture.
        picture_kbits: of pictures, each second of media; None if unknown.
        sound_kbits: of sound.
        sound_late_s: how long after the pictures of its time sound comes in the stream, at most; None without sound.
        sound_begins_s: when the first sound is, after the first picture; None without sound.
        longest_wait_s: longest time without a packet, by our clock.
    """

    pictures: int = 0
    corrupt: int = 0
    without_pts: int = 0
    before_key: int = 0
    key_frames: int = 0
    gop_s: float | None = None
    since_key_s: float = 0.0
    picture_kbits: float | None = None
    sound_kbits: float | None = None
    sound_late_s: float | None = None
    sound_begins_s: float | None = None
    longest_wait_s: float = 0.0


class PacketMeter:
    """Measures packets; `take` is a source's tap."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._last_us: dict[str, int] = {}  # timestamp of the newest packet, by type
        self._span_us: Counter[str] = Counter()
        self._first_us: dict[str, int] = {}
        self._key_us: int | None = None
        self._gop_us: int | None = None
        self._shown_us = 0
        self._late_us: int | None = None
        self._arrived_mono_s = 0.0
        self._wait_s = 0.0

    def take(self, packet: "Packet[Any]") -> None:
        """Look at a packet."""
        now = time.monotonic()
        if self._arrived_mono_s:
            self._wait_s = max(self._wait_s, now - self._arrived_mono_s)
        self._arrived_mono_s = now
        kind = packet.stream.type
        self._count[kind] += 1
        self._bytes[kind] += packet.size
        if kind == "video":
            self._take_picture(packet)
        elif packet.pts is not None and packet.time_base is not None:
            self._take_sound(to_us(packet.pts, packet.time_base))

    def _take_picture(self, packet: "Packet[Any]") -> None:
        self._count["corrupt"] += packet.is_corrupt
        self._count["without_pts"] += packet.pts is None
        self._count["keys"] += packet.is_keyframe
        self._count["before_key"] += not self._count["keys"]
        if packet.time_base is None:
            return
        if packet.pts is not None:
            shown_us = to_us(packet.pts, packet.time_base)
            self._first_us.setdefault("video", shown_us)
            if packet.is_keyframe:
                gop_us = shown_us - self._key_us if self._key_us is not None else 0
                if 0 < gop_us < _LONGEST_GOP_US:
                    self._gop_us = max(self._gop_us or 0, gop_us)
                self._key_us = shown_us
            self._shown_us = shown_us
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is not None:
            self._go_on("video", to_us(ticks, packet.time_base))

    def _take_sound(self, at_us: int) -> None:
        self._first_us.setdefault("audio", at_us)
        self._go_on("audio", at_us)
        if "video" in self._last_us:
            late_us = self._last_us["video"] - at_us
            if abs(late_us) < LONGEST_HOLE_US:
                self._late_us = late_us if self._late_us is None else max(self._late_us, late_us)

    def _go_on(self, kind: str, at_us: int) -> None:
        step_us = at_us - self._last_us.get(kind, at_us)
        self._span_us[kind] += step_us if 0 < step_us < LONGEST_HOLE_US else 0
        self._last_us[kind] = at_us

    def seen(self) -> PacketsSeen:
        """Return what there was so far."""
        count, begin = self._count, self._first_us
        since_us = self._shown_us - self._key_us if self._key_us is not None else 0
        return PacketsSeen(
            pictures=count["video"],
            corrupt=count["corrupt"],
            without_pts=count["without_pts"],
            before_key=count["before_key"],
            key_frames=count["keys"],
            gop_s=self._gop_us / 1e6 if self._gop_us is not None else None,
            since_key_s=since_us / 1e6 if 0 < since_us < _LONGEST_GOP_US else 0.0,
            picture_kbits=self._kbits("video"),
            sound_kbits=self._kbits("audio"),
            sound_late_s=self._late_us / 1e6 if self._late_us is not None else None,
            sound_begins_s=(begin["audio"] - begin["video"]) / 1e6 if len(begin) == 2 else None,
            longest_wait_s=self._wait_s,
        )

    def _kbits(self, kind: str) -> float | None:
        packets, span_us = self._count[kind], self._span_us[kind]
        if packets < 2 or span_us < 100_000:
            return None
        return self._bytes[kind] * 8000 * (packets - 1) / packets / span_us


def turned(frame: Frame) -> int:
    """Return by how many degrees a picture lies on its side, anticlockwise; it is used upright."""
    return frame.picture.rotation if isinstance(frame.picture, AvPicture) else 0
