"""Frames in, Seconds out.

Promise: every second from the first picture to the last comes out exactly once and in order, whatever is missing in
it; what was missing is said by `video_filled`, `audio_filled` and `flags`. Only the pictures that are kept are
converted. Deterministic in its input.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from engines import second as flags
from engines.second import SAMPLE_RATE_HZ, UINT8, MediaTime, Second
from streamer.sound_ring import SoundRing
from streamer.sources.base import Frame, Picture, PictureSpec, SourceFault, Wall
from streamer.timeline import LONGEST_HOLE_US, REORDER_US, Anchor, Timeline

_UNPLACED_BLOCKS = 256
"""Blocks of sound kept until a picture says where they belong: about five seconds."""
_US = 1_000_000


class Sampler:
    """Cuts a stream's frames into Seconds.

    Args:
        spec: how pictures are wanted.
        anchor: where the timeline goes on from; the first second is the one that the first picture falls in.
        from_s: seconds before this one are cut in the same way, but neither converted nor given out.
    """

    def __init__(self, spec: PictureSpec, anchor: Anchor | None = None, from_s: int = 0) -> None:
        self.timeline = Timeline(anchor)
        self._spec = spec
        self._from_s = from_s
        self._epoch = self._index = 0
        self._slots: dict[int, UINT8 | Picture] = {}  # slot number since media time 0 → picture
        self._last_picture: UINT8 | Picture | None = None
        self._picture_us: int | None = None
        self._doubted: Frame | None = None  # a picture whose timestamp the next one must bear out
        self._corrupt: set[int] = set()
        self._walls: dict[int, tuple[int, str]] = {}
        self._stream_us: dict[int, int] = {}  # second → the stream's own clock at its start
        self._sound = SoundRing()
        self._unplaced: deque[Frame] = deque(maxlen=_UNPLACED_BLOCKS)  # sound that came before its pictures
        self._bases = 0
        self._arrived_mono_s = 0.0

    def push(self, frame: Frame) -> list[Second]:
        """Take a frame; return the seconds it completes."""
        self._arrived_mono_s = frame.arrived_mono_s
        if frame.samples is not None:
            self._take_sound(frame)
            return self._complete()
        doubted, self._doubted = self._doubted, None
        done = [] if doubted is None else self._place(doubted, self._is_borne_out(doubted, frame))
        if self.timeline.doubts(frame.pts, frame.time_base, frame.wraps_at):
            self._doubted = frame
            return done
        return done + self._place(frame)

    def flush(self) -> list[Second]:
        """Return what is left at the end of the stream, the last second being a part of one."""
        doubted, self._doubted = self._doubted, None
        done = [] if doubted is None else self._place(doubted)
        return done + self._end_epoch()

    def _is_borne_out(self, doubted: Frame, frame: Frame) -> bool:
        """Return whether a picture goes on from the one before it, whose timestamp is in doubt."""
        doubted_us = self.timeline.media_us(doubted.pts, doubted.time_base, doubted.wraps_at)
        us = self.timeline.media_us(frame.pts, frame.time_base, frame.wraps_at)
        return us is None or doubted_us is None or -REORDER_US < us - doubted_us <= LONGEST_HOLE_US

    def _place(self, frame: Frame, believed: bool = True) -> list[Second]:
        if believed:
            at = self.timeline.place_picture(frame.pts, frame.time_base, frame.wraps_at, frame.duration)
        else:
            at = self.timeline.repair_picture(frame.time_base, frame.duration)
        done = []
        if self._picture_us is None or at.epoch != self._epoch:
            done = self._end_epoch()
            self._begin_epoch(at)
        self._take_picture(at, frame)
        self._place_unplaced()
        return done + self._complete()

    def _begin_epoch(self, at: MediaTime) -> None:
        self._epoch, self._index = at.epoch, at.us // _US
        self._slots.clear()
        self._corrupt.clear()
        self._walls.clear()
        self._stream_us.clear()
        self._sound.new_epoch()
        self._last_picture = None

    def _end_epoch(self) -> list[Second]:
        if self._picture_us is None:
            return []
        return self._emit(self._picture_us // _US + 1, waited=False)

    def _take_picture(self, at: MediaTime, frame: Frame) -> None:
        assert frame.picture is not None
        self._picture_us = at.us
        index = at.us // _US
        slot = at.us * self._spec.rate // _US
        if slot not in self._slots:
            shown = self._converted(frame.picture) if index >= self._from_s else frame.picture
            if shown is not None:
                self._slots[slot] = shown
        if frame.corrupt:
            self._corrupt.add(index)
        if frame.wall is not None:
            self._walls.setdefault(index, _wall_at_start(frame.wall, at.us - index * _US))
        if self.timeline.stream_us is not None:
            self._stream_us.setdefault(index, self.timeline.stream_us - (at.us - index * _US))

    def _take_sound(self, frame: Frame) -> None:
        """Keep a block of sound, either where it belongs or until it is known where that is."""
        assert frame.samples is not None
        at = self._place_sound(frame)
        self._place_unplaced()
        if at is None or not self._sound.add(at.us, frame.samples, self._index):
            self._unplaced.append(frame)
        if at is not None and self._picture_us is not None:
            self._sound.note_lag(self._picture_us)

    def _place_sound(self, frame: Frame) -> MediaTime | None:
        assert frame.samples is not None
        duration_us = len(frame.samples) * _US // SAMPLE_RATE_HZ
        return self.timeline.place_sound(frame.pts, frame.time_base, duration_us, frame.wraps_at)

    def _place_unplaced(self) -> None:
        """Try sound again that had no place, if timestamps belong elsewhere now."""
        if self._bases == self.timeline.bases:
            return
        self._bases = self.timeline.bases
        waiting = list(self._unplaced)
        self._unplaced.clear()
        for frame in waiting:
            at = self._place_sound(frame)
            if at is not None and frame.samples is not None:
                self._sound.add(at.us, frame.samples, self._index)

    def _complete(self) -> list[Second]:
        done = []
        picture_us = self._picture_us
        while picture_us is not None and picture_us >= (self._index + 1) * _US:
            if not self._sound.is_settled(self._index, picture_us):
                break
            done += self._emit(self._index + 1, waited=True)
        return done

    def _emit(self, end: int, *, waited: bool) -> list[Second]:
        """Give out the seconds up to `end`; a slot without a picture shows the one before it."""
        done = []
        while self._index < end:
            pictures, new = self._take_slots()
            samples, audio_filled = self._sound.take(self._index, waited)
            utc_us, clock = self._walls.pop(self._index, (None, None))
            if self._index >= self._from_s:
                video_filled = new / self._spec.rate
                second = Second(
                    epoch=self._epoch,
                    index=self._index,
                    pictures_NHWC=self._stack(pictures),
                    samples_S=samples,
                    video_filled=video_filled,
                    audio_filled=audio_filled,
                    flags=_flags(video_filled, audio_filled, self._index in self._corrupt),
                    arrived_mono_s=self._arrived_mono_s,
                    utc_us=utc_us,
                    clock=clock,
                    stream_us=self._stream_us.get(self._index),
                )
                done.append(second)
            self._corrupt.discard(self._index)
            self._stream_us.pop(self._index, None)
            self._index += 1
        return done

    def _take_slots(self) -> tuple[list[UINT8 | None], int]:
        """Return the current second's pictures, and how many of them are new."""
        first_slot = self._index * self._spec.rate
        pictures: list[UINT8 | None] = []
        new = 0
        for slot in range(first_slot, first_slot + self._spec.rate):
            picture = self._slots.pop(slot, None)
            if picture is not None:
                self._last_picture, new = picture, new + 1
            if self._index >= self._from_s:
                pictures.append(self._shown())
        return pictures, new

    def _shown(self) -> UINT8 | None:
        """Return the last picture, converted now if it came before anything was wanted."""
        if self._last_picture is not None and not isinstance(self._last_picture, np.ndarray):
            self._last_picture = self._converted(self._last_picture)
        return self._last_picture

    def _converted(self, picture: Picture) -> UINT8 | None:
        """Return a picture as it is wanted; None, and count it, if it cannot be had so."""
        try:
            return picture.rgb(self._spec)
        except SourceFault:
            self.timeline.repairs["unconvertible"] += 1
            return None

    def _stack(self, pictures: list[UINT8 | None]) -> UINT8:
        """Stack the pictures; those before an epoch's first picture show that first one."""
        first = next((p for p in pictures if p is not None), None)
        if first is None:
            return np.zeros((self._spec.rate, self._spec.height, self._spec.width, 3), np.uint8)
        return np.stack([first if p is None else p for p in pictures])


def _wall_at_start(wall: Wall, offset_us: int) -> tuple[int, str]:
    """Return the wall clock at the start of a second, from that of a picture in it."""
    return wall.utc_us - offset_us, wall.clock


def _flags(video_filled: float, audio_filled: float, corrupt: bool) -> frozenset[str]:
    found = set()
    if video_filled == 0:
        found.add(flags.NO_VIDEO)
    elif video_filled < 0.75:
        found.add(flags.PARTIAL_VIDEO)
    if audio_filled == 0:
        found.add(flags.NO_AUDIO)
    elif audio_filled < 0.95:
        found.add(flags.PARTIAL_AUDIO)
    if corrupt:
        found.add(flags.CORRUPT)
    return frozenset(found)


def seconds_of(frames: Iterable[Frame], sampler: Sampler) -> Iterator[Second]:
    """Run frames through a sampler to the end; what training and the live path share."""
    for frame in frames:
        yield from sampler.push(frame)
    yield from sampler.flush()
