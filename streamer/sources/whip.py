"""WHIP (RFC 9725): we listen, and whoever publishes comes to us by HTTP.

One publisher at a time. A second one is refused, unless the first has sent nothing for five seconds: programs connect
anew long before WebRTC has noticed that the old connection is dead.
"""

import asyncio
import hmac
import logging
import secrets
import time
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from aiohttp import web
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.sdp import SessionDescription

from engines.errors import UsageError
from streamer.redact import redact_url
from streamer.sources.base import Listening, SourceFault
from streamer.sources.handover import Handover
from streamer.sources.peer import BROKEN_SDP, NO_NETWORK, Peer

log = logging.getLogger("touchline.webrtc")

SDP = "application/sdp"
SILENT_S = 5.0
"""A publisher that has sent nothing for as long is replaced by the next one."""
_SDP_FRAGMENT = "application/trickle-ice-sdpfrag"
_MOST_BYTES = 65_536
_NOT_UNDERSTOOD = "That is no offer that can be understood."
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Location, ETag, Accept-Post, Accept-Patch",
}
_OPTIONS = {
    "Access-Control-Allow-Methods": "OPTIONS, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
    "Accept-Post": SDP,
}
_BROKEN = (*BROKEN_SDP, InternalError, InvalidAccessError, InvalidStateError)


