"""The encoded packets of the last while, for clips.

In: every packet that is demuxed, and where the pictures that came of them are on the clock. Out: the packets of a
stretch, from the key frame at or before its start. Promise: memory is bounded by time and by bytes; nothing of the
demuxer is kept alive; a stretch never spans two epochs, nor two openings of a stream.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any

import av
from av import Packet

from streamer.timeline import LONGEST_HOLE_US, REORDER_US, to_us

_WRAPS_AT = {Fraction(1, 90_000): 2**33, Fraction(1, 1000): 2**31}
"""Ticks after which timestamps may start again, by time base: MPEG-TS, FLV. Elsewhere they never get so far apart."""
_PACKET_BYTES = 400  # what a packet costs beside its data
_LONGEST_STEP_US = 1_000_000
_DEFAULT_STEP_US = 40_000
_LATE_GOPS = 64
"""Groups whose pictures may still be in the decoder, or wait behind it."""
_SAME_US = 10


class Track:
    """A stream's codec parameters, copied, so that they outlive its container.

    Attributes:
        source: the stream that packets come from; for telling it from another, never to be read.
        template: what a muxer can be given.
        time_base: of the timestamps.
    """

    def __init__(self, source: av.VideoStream | av.AudioStream) -> None:
        self.source = source
        self._holder = av.open(os.devnull, "w", format="null")  # nothing is ever written
        self.template = self._holder.add_stream_from_template(source, opaque=True)
        self.time_base = source.time_base or Fraction(1, 90_000)


@dataclass(frozen=True, slots=True)
class Coded:
    """An encoded packet; timestamps in ticks of its track, unwrapped."""

    track: Track
    data: bytes
    pts: int
    dts: int
    duration: int
    is_key: bool

    @property
    def pts_us(self) -> int:
        """Presentation time on the stream's own clock, microseconds."""
        return to_us(self.pts, self.track.time_base)

    @property
    def dts_us(self) -> int:
        """Decoding time on the stream's own clock, microseconds."""
        return to_us(self.dts, self.track.time_base)

    @property
    def duration_us(self) -> int:
        """How long it is shown or heard, microseconds; 0 if the stream does not say."""
        return to_us(self.duration, self.track.time_base)


@dataclass(frozen=True, slots=True)
class Cut:
    """The packets of a stretch.

    Attributes:
        epoch: in which it lies.
        start_us: media time of its first picture, a key frame.
        end_us: media time of the end of its last.
        pictures: in decoding order, the key frame first.
        sound: in order; empty if there is none.
    """

    epoch: int
    start_us: int
    end_us: int
    pictures: tuple[Coded, ...]
    sound: tuple[Coded, ...]


@dataclass(slots=True, eq=False)
class _Gop:
    """A key frame, what is decoded after it, and the sound that came meanwhile."""

    track: Track
    clock_us: int
    follows: bool  # its timestamps go on from those of the one before it
    place: "_Place | None" = None
    told: "_Place | None" = None  # by the last picture
    stream_us: dict[int, int] = field(default_factory=dict)  # by pts as its packet has it
    pictures: list[Coded] = field(default_factory=list)
    sound: list[Coded] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    epoch: int
    offset_us: int  # media time minus stream time

    def agrees(self, other: "_Place | None") -> bool:
        return other is not None and other.epoch == self.epoch and abs(other.offset_us - self.offset_us) <= _SAME_US


