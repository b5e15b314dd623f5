"""The pages' server: who may come in, what can be had, and that it ends."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from engines.errors import DeliveryError, UsageError
from streamer.config import ServeConfig
from streamer.metrics import Metrics
from streamer.pages import app as app_module
from streamer.pages.hub import Hub
from streamer.web import serve

HELLO = {"stream": "derby", "run": "r1", "labels": ["Goal"], "preview": True}
TOKEN = "geheim & mehr"
NOT_CLIPS = ["../secret.mp4", "%2e%2e%2fsecret.mp4", "..%5csecret.mp4", "linked.mp4", "%2fetc%2fpasswd", ""]
NOT_CLIPS += [".hidden.mp4", "notes.txt", "a.mp4%00", "%2e%2e/secret.mp4", "sub/deep.mp4"]


@asynccontextmanager
async def served(
    clips: Path | None = None, token: str | None = None, hub: Hub | None = None, ready: str | None = None
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    config = ServeConfig(0, token=token)
    async with (
        serve(config, Metrics(), lambda: ready, hub or Hub(HELLO), clips) as url,
        aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as client,
    ):
        yield url, client


async def raw(url: str, target: str, *, host: str = "localhost") -> str:
    """Send a request line as it is; return the answer's beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return answer.decode(errors="replace")


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came")


async def test_events_begin_with_hello_and_go_on_with_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "HEARTBEAT_S", 0.05)
    async with served() as (_, client), client.get("/events") as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers
        text = b""
        while b"event: beat" not in text:
            text += await asyncio.wait_for(answer.content.readany(), 5)
    assert text.index(b"event: hello") < text.index(b"event: present")


async def test_a_page_that_has_gone_is_forgotten() -> None:
    hub = Hub(HELLO)
    async with served(hub=hub) as (_, client):
        async with client.get("/events") as answer:
            await answer.content.readany()
            assert hub.pages == 1
            answer.close()
        await eventually(lambda: hub.pages == 0)


async def test_the_server_ends_within_a_second_though_pages_are_connected() -> None:
    hub = Hub(HELLO)
    async with aiohttp.ClientSession() as client:
        async with serve(ServeConfig(0), Metrics(), lambda: None, hub, None) as url:
            events, preview = await client.get(f"{url}/events"), await client.get(f"{url}/preview")
            await events.content.readany()
            started = time.monotonic()
        assert time.monotonic() - started < 2.0
        events.close()
        preview.close()


async def test_a_port_that_is_taken_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeliveryError, match=rf"^Port {port} of 127\.0\.0\.1 cannot be opened .*\.$"):
            async with serve(ServeConfig(port), Metrics(), lambda: None, Hub(HELLO), None):
                pass


async def test_nothing_is_shown_to_others_without_a_token() -> None:
    with pytest.raises(UsageError, match="set a token in"):
        async with serve(ServeConfig(0, "0.0.0.0"), Metrics(), lambda: None, Hub(HELLO), None):
            pass


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "[", "localhost@evil.example:80", "10.0.0.1"]
)
async def test_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    async with served() as (url, _):
        for target in ("/", "/events", "/metrics", "/preview"):
            assert (await raw(url, target, host=host)).split()[1] in ("403", "400")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:80", "touchline.localhost"])
async def test_this_machines_own_names_are_served(host: str) -> None:
    async with served() as (url, _):
        assert " 200 " in (await raw(url, "/healthz", host=host)).splitlines()[0]


async def test_with_a_token_only_health_is_open() -> None:
    async with served(token=TOKEN) as (_, client):
        for path in ("/", "/overlay", "/overlay.json", "/static/dashboard.js", "/events", "/preview", "/metrics", "/x"):
            assert (await client.get(path)).status == 401, path
            wrong = {"Authorization": f"Bearer {TOKEN}x"}
            assert (await client.get(path, headers=wrong)).status == 401, path
        assert (await client.get("/?token=wrong")).status == 401
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).status == 200


