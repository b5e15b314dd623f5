"""The preview: a few of the decoded pictures a second, as JPEG, while somebody watches.

In: every decoded picture. Out: Preview reports. Promise: reading never waits for it; while nobody watches it costs a
comparison a picture.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from streamer.ingest.messages import Preview
from streamer.sources.base import Frame, SourceFault
from streamer.sources.jpeg import JpegEncoder
from streamer.sources.picture import AvPicture

_RATE = 8
"""Pictures a second, at most."""


class Previews:
    """Encodes pictures in a thread of its own, from when they are first wanted.

    Args:
        report: takes a Preview, at once or never; from any thread.
    """

    def __init__(self, report: Callable[[Preview], None]) -> None:
        self._report = report
        self._wanted = False
        self._next_s = 0.0
        self._newest: queue.Queue[AvPicture] = queue.Queue(1)
        self._thread: threading.Thread | None = None

    def want(self, wanted: bool) -> None:
        """Begin, or cease; from one thread."""
        self._wanted = wanted
        if wanted and self._thread is None:
            self._thread = threading.Thread(target=self._encode, name="preview", daemon=True)
            self._thread.start()

    def offer(self, frame: Frame) -> None:
        """Take a decoded frame; pictures that come too soon, or while one is being encoded, are left out."""
        if self._wanted and isinstance(frame.picture, AvPicture) and (now_s := time.monotonic()) >= self._next_s:
            self._next_s = max(self._next_s + 1 / _RATE, now_s)
            with suppress(queue.Full):
                self._newest.put_nowait(frame.picture)

    def _encode(self) -> None:
        encoder = JpegEncoder()
        while True:
            picture = self._newest.get()
            with suppress(SourceFault):  # a damaged one; the next may be fine
                self._report(Preview(encoder.encode(picture)))
