"""Frames from a thread that must not wait to a reader that may be late.

In: frames, as they come. Out: the same, in order. Promise: bounded. Whoever reads too slowly loses the oldest pictures,
which are counted, and the oldest sound; the newest is always there.
"""

import threading
from collections import deque
from collections.abc import Iterator

from streamer.sources.base import Frame, StreamInfo

_MOST_PICTURES = 25
"""A second of them; 80 MB at 1080p."""
_MOST_SOUND = 250
"""Blocks of 20 ms: five seconds."""


class Handover:
    """What one thread gives and another one takes."""

    def __init__(self) -> None:
        self.info: StreamInfo | None = None
        self.decode_errors = 0
        self.skipped = 0
        self._pictures: deque[tuple[int, Frame]] = deque()
        self._sound: deque[tuple[int, Frame]] = deque(maxlen=_MOST_SOUND)
        self._number = 0  # of the newest frame, so that pictures and sound leave in the order in which they came
        self._over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def opened(self, info: StreamInfo) -> None:
        """Say what the stream is; whoever says so first is right."""
        with self._changed:
            self.info = self.info or info
            self._changed.notify_all()

    def put(self, frame: Frame) -> None:
        """Hand a frame over; never waits."""
        with self._changed:
            self._number += 1
            if frame.picture is None:
                self._sound.append((self._number, frame))
            else:
                if len(self._pictures) == _MOST_PICTURES:
                    self._pictures.popleft()
                    self.skipped += 1
                self._pictures.append((self._number, frame))
            self._changed.notify_all()

    def count(self, *, decode_errors: int = 0, skipped: int = 0) -> None:
        """Add to the counts."""
        with self._changed:
            self.decode_errors += decode_errors
            self.skipped += skipped

    def drop_pictures(self) -> None:
        """Forget the pictures that wait."""
        with self._changed:
            self.skipped += len(self._pictures)
            self._pictures.clear()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, and why, if something is wrong; the first word stands."""
        with self._changed:
            if not self._over:
                self._over, self._error = True, error
            self._changed.notify_all()

    def wait_until_open(self) -> StreamInfo | None:
        """Return what the stream is, as soon as that is known; None if it ended before.

        Raises:
            BaseException: what `end` was given, if the stream ended before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.info is not None or self._over)
            if self.info is None and self._error is not None:
                raise self._error
            return self.info

    def frames(self) -> Iterator[Frame]:
        """Yield what is handed over, until the end.

        Raises:
            BaseException: what `end` was given, after the last frame.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pictures or self._sound or self._over)
                frame = self._oldest()
                if frame is None:
                    if self._error is not None:
                        raise self._error
                    return
            yield frame

    def _oldest(self) -> Frame | None:
        waiting = [queue for queue in (self._pictures, self._sound) if queue]
        return min(waiting, key=lambda queue: queue[0][0]).popleft()[1] if waiting else None