class Place(NamedTuple):
    """Where to listen."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str, token: str | None) -> "Place":
        """Return what a URL says.

        Raises:
            UsageError: it says too little, or anybody in the network could publish there.
        """
        name = redact_url(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{name} is no address to listen on ({error}).") from error
        if not host or port is None:
            raise UsageError(f"{name}: say where to listen, as in whip://127.0.0.1:8080/live.")
        if not token and not _is_loopback(host):
            raise UsageError(
                f"{name}: without a token anybody in the network could publish there; set one in the environment "
                "variable TOUCHLINE_TOKEN, or listen on 127.0.0.1."
            )
        return cls(host, port, unquote(parts.path) or "/")

    def url(self, port: int) -> str:
        """Return it as a publisher needs it, with the port that was taken."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{self.path}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Refusal(Exception):
    """What a publisher wants is not possible; one sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class WhipEndpoint:
    """An address that one publisher at a time can send to.

    Args:
        place: where.
        token: what publishers must show; None to let everybody in.
        handover: takes the frames; it ends when a publisher whose pictures were seen has gone.
        listening: told the address, as soon as it is there.
    """

    def __init__(self, place: Place, token: str | None, handover: Handover, listening: Listening) -> None:
        self._place, self._token, self._handover, self._listening = place, token, handover, listening
        self._peer: Peer | None = None
        self._session = self._etag = ""
        self._one_at_a_time = asyncio.Lock()
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Listen, and say so.

        Raises:
            SourceFault: the port is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._place.host, self._place.port).start()
        except OSError as error:
            where = f"{self._place.host}:{self._place.port}"
            raise SourceFault(f"{where} cannot be listened on ({error.strerror}).", "unreachable") from error
        self._listening(self._place.url(self._runner.addresses[0][1]))

    def skip(self) -> None:
        """Leave out pictures up to the next key frame; from any thread."""
        if self._peer is not None:
            self._peer.skip()

    async def close(self) -> None:
        """End it, whoever publishes."""
        if self._peer is not None:
            await self._peer.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        try:
            response = await self._respond(request)
        except Refusal as refusal:
            response = web.Response(status=refusal.status, text=refusal.sentence + "\n", headers=refusal.headers)
        except web.HTTPException:
            raise
        except Exception:  # a bug; who is publishing goes on
            log.exception("A request cannot be answered.")
            raise
        response.headers.update(_CORS)
        return response

    async def _respond(self, request: web.Request) -> web.Response:
        at_endpoint = request.path == self._place.path
        at_session = bool(self._session) and request.path == self._session
        if request.method == "OPTIONS" and (at_endpoint or at_session):
            return web.Response(headers=_OPTIONS)
        self._check_token(request)
        if at_endpoint and request.method == "POST":
            return await self._publish(request)
        if at_session and request.method == "PATCH":
            return await self._trickle(request)
        if at_session and request.method == "DELETE":
            return await self._leave()
        if at_endpoint or at_session:
            allowed = "OPTIONS, POST" if at_endpoint else "OPTIONS, PATCH, DELETE"
            raise Refusal(405, f"{request.method} means nothing here.", Allow=allowed)
        raise Refusal(404, "Nothing is here.")

    def _check_token(self, request: web.Request) -> None:
        if not self._token:
            return
        kind, _, shown = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(errors="replace"), self._token.encode())
        if kind.lower() != "bearer" or not right:
            sentence = "This address wants its token, as in Authorization: Bearer …"
            raise Refusal(401, sentence, WWW_Authenticate='Bearer realm="touchline"')

    async def _publish(self, request: web.Request) -> web.Response:
        offer = await _text(request, SDP)
        check_offer(offer)
        async with self._one_at_a_time:
            old = self._peer
            if old is not None and time.monotonic() - old.heard_mono_s < SILENT_S:
                raise Refusal(409, "Somebody is publishing here already, and one at a time is all there can be.")
            peer = Peer(self._handover, self._gone)
            try:
                answer = await _answer(peer, offer)
            except BaseException:
                await peer.close()
                raise
            self._peer, self._etag = peer, f'"{secrets.token_hex(8)}"'
            self._session = f"{self._place.path.rstrip('/')}/{secrets.token_urlsafe(12)}"
            if old is not None:
                log.warning("A new publisher takes the place of one that has been silent.")
                await old.close()
        headers = {"Location": self._session, "ETag": self._etag, "Accept-Patch": _SDP_FRAGMENT}
        return web.Response(status=201, text=answer, content_type=SDP, headers=headers)

    async def _trickle(self, request: web.Request) -> web.Response:
        """Take candidates that come later; ICE is not started anew, which RFC 9725 leaves open."""
        fragment = await _text(request, _SDP_FRAGMENT)
        tag = request.headers.get("If-Match", self._etag)
        if tag == "*" or self._peer is None:
            raise Refusal(422, "ICE cannot be started anew here; publish anew.")
        if tag != self._etag:
            raise Refusal(412, "That is of an earlier session.")
        mid = ""
        try:
            for line in fragment.splitlines():
                mid = line.removeprefix("a=mid:") if line.startswith("a=mid:") else mid
                if line.startswith("a=candidate:"):
                    await self._peer.add_candidate(line.removeprefix("a="), mid)
        except _BROKEN as error:
            raise Refusal(400, "That is no list of candidates.") from error
        return web.Response(status=204)

    async def _leave(self) -> web.Response:
        peer, self._session = self._peer, ""
        if peer is not None:
            await peer.close()
        return web.Response()

    def _gone(self, peer: Peer, failed: bool) -> None:
        if peer is not self._peer:
            return
        self._peer, self._session = None, ""
        if peer.info is None:
            log.log(logging.WARNING if failed else logging.INFO, "A publisher left before its first picture.")
        elif failed:
            self._handover.end(SourceFault("The connection to the publisher was lost.", "broke_off"))
        else:
            self._handover.end()


async def _text(request: web.Request, content_type: str) -> str:
    if request.content_type != content_type:
        raise Refusal(415, f"This address takes {content_type}.")
    try:
        return (await request.read()).decode()
    except (UnicodeDecodeError, OSError) as error:
        raise Refusal(400, "That is no text, or a part of one.") from error


async def _answer(peer: Peer, offer: str) -> str:
    try:
        answer = await peer.answer(offer)
    except OperationError as error:
        known = "H.264 (baseline, packetization mode 1) or VP8, and for sound Opus, G.722 or PCM"
        raise Refusal(406, f"The offer has no codec that is known here: {known}.") from error
    except _BROKEN as error:
        raise Refusal(400, _NOT_UNDERSTOOD) from error
    if "a=candidate:" not in answer:
        raise Refusal(503, f"Nothing can be sent here: {NO_NETWORK}.")
    if "rtx" not in peer.codecs("video"):
        log.warning("The publisher offers no retransmission (RTX), so one lost packet can freeze the picture for 10 s.")
    return answer


def check_offer(offer: str) -> None:
    """Check what can be told from an offer alone.

    Raises:
        Refusal: it cannot be understood, or does not have exactly one video and at most one sound track.
    """
    try:
        sent = [
            m.kind for m in SessionDescription.parse(offer).media if m.port and m.direction in ("sendonly", "sendrecv")
        ]
    except BROKEN_SDP as error:
        raise Refusal(400, _NOT_UNDERSTOOD) from error
    if "video" not in sent:
        raise Refusal(400, "The offer has no video, so there is nothing to watch.")
    if sent.count("video") > 1 or sent.count("audio") > 1:
        raise Refusal(406, "The offer has more than one video or sound track; send one of each.")
