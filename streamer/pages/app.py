"""The pages' server: what is at which address, and who may come in.

In: a Hub, the folder of clips, Metrics. Out: an aiohttp application. Promise: nothing but the pages' own files and
written clips is ever read from the disk, and no other site's page can read anything.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streamer.metrics import Metrics
from streamer.pages.hub import Hub
from streamer.pages.overlay import OverlayConfig

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CLIP_TYPES = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}

HEARTBEAT_S = 10.0
"""How often something is sent though nothing happens: a page that is gone is noticed by writing alone."""
_WRITE_S = 20.0
_MOST_VISITORS = 64
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_BEAT = b"event: beat\ndata: {}\n\n"  # no comment, since a page cannot see those
_PREVIEW_BUFFER = 65_536  # a slow viewer sees fewer pictures, not old ones
_SELF = "default-src 'none'; script-src 'self'; img-src 'self'; media-src 'self'; font-src 'self'; base-uri 'none'; "
_SELF += "form-action 'none'; frame-ancestors 'self'; "
_DASHBOARD_POLICY = _SELF + "style-src 'self'; connect-src 'self'"
_OVERLAY_POLICY = _SELF + "style-src 'self' 'unsafe-inline'; connect-src 'self'"
"""Programs that mix the overlay in add styles of their own; and it may be fed by a broker, the config's and no other:
an address with another one would have the page give away the config's user and password."""


def application(
    hub: Hub, metrics: Metrics, not_ready: Callable[[], str | None], clips: Path | None, overlay: str, token: str | None
) -> web.Application:
    """Return the application.

    Args:
        hub: has what is said.
        metrics: what /metrics shows.
        not_ready: says why the streamer is not ready, or None when it is.
        clips: the folder of clips.
        overlay: how the overlay looks, as JSON.
        token: what visitors must show; None: they must come from this machine.
    """
    app = web.Application(middlewares=[_guard(token)])
    app.on_response_prepare.append(_headers(OverlayConfig.model_validate_json(overlay).mqtt.origin))

    async def dismiss(_: web.Application) -> None:
        hub.dismiss()

    app.on_shutdown.append(dismiss)
    _add_pages(app, overlay)
    _add_streams(app, hub, metrics)
    _add_clips(app, clips)
    _add_probes(app, metrics, not_ready)
    return app


def is_loopback(host: str) -> bool:
    """Return whether a host's name, or address, means this machine."""
    name = host.rstrip(".").lower()
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _add_pages(app: web.Application, overlay: str) -> None:
    async def dashboard(_: web.Request) -> web.FileResponse:
        return _static("dashboard.html")

    async def overlay_page(_: web.Request) -> web.FileResponse:
        return _static("overlay.html")

    async def overlay_config(_: web.Request) -> web.Response:
        return web.json_response(text=overlay)

    async def static(request: web.Request) -> web.FileResponse:
        return _static(request.match_info["name"])

    app.router.add_get("/", dashboard)
    app.router.add_get("/overlay", overlay_page)
    app.router.add_get("/overlay.json", overlay_config)
    app.router.add_get(r"/static/{name:(?:vendor/)?[A-Za-z0-9_-][A-Za-z0-9._-]*}", static)


def _static(name: str) -> web.FileResponse:
    path = STATIC / name
    if path.suffix not in TYPES or not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={"Content-Type": f"{TYPES[path.suffix]}; charset=utf-8"})


