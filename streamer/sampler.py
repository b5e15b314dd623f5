"""Frames in, Seconds out.

Promise: every second from the first picture to the last comes out exactly once and in order, whatever is missing in
it; what was missing is said by `video_filled`, `audio_filled` and `flags`. Only the pictures that are kept are
converted. Deterministic in its input.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from engines import second as flags
from engines.second import FLOAT32, SAMPLE_RATE_HZ, UINT8, MediaTime, Second
from streamer.sources.base import Frame, PictureSpec
from streamer.timeline import Timeline

SOUND_SLACK_US = 1_000_000
"""How far sound may trail the pictures, in media time, before a second goes out without it."""
_SOUND_AHEAD_S = 15
"""Seconds of sound kept ahead of the pictures; more is dropped."""
_UNPLACED_BLOCKS = 256
"""Blocks of sound kept until a picture says where they belong: about five seconds."""
_US = 1_000_000


class _Sound:
    """Sound of the seconds not yet given out, placed by time."""

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[FLOAT32, int]] = {}
        self.end_us = -1

    def add(self, start_us: int, samples: FLOAT32, first_index: int) -> None:
        start = round(start_us * SAMPLE_RATE_HZ / _US)
        self.end_us = max(self.end_us, start_us + len(samples) * _US // SAMPLE_RATE_HZ)
        while len(samples):
            index, offset = divmod(start, SAMPLE_RATE_HZ)
            part = samples[: SAMPLE_RATE_HZ - offset]
            if first_index <= index < first_index + _SOUND_AHEAD_S:
                block, filled = self._seconds.get(index) or (np.zeros(SAMPLE_RATE_HZ, np.float32), 0)
                block[offset : offset + len(part)] = part
                self._seconds[index] = (block, filled + len(part))
            start += len(part)
            samples = samples[len(part) :]

    def take(self, index: int) -> tuple[FLOAT32, float]:
        block, filled = self._seconds.pop(index, (np.zeros(SAMPLE_RATE_HZ, np.float32), 0))
        np.clip(np.nan_to_num(block, copy=False), -1.0, 1.0, out=block)
        return block, min(1.0, filled / SAMPLE_RATE_HZ)


class Sampler:
    """Cuts a stream's frames into Seconds."""

    def __init__(self, spec: PictureSpec) -> None:
        self.timeline = Timeline()
        self._spec = spec
        self._epoch = 0
        self._index = 0
        self._slots: dict[int, UINT8] = {}  # slot number since media time 0 → picture
        self._last_picture: UINT8 | None = None
        self._picture_us = -1
        self._corrupt: set[int] = set()
        self._sound = _Sound()
        self._sound_alive = False
        self._unplaced: deque[Frame] = deque(maxlen=_UNPLACED_BLOCKS)  # sound that came before its pictures
        self._arrived_mono_s = 0.0

    def push(self, frame: Frame) -> list[Second]:
        """Take a frame; return the seconds it completes."""
        self._arrived_mono_s = frame.arrived_mono_s
        if frame.samples is not None:
            if not self._take_sound(frame):
                self._unplaced.append(frame)
            return self._complete()
        first = self._picture_us < 0
        at = self.timeline.place_picture(frame.pts, frame.time_base)
        done = self._new_epoch(at) if at.epoch != self._epoch else []
        self._take_picture(at, frame)
        if first or done:
            waiting = list(self._unplaced)
            self._unplaced.clear()
            for block in waiting:
                self._take_sound(block)
        return done + self._complete()

    def flush(self) -> list[Second]:
        """Return what is left at the end of the stream, the last second being a part of one."""
        if self._picture_us < 0:
            return []
        return [self._emit() for _ in range(self._picture_us // _US - self._index + 1)]

    def _new_epoch(self, at: MediaTime) -> list[Second]:
        left = self.flush()
        self._epoch, self._index = at.epoch, at.us // _US
        self._slots.clear()
        self._corrupt.clear()
        self._sound, self._sound_alive = _Sound(), False
        self._last_picture = None
        return left

    def _take_picture(self, at: MediaTime, frame: Frame) -> None:
        assert frame.picture is not None
        self._picture_us = at.us
        slot = at.us * self._spec.rate // _US
        if slot not in self._slots:
            self._slots[slot] = frame.picture.rgb(self._spec)
        if frame.corrupt:
            self._corrupt.add(at.us // _US)

    def _take_sound(self, frame: Frame) -> bool:
        """Keep a block of sound; return whether the pictures' clock says where it belongs."""
        assert frame.samples is not None
        duration_us = len(frame.samples) * _US // SAMPLE_RATE_HZ
        at = self.timeline.place_sound(frame.pts, frame.time_base, duration_us)
        if at is None:
            return False
        self._sound.add(at.us, frame.samples, self._index)
        self._sound_alive = True
        return True

    def _complete(self) -> list[Second]:
        done = []
        while self._picture_us >= (self._index + 1) * _US and self._sound_is_settled():
            done.append(self._emit())
        return done

    def _sound_is_settled(self) -> bool:
        end_us = (self._index + 1) * _US
        return not self._sound_alive or self._sound.end_us >= end_us or self._picture_us >= end_us + SOUND_SLACK_US

    def _emit(self) -> Second:
        """Give out the current second; a slot without a picture shows the one before it."""
        first_slot = self._index * self._spec.rate
        pictures, new = [], 0
        for slot in range(first_slot, first_slot + self._spec.rate):
            picture = self._slots.pop(slot, None)
            if picture is not None:
                self._last_picture, new = picture, new + 1
            pictures.append(self._last_picture)
        samples, audio_filled = self._sound.take(self._index)
        if audio_filled == 0:
            self._sound_alive = False  # do not wait for sound that has died; it is taken again when it returns
        second = Second(
            epoch=self._epoch,
            index=self._index,
            pictures_NHWC=self._stack(pictures),
            samples_S=samples,
            video_filled=new / self._spec.rate,
            audio_filled=audio_filled,
            arrived_mono_s=self._arrived_mono_s,
        )
        second = replace(second, flags=self._flags(second))
        self._corrupt.discard(self._index)
        self._index += 1
        return second

    def _stack(self, pictures: list[UINT8 | None]) -> UINT8:
        """Stack the pictures; those before an epoch's first picture show that first one."""
        first = next((p for p in pictures if p is not None), None)
        if first is None:
            return np.zeros((self._spec.rate, self._spec.height, self._spec.width, 3), np.uint8)
        return np.stack([first if p is None else p for p in pictures])

    def _flags(self, second: Second) -> frozenset[str]:
        found = set()
        if second.video_filled == 0:
            found.add(flags.NO_VIDEO)
        elif second.video_filled < 0.75:
            found.add(flags.PARTIAL_VIDEO)
        if second.audio_filled == 0:
            found.add(flags.NO_AUDIO)
        elif second.audio_filled < 0.95:
            found.add(flags.PARTIAL_AUDIO)
        if self._index in self._corrupt:
            found.add(flags.CORRUPT)
        return frozenset(found)


def seconds_of(frames: Iterable[Frame], sampler: Sampler) -> Iterator[Second]:
    """Run frames through a sampler to the end; what training and the live path share."""
    for frame in frames:
        yield from sampler.push(frame)
    yield from sampler.flush()
