"""The HTTP side: /metrics for Prometheus, /healthz and /readyz for whoever supervises. Loopback only."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from engines.errors import DeliveryError
from streamer.metrics import Metrics


@asynccontextmanager
async def serve(port: int, metrics: Metrics, not_ready: Callable[[], str | None]) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL.

    Args:
        port: 0 takes a free one.
        metrics: what /metrics shows.
        not_ready: says why the streamer is not ready, or None when it is.

    Raises:
        DeliveryError: the port is taken.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def show_ready(_: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", show_metrics), web.get("/healthz", show_health), web.get("/readyz", show_ready)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
        except OSError as error:
            raise DeliveryError(f"Port {port} for metrics cannot be opened ({error.strerror}).") from error
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
