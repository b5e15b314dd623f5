"""Who sends WebRTC in tests: a white picture and a tone at the same instants, once a second, by aiortc."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from fractions import Fraction
from functools import cache
from typing import Any, TypeVar

import aiohttp
import av
import numpy as np
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

T = TypeVar("T")

SIZE = (320, 180)
RATE_FPS = 25
FLASH_S = 0.16
LEAVE_S = 2.0


@cache
def flashes() -> list[bytes]:
    """Return a second of H.264, a packet a picture: white for the first FLASH_S, then a grey that moves."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height = SIZE
    codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", Fraction(1, RATE_FPS), Fraction(RATE_FPS)
    codec.gop_size, codec.bit_rate = RATE_FPS, 500_000
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "level": "3.1"}
    packets = []
    for n in range(RATE_FPS):
        picture = np.full((SIZE[1], SIZE[0], 3), 255 if n / RATE_FPS < FLASH_S else 60, np.uint8)
        picture[:20, 10 * n : 10 * n + 20] = 120
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = n
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets + [bytes(packet) for packet in codec.encode(None)]


class Flashes(MediaStreamTrack):
    """Sends pictures in time; none while `silent`."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.silent = asyncio.Event()
        self._start_s = time.monotonic()
        self._n = 0

    async def recv(self) -> Any:
        await _until(self._start_s + self._n / RATE_FPS, self.silent)
        packet = av.Packet(flashes()[self._n % RATE_FPS])
        packet.pts, packet.time_base = self._n * 90_000 // RATE_FPS, Fraction(1, 90_000)
        self._n += 1
        return packet


class Tones(MediaStreamTrack):
    """Sends sound, `late_s` after its time; none while `silent`."""

    kind = "audio"

    def __init__(self, late_s: float) -> None:
        super().__init__()
        self.silent = asyncio.Event()
        self._start_s = time.monotonic() + late_s
        self._n = 0

    async def recv(self) -> Any:
        await _until(self._start_s + self._n / 50, self.silent)
        at_s = (self._n * 960 + np.arange(960)) / 48_000
        tone = np.where(at_s % 1 < FLASH_S, np.sin(2 * np.pi * 1000 * at_s), 0) * 10_000
        frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
        frame.pts, frame.sample_rate, frame.time_base = self._n * 960, 48_000, Fraction(1, 48_000)
        self._n += 1
        return frame


async def _until(due_s: float, silent: asyncio.Event) -> None:
    await asyncio.sleep(due_s - time.monotonic())
    while silent.is_set():
        await asyncio.sleep(0.05)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 20.0) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def close(self) -> None:
        self.run(_end_tasks())
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Sender:
    """A connection that sends.

    Args:
        late_s: how late sound is on its way; the sender reports say when it was taken.
        sound: whether there is any.
    """

    def __init__(self, late_s: float = 0.0, *, sound: bool = True) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: list[Flashes | Tones] = [Flashes(), Tones(late_s)] if sound else [Flashes()]
        for track in self.tracks:
            sender = self.peer.addTrack(track)
            if isinstance(track, Tones):
                _report_earlier(sender, late_s)
        first = self.peer.getTransceivers()[0]
        known = RTCRtpSender.getCapabilities("video")
        assert known is not None
        first.setCodecPreferences([c for c in known.codecs if c.mimeType in ("video/H264", "video/rtx")])

    async def offer(self) -> str:
        for transceiver in self.peer.getTransceivers():
            transceiver.direction = "sendonly"
        await self.peer.setLocalDescription()
        return self.peer.localDescription.sdp

    async def accept(self, answer: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def answer(self, offer: str) -> str:
        await self.peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.peer.setLocalDescription()
        return self.peer.localDescription.sdp

    def set_silent(self) -> None:
        for track in self.tracks:
            track.silent.set()

    async def close(self) -> None:
        await self.peer.close()


def _report_earlier(sender: RTCRtpSender, by_s: float) -> None:
    send = sender._send_rtcp

    async def send_earlier(packets: list[Any]) -> None:
        for packet in packets:
            if getattr(packet, "sender_info", None) is not None and packet.sender_info.ntp_timestamp:
                packet.sender_info.ntp_timestamp -= int(by_s * 2**32)
        await send(packets)

    setattr(sender, "_send_rtcp", send_earlier)  # noqa: B010


class Publisher:
    """Publishes by WHIP, from a loop of its own; use as a context manager."""

    def __init__(self, late_s: float = 0.0) -> None:
        self._late_s = late_s
        self._loop = Loop()
        self._sender: Sender | None = None
        self._session: str | None = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._close())
        self._loop.close()

    def publish(self, url: str, token: str | None = None) -> int:
        """Publish; return the status."""
        return self._loop.run(self._publish(url, token))

    async def _publish(self, url: str, token: str | None) -> int:
        sender = Sender(self._late_s)
        try:
            status = await self._offer(sender, url, token)
        except BaseException:
            await sender.close()
            raise
        if status == 201:
            self._sender = sender
        else:
            await sender.close()
        return status

    async def _offer(self, sender: Sender, url: str, token: str | None) -> int:
        headers = {"Content-Type": "application/sdp"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=await sender.offer(), headers=headers) as response,
        ):
            if response.status == 201:
                await sender.accept(await response.text())
                self._session = str(response.url.join(response.url.with_path(response.headers["Location"])))
            return response.status

    def publish_soon(self, url: str) -> None:
        """Publish, without waiting."""
        asyncio.run_coroutine_threadsafe(self._publish(url, None), self._loop.loop)

    def set_silent(self) -> None:
        assert self._sender is not None
        self._loop.loop.call_soon_threadsafe(self._sender.set_silent)

    def freeze(self, seconds: float) -> None:
        """Do nothing at all for a while, as a machine that has crashed."""
        self._loop.loop.call_soon_threadsafe(time.sleep, seconds)

    def answer_no_ice(self) -> None:
        """Send on, but leave the receiver's questions for consent unanswered, as FFmpeg does."""
        assert self._sender is not None
        connection = self._sender.peer.getSenders()[0].transport.transport._connection
        setattr(connection, "request_received", lambda *_: None)  # noqa: B010

    def say_goodbye(self) -> int:
        """End the session as WHIP wants it; return the status."""

        async def delete() -> int:
            assert self._session is not None
            async with aiohttp.ClientSession() as http, http.delete(self._session) as response:
                return response.status

        return self._loop.run(delete())

    async def _close(self) -> None:
        if self._sender is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sender.close(), LEAVE_S)


