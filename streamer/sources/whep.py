"""WHEP: we ask a server by HTTP for a stream that it has."""

import asyncio
import contextlib
import logging
import re
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError

from streamer.redact import redact, redact_url
from streamer.sources.base import Cause, SourceFault
from streamer.sources.handover import Handover
from streamer.sources.peer import BROKEN_SDP, NO_NETWORK, Peer

log = logging.getLogger("touchline.webrtc")

_SDP = "application/sdp"
_MOST_BYTES = 65_536
_GOODBYE_S = 2.0
_BROKEN = (*BROKEN_SDP, InternalError, InvalidAccessError, InvalidStateError, OperationError)


class WhepPull:
    """A stream that a server sends us.

    Args:
        url: whep:// for HTTP, wheps:// for HTTPS.
        token: to be shown to the server, if it wants one.
        handover: takes the frames; it ends with the stream.
    """

    def __init__(self, url: str, token: str | None, handover: Handover) -> None:
        self._name, self._handover = redact_url(url), handover
        self._url = re.sub(r"^whep(s?)://", r"http\1://", url, flags=re.I)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: str | None = None
        self._peer: Peer | None = None
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Agree with the server.

        Raises:
            SourceFault: nobody answers, or not with a stream.
        """
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        answer = await self._ask("video", "audio")
        if re.search(r"^m=audio 0 ", answer, re.M):  # aiortc cannot read a refusal of sound
            await self._leave()
            answer = await self._ask("video")
        assert self._peer is not None
        try:
            await self._peer.accept(answer)
        except _BROKEN as error:
            raise self._fault("its answer cannot be understood", "no_media") from error
        if not self._peer.sends_video:
            raise self._fault("there is no picture in this stream, so there is nothing to watch", "no_picture")
        if "rtx" not in self._peer.codecs("video"):
            log.warning(
                "The server offers no retransmission (RTX), so one lost packet can freeze the picture for 10 s."
            )

    def skip(self) -> None:
        """Leave out pictures up to the next key frame; from any thread."""
        if self._peer is not None:
            self._peer.skip()

    async def close(self) -> None:
        """Say goodbye, within seconds."""
        await self._leave()
        if self._http is not None:
            await self._http.close()

    async def _ask(self, *kinds: str) -> str:
        """Offer to receive, and return the answer."""
        assert self._http is not None
        self._peer = Peer(self._handover, self._gone)
        offer = await self._peer.offer(*kinds)
        if "a=candidate:" not in offer:
            raise self._fault(NO_NETWORK, "unreachable")
        headers = {**self._headers, "Content-Type": _SDP, "Accept": _SDP}
        try:
            async with self._http.post(self._url, data=offer, headers=headers) as response:
                self._check(response)
                if location := response.headers.get("Location"):
                    self._session = urljoin(str(response.url), location)
                return await _text(response)
        except (aiohttp.InvalidURL, UnicodeError, ValueError) as error:
            raise self._fault(f"is no address ({redact(str(error))})", "unreachable") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._fault(f"nobody answers there ({_reason(error)})", "unreachable") from error

    def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status in (401, 403):
            hint = (
                "the one in the environment variable TOUCHLINE_TOKEN" if self._headers else "TOUCHLINE_TOKEN is not set"
            )
            raise self._fault(f"the server wants another token ({response.status}; {hint})", "no_media")
        if response.status >= 500:
            raise self._fault(f"the server is in trouble ({response.status} {response.reason})", "unreachable")
        if response.status not in (200, 201):
            raise self._fault(f"the server has no stream there ({response.status} {response.reason})", "no_media")
        if response.content_type != _SDP:
            raise self._fault(f"the server answers with {response.content_type}, so it speaks no WHEP", "no_media")

    def _fault(self, what: str, cause: Cause) -> SourceFault:
        return SourceFault(f"{self._name}: {what}.", cause)

    async def _leave(self) -> None:
        peer, self._peer = self._peer, None
        session, self._session = self._session, None
        if peer is not None:
            await peer.close()
        # a foreign address is not told our token
        if session is not None and self._http is not None and _origin(session) == _origin(self._url):
            with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S), self._http.delete(session, headers=self._headers):
                    pass

    def _gone(self, peer: Peer, failed: bool) -> None:
        if peer is not self._peer:
            return
        if peer.info is None:
            self._handover.end(self._fault("the server answers, but no media gets through", "unreachable"))
        else:
            self._handover.end(self._fault("the connection was lost", "broke_off") if failed else None)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _reason(error: BaseException) -> str:
    return redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)


async def _text(response: aiohttp.ClientResponse) -> str:
    data = bytearray()
    async for chunk in response.content.iter_chunked(_MOST_BYTES):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise aiohttp.ClientPayloadError("its answer has no end")
    return data.decode()