async def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address() -> None:
    async with served(token=TOKEN) as (url, client):
        answer = await client.get("/overlay.json", params={"token": TOKEN, "x": "1"}, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/overlay.json?x=1")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert TOKEN.split()[0] not in cookie
        assert (await client.get("/metrics")).status == 200
        assert "Location" not in await raw(url, "//evil.example/?token=geheim%20%26%20mehr"), "no open redirect"


@pytest.mark.parametrize("name", NOT_CLIPS)
async def test_only_clips_are_read_from_the_disk(name: str, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "sub").mkdir(parents=True)
    secrets = (tmp_path / "secret.mp4", clips / ".hidden.mp4", clips / "notes.txt", clips / "sub" / "deep.mp4")
    for file in (*secrets, clips / "a.mp4"):
        file.write_text("secret")
    (clips / "linked.mp4").symlink_to(tmp_path / "secret.mp4")
    async with served(clips) as (url, client):
        answer = await raw(url, f"/clips/{name}")
        assert " 404 " in answer.splitlines()[0] or " 400 " in answer.splitlines()[0]
        assert "secret" not in answer.split("\r\n\r\n", 1)[1]
        assert (await client.get("/clips/a.mp4")).status == 200


async def test_a_clip_can_be_read_in_parts(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"0123456789")
    async with served(tmp_path) as (_, client):
        answer = await client.get("/clips/a.mp4", headers={"Range": "bytes=2-4"})
        assert (answer.status, await answer.read(), answer.content_type) == (206, b"234", "video/mp4")


async def test_static_files_are_the_pages_own() -> None:
    async with served() as (url, client):
        for path, kind in (("/", "text/html"), ("/static/dashboard.js", "text/javascript"), ("/overlay", "text/html")):
            answer = await client.get(path)
            assert (answer.status, answer.content_type) == (200, kind)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe-inline" not in answer.headers["Content-Security-Policy"] or path == "/overlay"
        for name in ("../hub.py", "%2e%2e%2fhub.py", "vendor/..%2f..%2fhub.py", "vendor/../../hub.py", "none.js"):
            assert " 404 " in (await raw(url, f"/static/{name}")).splitlines()[0]


@pytest.mark.parametrize(
    ("broker", "may"),
    [("", "'self'"), ("wss://broker:9001/mqtt", "'self' wss://broker:9001"), ("ws://Broker", "'self' ws://broker")],
)
async def test_the_overlay_may_listen_to_the_configs_broker_alone(tmp_path: Path, broker: str, may: str) -> None:
    overlay = tmp_path / "overlay.toml"
    overlay.write_text(f'[mqtt]\nurl = "{broker}"')
    config = ServeConfig(0, overlay=overlay)
    async with (
        serve(config, Metrics(), lambda: None, Hub(HELLO), None) as url,
        aiohttp.ClientSession(url) as client,
        client.get("/overlay") as answer,
    ):
        assert answer.headers["Content-Security-Policy"].split("connect-src ")[1] == may


async def test_the_preview_is_encoded_for_viewers_alone_and_each_sees_the_newest() -> None:
    hub = Hub(HELLO)
    wanted: list[bool] = []
    hub.viewers = wanted.append
    async with served(hub=hub) as (_, client):
        async with client.get("/preview") as answer:
            assert answer.content_type == "multipart/x-mixed-replace"
            await eventually(lambda: wanted == [True])
            hub.picture(b"JPEG")
            text = b""
            while text.count(b"--picture") < 2:
                text += await asyncio.wait_for(answer.content.readany(), 5)
            assert b"Content-Length: 4\r\n\r\nJPEG\r\n--picture\r\n" in text
            answer.close()
        await eventually(lambda: wanted == [True, False])
    async with served(hub=Hub({**HELLO, "preview": False})) as (_, client):
        assert (await client.get("/preview")).status == 404


async def test_who_supervises_sees_whether_it_is_ready() -> None:
    async with served(ready="the source is not open") as (_, client):
        answer = await client.get("/readyz")
        assert (answer.status, await answer.text()) == (503, "the source is not open\n")
    async with served() as (_, client), client.get("/events") as events:
        await events.content.readany()
        assert (await client.get("/readyz")).status == 200
        metrics = await (await client.get("/metrics")).text()
        assert "touchline_page_clients 1.0" in metrics


async def test_exemplars_are_for_whoever_accepts_openmetrics() -> None:
    async with served() as (_, client):
        plain = await client.get("/metrics")
        assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "# EOF" not in await plain.text()
        openmetrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await openmetrics.text()).endswith("# EOF\n")