class WhepServer:
    """Sends to whoever asks, from a loop of its own; use as a context manager.

    Args:
        sound: whether it has any; if not, it refuses the offer's.
        token: what it wants to be shown.
    """

    def __init__(self, *, sound: bool = True, token: str | None = None) -> None:
        self._sound, self._token = sound, token
        self._loop = Loop()
        self._senders: list[Sender] = []
        self.deleted = 0
        self.url = ""

    def __enter__(self) -> "WhepServer":
        self._loop.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._close())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/stream", self._play),
                web.delete("/session", self._delete),
                web.post("/page", _always(text="<html>", content_type="text/html")),
                web.post("/broken", _always(text="v=0\n", content_type="application/sdp")),
                web.post("/busy", _always(status=503)),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"whep://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _play(self, request: web.Request) -> web.Response:
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.Response(status=401)
        sender = Sender(sound=self._sound)
        self._senders.append(sender)
        answer = await sender.answer(await request.text())
        if not self._sound and "m=audio" in answer:
            answer = answer[: answer.index("m=audio")] + "m=audio 0 UDP/TLS/RTP/SAVPF 0\r\na=mid:1\r\na=inactive\r\n"
        return web.Response(status=201, text=answer, content_type="application/sdp", headers={"Location": "session"})

    async def _delete(self, _: web.Request) -> web.Response:
        self.deleted += 1
        return web.Response()

    async def _close(self) -> None:
        for sender in self._senders:
            await sender.close()
        await self._runner.cleanup()


def _always(**answer: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def respond(_: web.Request) -> web.Response:
        return web.Response(**answer)

    return respond
