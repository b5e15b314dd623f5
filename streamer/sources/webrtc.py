"""WebRTC: published to us (WHIP), or pulled by us (WHEP).

In: an address. Out: frames, pictures with their RTP timestamps and sound on the pictures' clock. aiortc and aiohttp run
in a thread of their own; whoever reads is outside and synchronous. Nothing waits for a reader that is late: the oldest
pictures are left out and counted.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from streamer.sources.base import Frame, Listening, SourceFault
from streamer.sources.handover import Handover
from streamer.sources.whep import WhepPull
from streamer.sources.whip import Place, WhipEndpoint

log = logging.getLogger("touchline.webrtc")

_CLOSE_S = 10.0


class Side(Protocol):
    """Our side of the conversation."""

    async def start(self) -> None:
        """Begin it."""

    def skip(self) -> None:
        """Leave out pictures up to the next key frame."""

    async def close(self) -> None:
        """End it."""


class WebRtcSource:
    """A WebRTC stream that has shown its first picture; see Source.

    Args:
        side: makes our side of the conversation, inside the loop.

    Raises:
        TouchlineError: it ended before.
    """

    def __init__(self, side: Callable[[Handover], Side]) -> None:
        self._handover = Handover()
        self._make_side = side
        self._side: Side | None = None
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="webrtc", daemon=True)
        self._thread.start()
        try:
            info = self._handover.wait_until_open()
            if info is None:
                raise SourceFault("The stream ended before its first picture.", "ended")
            self.info = info
        except BaseException:
            self.close()
            raise

    @property
    def decode_errors(self) -> int:
        """What could not be decoded, pictures and sound."""
        return self._handover.decode_errors

    @property
    def skipped(self) -> int:
        """Pictures left out: by `skip`, because the reader was late, or because decoding was."""
        return self._handover.skipped

    @property
    def waited_s(self) -> float:
        """All the time: who is late loses pictures on the way, see `skipped`, and need not leave out more."""
        return time.monotonic()

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the other side says goodbye; see Source."""
        return self._handover.frames()

    def skip(self) -> None:
        """Leave out the pictures that wait, and those that come, undecoded, up to the next key frame."""
        self._handover.drop_pictures()
        if self._side is not None:
            self._side.skip()

    def close(self) -> None:
        """Release it; safe to call twice. Without it, aiortc's decoders would keep the process from ending."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        for name in ("aiortc", "aioice", "aiohttp.server"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails inside ends a connection, which is heard
        self._loop.set_exception_handler(_note)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._talk())
            self._handover.end()
        except BaseException as error:  # handed to whoever reads
            self._handover.end(error)

    async def _talk(self) -> None:
        self._side = side = self._make_side(self._handover)
        try:
            await side.start()
            await self._closing.wait()
        finally:
            await side.close()


def _note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.debug("Inside aiortc: %s", context.get("exception") or context["message"])


def publish_endpoint(url: str, *, token: str | None, listening: Listening) -> WebRtcSource:
    """Return the stream of whoever publishes to whip://HOST:PORT/PATH, once its first picture has come.

    Args:
        url: where to listen, for HTTP; port 0 takes a free one.
        token: what publishers must show (`Authorization: Bearer …`); None lets everybody in, on loopback only.
        listening: told the address for publishers, from another thread.

    Raises:
        UsageError: the address says too little, or is open to the network and has no token.
        SourceFault: it cannot be listened on.
    """
    place = Place.of(url, token)
    return WebRtcSource(lambda handover: WhipEndpoint(place, token, handover, listening))


def pull(url: str, *, token: str | None) -> WebRtcSource:
    """Return the stream at whep://HOST[:PORT]/PATH (HTTP) or wheps://… (HTTPS), once its first picture has come.

    Args:
        url: of the server's WHEP endpoint.
        token: shown to the server (`Authorization: Bearer …`), if there is one.

    Raises:
        SourceFault: nobody answers there, or not with a stream.
    """
    return WebRtcSource(lambda handover: WhepPull(url, token, handover))
