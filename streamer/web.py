"""The HTTP side: the pages, /metrics for Prometheus, /healthz and /readyz for whoever supervises.

On loopback unless told otherwise, and then only for those who show a token.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from engines.errors import DeliveryError, UsageError
from streamer.config import ServeConfig
from streamer.metrics import Metrics
from streamer.pages.app import application, is_loopback
from streamer.pages.hub import Hub
from streamer.pages.overlay import read_overlay

_SHUTDOWN_S = 0.5
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@asynccontextmanager
async def serve(
    config: ServeConfig, metrics: Metrics, not_ready: Callable[[], str | None], hub: Hub, clips: Path | None
) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL.

    Args:
        config: where, for whom, and how the overlay looks; port 0 takes a free one.
        metrics: what /metrics shows.
        not_ready: says why the streamer is not ready, or None when it is.
        hub: has what is said.
        clips: the folder of clips.

    Raises:
        UsageError: anybody could come in; or the overlay's file cannot be used.
        DeliveryError: the port is taken, or the host is none of this machine's.
    """
    if not config.token and not is_loopback(config.host):
        raise UsageError(
            f"Pages on {config.host} can be seen by others: set a token in the environment variable "
            "TOUCHLINE_PAGES_TOKEN, or serve them on loopback."
        )
    overlay = read_overlay(config.overlay).model_dump_json()
    app = application(hub, metrics, not_ready, clips, overlay, config.token or None)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            where = f"Port {config.port} of {config.host}"
            raise DeliveryError(f"{where} cannot be opened for pages and metrics ({error.strerror}).") from error
        host = _ANY.get(config.host, config.host)
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