class Ring:
    """Keeps what was pushed last; any thread may call it.

    A group is where two of its pictures in a row are said to be: the first one after a jump may be repaired by mistake.

    Args:
        keep_s: how far back it reaches at least, media seconds, if so much fits.
        most_bytes: how much it holds at most.
    """

    def __init__(self, keep_s: float, most_bytes: int = 256 * 2**20) -> None:
        self._keep_us, self._most_bytes = round(keep_s * 1e6), most_bytes
        self._lock = threading.Lock()
        self._gops: deque[_Gop] = deque()
        self._open = False  # whether the newest group goes on
        self._tracks: dict[str, Track] = {}
        self._size = 0
        self._clock_us = 0  # counts steps, whatever the timestamps do
        self._last: Coded | None = None
        self._lead = 0  # from decoding a key frame to showing it, in ticks
        self._suspect_us: int | None = None  # of a jump that may be one bad timestamp

    @property
    def bytes_held(self) -> int:
        """Memory that the packets take, roughly."""
        return self._size

    def push(self, packet: "Packet[Any]") -> None:
        """Take a packet that was demuxed; its bytes are copied."""
        stream = packet.stream
        if packet.size and isinstance(stream, av.VideoStream | av.AudioStream) and stream.codec_context is not None:
            with self._lock:
                track = self._track(stream)
                if isinstance(stream, av.VideoStream):
                    self._push_picture(packet, track)
                elif self._open:
                    self._keep(self._coded(packet, track, None), sound=True)
                self._forget()

    def place(self, pts: int | None, epoch: int, media_us: int) -> None:
        """Be told where a decoded picture is on the clock; `pts` as its packet has it."""
        with self._lock:
            for gop in islice(reversed(self._gops), _LATE_GOPS):
                if pts is not None and (stream_us := gop.stream_us.get(pts)) is not None:
                    before, gop.told = gop.told, _Place(epoch, media_us - stream_us)
                    if gop.place is None or gop.told.agrees(before):
                        gop.place = gop.told
                    return

    def cut(self, epoch: int, start_us: int, end_us: int) -> Cut | None:
        """Return what there is of a stretch of media time, from a key frame on; None if nothing."""
        with self._lock:
            gops = [(gop, place.offset_us) for gop, place in self._placed() if place.epoch == epoch]
            inside: list[_Gop] = []
            for gop, offset_us in gops:
                at_us = gop.pictures[0].pts_us + offset_us
                if at_us >= end_us:
                    break
                if at_us <= start_us or (inside and gop.track is not inside[0].track):
                    inside.clear()
                if not inside:
                    first_us = at_us
                inside.append(gop)
            if not inside:
                return None
            pictures = _until(inside, end_us - first_us)
            shown_us = max(picture.pts_us + picture.duration_us for picture in pictures) - pictures[0].pts_us
            if first_us + shown_us <= start_us:
                return None
            sound = _heard(pictures[0], [gop for gop, _ in gops], shown_us)
        return Cut(epoch, first_us, first_us + shown_us, tuple(pictures), tuple(sound))

    def _track(self, stream: av.VideoStream | av.AudioStream) -> Track:
        track = self._tracks.get(stream.type)
        if track is None or track.source is not stream:
            track = self._tracks[stream.type] = Track(stream)
        return track

    def _push_picture(self, packet: "Packet[Any]", track: Track) -> None:
        last = self._last if self._last is not None and self._last.track is track else None
        coded = self._coded(packet, track, last)
        step_us = coded.dts_us - last.dts_us if last is not None else 0
        follows = last is not None and -REORDER_US < step_us <= LONGEST_HOLE_US
        self._clock_us += step_us if follows and step_us > 0 else _DEFAULT_STEP_US
        if packet.is_keyframe:
            self._lead = coded.pts - coded.dts
            self._gops.append(_Gop(track, self._clock_us, follows))
            self._open = True
        elif not follows and last is not None:
            coded = self._doubted(coded, last)
        if follows or packet.is_keyframe:
            self._suspect_us = None
        self._last = coded
        if self._open:
            self._keep(coded, sound=False)
            if packet.pts is not None:
                self._gops[-1].stream_us[packet.pts] = coded.pts_us

    def _doubted(self, coded: Coded, last: Coded) -> Coded:
        """Repair a jump within a group; end the group if the next packet goes on from there."""
        suspect_us, self._suspect_us = self._suspect_us, coded.dts_us
        if suspect_us is not None and 0 < coded.dts_us - suspect_us <= _LONGEST_STEP_US:
            self._open, self._suspect_us = False, None
            return coded
        dts = last.dts + (last.duration or 1)
        return Coded(coded.track, coded.data, dts + self._lead, dts, coded.duration, coded.is_key)

    def _coded(self, packet: "Packet[Any]", track: Track, last: Coded | None) -> Coded:
        """Return a copy of a packet with its timestamps unwrapped, and made up where it has none."""
        near = last or self._last
        pts, dts = _near(packet.pts, near, track), _near(packet.dts, near, track)
        if dts is None:
            dts = last.dts + (last.duration or 1) if last is not None else pts or 0
        if pts is None or abs(to_us(pts - dts, track.time_base)) > LONGEST_HOLE_US:
            pts = dts + self._lead
        return Coded(track, bytes(packet), pts, dts, packet.duration or 0, packet.is_keyframe)

    def _keep(self, coded: Coded, *, sound: bool) -> None:
        gop = self._gops[-1]
        (gop.sound if sound else gop.pictures).append(coded)
        gop.size += len(coded.data) + _PACKET_BYTES
        self._size += len(coded.data) + _PACKET_BYTES

    def _forget(self) -> None:
        """Drop the oldest groups; even the newest, if it never ends."""
        while len(self._gops) > 1 and (
            self._gops[1].clock_us < self._clock_us - self._keep_us or self._size > self._most_bytes
        ):
            gone = self._gops.popleft()
            self._size -= gone.size
            if self._gops[0].place is None and self._gops[0].follows:
                self._gops[0].place = gone.place
        if self._size > self._most_bytes:
            self._gops.clear()
            self._size, self._open = 0, False

    def _placed(self) -> Iterator[tuple[_Gop, _Place]]:
        """Yield the groups that are on the clock; one whose key frame was not decoded goes on from the one before."""
        place: _Place | None = None
        for gop in self._gops:
            place = gop.place or (place if gop.follows else None)
            if place is not None:
                yield gop, place


def _near(ticks: int | None, near: Coded | None, track: Track) -> int | None:
    """Return a timestamp that may have wrapped as the one nearest to another of the same time base."""
    if ticks is None or near is None or track.time_base != near.track.time_base:
        return ticks
    wraps_at = _WRAPS_AT.get(track.time_base)
    return ticks if wraps_at is None else near.dts + (ticks - near.dts + wraps_at // 2) % wraps_at - wraps_at // 2


def _until(gops: list[_Gop], length_us: int) -> list[Coded]:
    """Return the pictures up to an end, and those that are shown between them.

    What is shown before the first key frame belongs to the group before it, and cannot be decoded without that.
    """
    key = gops[0].pictures[0]
    taken = [key]
    shown_us = key.pts_us
    for picture in (picture for gop in gops for picture in gop.pictures if picture.pts > key.pts):
        if picture.dts_us - key.pts_us >= length_us and picture.pts_us > shown_us:
            break
        taken.append(picture)
        shown_us = max(shown_us, picture.pts_us)
    return taken


def _heard(key: Coded, gops: list[_Gop], length_us: int) -> list[Coded]:
    """Return the sound of a stretch, wherever in the epoch it was interleaved."""
    inside = [coded for gop in gops for coded in gop.sound if 0 <= coded.pts_us - key.pts_us < length_us]
    of_one = [coded for coded in inside if coded.track is inside[0].track]
    return sorted(of_one, key=lambda coded: coded.pts)  # a damaged timestamp misplaces its own packet alone