def _add_clips(app: web.Application, folder: Path | None) -> None:
    async def clip(request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if folder is None or not _NAME.fullmatch(name):
            raise web.HTTPNotFound
        path = await asyncio.to_thread((folder / name).resolve)
        if path.parent != await asyncio.to_thread(folder.resolve) or path.suffix not in CLIP_TYPES:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": CLIP_TYPES[path.suffix]})

    app.router.add_get("/clips/{name}", clip)


def _add_probes(app: web.Application, metrics: Metrics, not_ready: Callable[[], str | None]) -> None:
    async def show_metrics(request: web.Request) -> web.Response:
        body, kind = metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def show_ready(_: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_ready)


def _add_streams(app: web.Application, hub: Hub, metrics: Metrics) -> None:
    visitors = 0

    def counted(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            nonlocal visitors
            if visitors >= _MOST_VISITORS:
                raise web.HTTPServiceUnavailable(text=f"{_MOST_VISITORS} pages are open already.\n")
            visitors += 1
            try:
                return await handler(request)
            finally:
                visitors -= 1

        return handle

    async def events(request: web.Request) -> web.StreamResponse:
        return await _events(request, hub, metrics)

    async def preview(request: web.Request) -> web.StreamResponse:
        if not hub.hello.get("preview"):
            raise web.HTTPNotFound
        return await _preview(request, hub)

    app.router.add_get("/events", counted(events), allow_head=False)
    app.router.add_get("/preview", counted(preview), allow_head=False)


async def _events(request: web.Request, hub: Hub, metrics: Metrics) -> web.StreamResponse:
    """Send server-sent events until the page is gone, or dismissed."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    history = request.query.get("from", "start") == "start"
    try:
        with (
            suppress(ConnectionError),
            hub.listening(history=history, last_id=request.headers.get("Last-Event-ID")) as page,
        ):
            metrics.page_clients(hub.pages)
            await _write(request, response, b"retry: 1000\n\n")
            while (text := await page.text(HEARTBEAT_S)) is not None:
                await _write(request, response, text.encode() or _BEAT)
    finally:
        metrics.page_clients(hub.pages)
    return response


async def _preview(request: web.Request, hub: Hub) -> web.StreamResponse:
    """Send pictures until the viewer is gone, or dismissed; a boundary after each, or browsers wait for the next."""
    headers = {"Content-Type": "multipart/x-mixed-replace; boundary=picture", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PREVIEW_BUFFER)
    await response.prepare(request)
    newest = b""
    with suppress(ConnectionError), hub.viewing() as viewer:
        await _write(request, response, b"--picture\r\n")
        while (pictures := await viewer.take(HEARTBEAT_S)) is not None:
            newest = pictures[-1] if pictures else newest
            if newest:
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(newest)}\r\n\r\n".encode()
                await _write(request, response, head + newest + b"\r\n--picture\r\n")
    return response


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write; who takes nothing for too long is gone.

    Raises:
        ConnectionError: it is.
    """
    try:
        async with asyncio.timeout(_WRITE_S):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from None


def _headers(broker: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return what adds the headers to each answer; the overlay may listen to this broker."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        static = request.path.startswith(("/static/", "/clips/"))
        policy = f"{_OVERLAY_POLICY} {broker}".rstrip() if request.path == "/overlay" else _DASHBOARD_POLICY
        response.headers["Cache-Control"] = "no-cache" if static else "no-store"
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"

    return add


def _guard(token: str | None) -> Middleware:
    """Return what lets visitors in: by the token, or, without one, if they call this machine by a name of its own."""
    digest = _digest(token or "")
    cookie = f"touchline-{digest[:8]}"  # cookies know no ports, and another streamer's must not replace it

    def shown(given: str | None) -> bool:
        return given is not None and hmac.compare_digest(_digest(given), digest)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            if not is_loopback(_host_name(request.host)):
                raise web.HTTPForbidden(text="This address is not served here; use localhost.\n")  # DNS rebinding
            return await handler(request)
        if request.path == "/healthz":
            return await handler(request)
        if request.match_info.http_exception is None and shown(request.query.get("token")):
            response = web.HTTPSeeOther(request.rel_url.without_query_params("token"))
            response.set_cookie(cookie, digest, httponly=True, samesite="Lax", secure=request.secure)
            raise response
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        kept = request.cookies.get(cookie, "").encode(errors="replace")
        if hmac.compare_digest(kept, digest.encode()) or (scheme.lower() == "bearer" and shown(bearer.strip())):
            return await handler(request)
        raise web.HTTPUnauthorized(
            text="A token is needed: open this page once with ?token=…\n", headers={"WWW-Authenticate": "Bearer"}
        )

    return guard


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _host_name(host: str) -> str:
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""
