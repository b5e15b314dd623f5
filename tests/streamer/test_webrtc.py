"""WebRTC, published to us or pulled by us; the senders are aiortc, Chromium and FFmpeg."""

import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlencode

import aiohttp
import av
import numpy as np
import pytest
from aioice.ice import get_host_addresses
from hypothesis import given
from hypothesis import strategies as st
from webrtc_sender import Publisher, Sender, WhepServer

from engines.errors import UsageError
from streamer.sources.base import Frame, PictureSpec, SourceFault
from streamer.sources.handover import Handover
from streamer.sources.peer import Gate, is_key_picture
from streamer.sources.picture import AvPicture
from streamer.sources.webrtc import WebRtcSource, publish_endpoint, pull
from streamer.sources.whip import Place, WhipEndpoint

pytestmark = pytest.mark.skipif(
    not get_host_addresses(use_ipv4=True, use_ipv6=True), reason="there is no network address but loopback"
)

SPEC = PictureSpec(rate=25, width=16, height=9)
ANYWHERE = "whip://127.0.0.1:0/live"
SDP = {"Content-Type": "application/sdp"}


def published(publisher: Publisher) -> WebRtcSource:
    return publish_endpoint(ANYWHERE, token=None, listening=publisher.publish_soon)


def read(source: WebRtcSource, seconds: float) -> list[Frame]:
    end_s = time.monotonic() + seconds
    return list(takewhile(lambda _: time.monotonic() < end_s, source.frames()))


def later_s(pts: int | None, than: int | None) -> float:
    """Return how much later a timestamp is than another, on a clock that wraps."""
    assert pts is not None
    assert than is not None
    return ((pts - than + 2**31) % 2**32 - 2**31) / 90_000


def flashes_and_tones(frames: list[Frame]) -> tuple[list[float], list[float]]:
    """Return when pictures become white, and when a tone begins, on the frames' own clock."""
    zero = next(frame.pts for frame in frames if frame.picture is not None)
    flashes, tones, white, loud = [], [], True, True
    for frame in frames:
        at_s = later_s(frame.pts, zero)
        if frame.picture is not None:
            before, white = white, bool(frame.picture.rgb(SPEC).mean() > 180)
            flashes += [at_s] if white and not before else []
        elif frame.samples is not None:
            hot = np.abs(frame.samples) > 0.1
            before, loud = loud, bool(hot.any())
            tones += [at_s + float(hot.argmax()) / 16_000] if loud and not before else []
    return flashes, tones


def offsets_s(frames: list[Frame]) -> list[float]:
    """Return by how much the tone next to each white picture is off it."""
    flashes, tones = flashes_and_tones(frames)
    assert flashes
    assert tones
    return [min((tone - flash for tone in tones), key=abs) for flash in flashes[1:-1]]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


# --- published to us


def test_sound_that_was_late_on_its_way_is_put_beside_its_pictures_by_the_senders_reports() -> None:
    with Publisher(late_s=0.4) as publisher:
        source = published(publisher)
        try:
            frames = read(source, 6)
        finally:
            source.close()
    assert source.info.container == "webrtc"
    assert (source.info.video, source.info.audio) == ("h264", "opus")
    assert (source.info.width, source.info.height, source.info.recording) == (320, 180, False)
    assert {frame.wraps_at for frame in frames} == {2**32}
    assert source.decode_errors == 0
    first_report = next(i for i, f in enumerate(frames) if f.wall is not None)
    late = offsets_s(frames[first_report:])[2:]
    assert late
    assert abs(median(late)) < 0.1


def test_pictures_carry_the_senders_wall_clock_once_it_has_reported() -> None:
    with Publisher() as publisher:
        source = published(publisher)
        try:
            frames = [frame for frame in read(source, 2.5) if frame.picture is not None]
        finally:
            source.close()
    assert frames[0].wall is None
    assert frames[-1].wall is not None
    assert frames[-1].wall.clock == "rtcp"
    assert abs(frames[-1].wall.utc_us / 1e6 - time.time()) < 3
    steps = [later_s(b.pts, a.pts) for a, b in pairwise(frames)]
    assert steps == pytest.approx([0.04] * len(steps))


def test_the_stream_ends_when_the_publisher_says_goodbye_and_nothing_is_left_behind() -> None:
    with Publisher() as warm_up:
        published(warm_up).close()
    before, others = descriptors(), set(threading.enumerate())
    with Publisher() as publisher:
        source = published(publisher)
        frames = source.frames()
        next(frames)
        assert publisher.say_goodbye() == 200
        assert len(list(frames)) < 100
        source.close()
        source.close()
    assert descriptors() <= before
    assert [t.name for t in threading.enumerate() if t not in others] == []


def test_a_publisher_that_crashes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.3)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 2)
    with Publisher() as publisher:
        source = published(publisher)
        publisher.freeze(6)
        try:
            with pytest.raises(SourceFault, match="connection to the publisher was lost") as fault:
                list(source.frames())
            assert fault.value.cause == "broke_off"
        finally:
            source.close()


def test_a_publisher_that_answers_no_ice_is_listened_to_as_long_as_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.2)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 2)
    with Publisher() as publisher:
        source = published(publisher)
        publisher.answer_no_ice()
        try:
            assert len([frame for frame in read(source, 2.5) if frame.picture is not None]) > 40
        finally:
            source.close()


def test_a_reader_that_is_late_loses_the_oldest_pictures_and_they_are_counted() -> None:
    with Publisher() as publisher:
        source = published(publisher)
        try:
            first = next(source.frames())
            time.sleep(2.5)
            waiting = read(source, 0.02)
            pictures = [frame for frame in waiting if frame.picture is not None]
            assert source.skipped > 25
            assert len(pictures) < 30
            assert later_s(pictures[0].pts, first.pts) > 1
            pts = [frame.pts for frame in pictures]
            assert all(later_s(b, a) > 0 for a, b in pairwise(pts))
        finally:
            source.close()


def test_skipping_leaves_out_pictures_up_to_the_next_key_frame() -> None:
    with Publisher() as publisher:
        source = published(publisher)
        try:
            first = next(source.frames())
            source.skip()
            pts = [first.pts] + [frame.pts for frame in read(source, 2.5) if frame.picture is not None]
            assert 0 < source.skipped <= 30
            assert max(later_s(b, a) for a, b in pairwise(pts)) > 0.07
            assert later_s(pts[-1], pts[0]) > 1.5
        finally:
            source.close()


def test_a_second_publisher_is_refused_until_the_first_has_been_silent_for_five_seconds() -> None:
    address: list[str] = []
    with Publisher() as first, Publisher() as second:

        def come(url: str) -> None:
            address.append(url)
            first.publish_soon(url)

        source = publish_endpoint(ANYWHERE, token=None, listening=come)
        try:
            assert second.publish(address[0]) == 409
            first.set_silent()
            start_s = time.monotonic()
            while second.publish(address[0]) == 409:
                assert time.monotonic() - start_s < 15
                time.sleep(0.5)
            assert time.monotonic() - start_s > 4
            source.skip()
            assert any(frame.picture is not None for frame in read(source, 2))
        finally:
            source.close()


def test_a_token_is_needed_and_must_be_right() -> None:
    statuses: list[int] = []
    with Publisher() as publisher:

        def come(url: str) -> None:
            threading.Thread(
                target=lambda: statuses.extend(publisher.publish(url, t) for t in (None, "wrong", "right"))
            ).start()

        publish_endpoint(ANYWHERE, token="right", listening=come).close()
    assert statuses == [401, 401, 201]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]", "127.example.org", "localhost.example.org"])
def test_an_address_that_is_open_to_the_network_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="TOUCHLINE_TOKEN"):
        publish_endpoint(f"whip://{host}:0/live", token=None, listening=print)
    assert Place.of(f"whip://{host}:0/live", "token").port == 0


@pytest.mark.parametrize(
    "url", ["whip://127.0.0.1/live", "whip://:8080/live", "whip://127.0.0.1:70000/x", "whip://[::/x"]
)
def test_an_address_that_says_too_little_is_a_users_mistake(url: str) -> None:
    with pytest.raises(UsageError):
        publish_endpoint(url, token=None, listening=print)


def test_a_port_that_is_taken_is_said_in_a_sentence(free_port: int) -> None:
    with Publisher() as publisher:
        url = f"whip://127.0.0.1:{free_port}/live"
        source = publish_endpoint(url, token=None, listening=publisher.publish_soon)
        try:
            with pytest.raises(SourceFault, match=f"127.0.0.1:{free_port} cannot be listened on"):
                publish_endpoint(url, token=None, listening=print)
        finally:
            source.close()


# --- what WHIP asks of an endpoint


@asynccontextmanager
async def endpoint() -> AsyncIterator[tuple[aiohttp.ClientSession, str, Handover]]:
    handover, address = Handover(), [""]
    served = WhipEndpoint(Place.of(ANYWHERE, None), None, handover, lambda url: address.__setitem__(0, url))
    await served.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, address[0], handover
    finally:
        await served.close()


async def an_offer(*, sound: bool = True) -> str:
    sender = Sender(sound=sound)
    try:
        return await sender.offer()
    finally:
        await sender.close()


async def test_a_browser_page_from_elsewhere_may_publish() -> None:
    async with endpoint() as (http, url, _):
        async with http.options(url, headers={"Origin": "https://example.org"}) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
            assert response.headers["Accept-Post"] == "application/sdp"
        async with http.post(url, data="x", headers=SDP) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_an_offer_is_answered_with_all_candidates_and_a_session_to_delete() -> None:
    async with endpoint() as (http, url, _):
        async with http.post(url, data=await an_offer(), headers=SDP) as response:
            assert (response.status, response.content_type) == (201, "application/sdp")
            answer = await response.text()
            session, tag = (
                response.url.join(response.url.with_path(response.headers["Location"])),
                response.headers["ETag"],
            )
        assert "a=candidate:" in answer
        assert "a=recvonly" in answer
        assert answer.index("H264/90000") < answer.index("rtx/90000")
        fragment = {"Content-Type": "application/trickle-ice-sdpfrag"}
        candidate = "a=mid:0\r\na=candidate:1 1 udp 2130706431 192.0.2.9 40000 typ host\r\n"
        for headers, body, status in [
            ({**fragment, "If-Match": tag}, candidate, 204),
            (fragment, candidate, 204),
            ({**fragment, "If-Match": '"another"'}, candidate, 412),
            ({**fragment, "If-Match": "*"}, "a=ice-ufrag:ABCD\r\na=ice-pwd:x\r\n", 422),
            (fragment, "a=candidate:nonsense", 400),
            (SDP, candidate, 415),
        ]:
            async with http.patch(session, data=body, headers=headers) as response:
                assert response.status == status
        async with http.get(session) as response:
            assert response.status == 405
        async with http.delete(session) as response:
            assert response.status == 200
        async with http.delete(session) as response:
            assert response.status == 404


async def test_what_is_no_offer_of_a_video_is_refused_in_a_sentence() -> None:
    offer = await an_offer()
    start, video, sound = offer[: offer.index("m=video")], offer[offer.index("m=video") : offer.index("m=audio")], ""
    sound = offer[offer.index("m=audio") :]
    unknown = offer.replace("H264/90000", "AV1/90000").replace("VP8/90000", "AV1/90000")
    async with endpoint() as (http, url, _):
        for headers, body, status, sentence in [
            ({"Content-Type": "text/plain"}, offer, 415, "application/sdp"),
            (SDP, "hello", 400, "no video"),
            (SDP, b"\xff\xfe", 400, "no text"),
            (SDP, start + "m=video 9 x\r\n" + sound, 400, "no offer that can be understood"),
            (SDP, start.replace("BUNDLE 0 1", "BUNDLE 1") + sound, 400, "no video"),
            (SDP, offer.replace("a=sendonly", "a=recvonly"), 400, "no video"),
            (SDP, offer + video.replace("a=mid:0", "a=mid:2"), 406, "more than one"),
            (SDP, unknown, 406, "H.264"),
            (SDP, offer.replace("a=ice-pwd", "a=ice-xxx"), 400, "no offer that can be understood"),
            (SDP, offer + "x" * 100_000, 413, ""),
        ]:
            async with http.post(url, data=body, headers=headers) as response:
                answer = await response.text()
                assert response.status == status, answer
                assert sentence in answer, body
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            async with http.request(method, url) as response:
                assert response.status == 405
        async with http.post(url + "/elsewhere", data=offer, headers=SDP) as response:
            assert response.status == 404


async def test_no_offer_however_broken_is_the_endpoints_own_fault(caplog: pytest.LogCaptureFixture) -> None:
    lines = (await an_offer(sound=False)).splitlines(keepends=True)

    async def try_all(offers: list[str]) -> set[int]:
        statuses = set()
        async with endpoint() as (http, url, _):
            for offer in offers:
                async with http.post(url, data=offer, headers=SDP) as response:
                    statuses.add(response.status)
                    if response.status == 201:
                        session = response.url.with_path(response.headers["Location"])
                        await (await http.delete(session)).release()
        return statuses

    left_out = ["".join(lines[:i] + lines[i + 1 :]) for i in range(len(lines))]
    emptied = ["".join([*lines[:i], lines[i].split(":")[0] + ":\r\n", *lines[i + 1 :]]) for i in range(len(lines))]
    assert await try_all(left_out + emptied) <= {201, 400, 406}
    assert not [record for record in caplog.records if record.exc_info]


# --- pulled by us


def test_a_stream_is_pulled_and_left_with_a_word() -> None:
    before = descriptors()
    with WhepServer(token="right") as server:
        with pytest.raises(SourceFault, match=r"wants another token") as fault:
            pull(server.url + "/stream", token=None)
        assert fault.value.cause == "no_media"
        source = pull(server.url + "/stream?key=secret", token="right")
        frames = read(source, 3)
        source.close()
        assert server.deleted == 1
    assert source.info.audio == "opus"
    assert len([frame for frame in frames if frame.picture is not None]) > 40
    assert abs(median(offsets_s(frames))) < 0.1
    assert descriptors() <= before


def test_a_server_that_refuses_sound_is_asked_for_the_picture_alone() -> None:
    with WhepServer(sound=False) as server:
        source = pull(server.url + "/stream", token=None)
        frames = read(source, 1)
        source.close()
    assert source.info.audio is None
    assert frames
    assert all(frame.picture is not None for frame in frames)


def test_a_stream_whose_server_ends_it_ends() -> None:
    with WhepServer() as server:
        source = pull(server.url + "/stream", token=None)
        next(source.frames())
    try:
        list(source.frames())
    finally:
        source.close()


def test_a_server_without_a_stream_is_a_fault_of_its_kind(free_port: int) -> None:
    with WhepServer() as server:
        for path, cause, sentence in [
            ("/nothing?key=secret", "no_media", "no stream there"),
            ("/page", "no_media", "speaks no WHEP"),
            ("/broken", "no_media", "cannot be understood"),
            ("/busy", "unreachable", "in trouble"),
        ]:
            with pytest.raises(SourceFault, match=sentence) as fault:
                pull(server.url + path, token="token")
            assert fault.value.cause == cause
            assert "secret" not in str(fault.value)
    for url in (
        f"whep://127.0.0.1:{free_port}/x",
        "wheps://127.0.0.1:1/x",
        "whep://no-such-host.invalid/x",
        "whep://[::/x",
    ):
        with pytest.raises(SourceFault) as fault:
            pull(url, token=None)
        assert fault.value.cause == "unreachable"


async def test_a_machine_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = await an_offer()
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [])
    async with endpoint() as (http, url, _), http.post(url, data=offer, headers=SDP) as response:
        assert (response.status, "no network address" in await response.text()) == (503, True)
    with pytest.raises(SourceFault, match="no network address"):
        pull("whep://127.0.0.1:1/x", token=None)


# --- published by real programs


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def started() -> Iterator[Callable[..., None]]:
    """Start a program in a process group of its own; it ends with the block."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        quiet = subprocess.DEVNULL
        running.append(subprocess.Popen(arguments, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True))

    try:
        yield start
    finally:
        for process in running:
            os.killpg(process.pid, 9)
            process.wait()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("codec", "name"), [("H264", "h264"), ("VP8", "vp8")])
def test_a_browser_publishes_its_camera(root: Path, tmp_path: Path, codec: str, name: str) -> None:
    assert CHROMIUM is not None
    flags = (
        "--headless=new --no-sandbox --use-fake-device-for-media-stream --use-fake-ui-for-media-stream "
        "--autoplay-policy=no-user-gesture-required --disable-gpu --disable-dev-shm-usage"
    )
    with pages(root / "tests" / "pages") as site, started() as start:

        def come(whip: str) -> None:
            query = urlencode({"whip": whip, "codec": codec, "seconds": 3, "token": "right"})
            start(CHROMIUM or "", *flags.split(), f"--user-data-dir={tmp_path}", f"{site}/publish.html?{query}")

        source = publish_endpoint(ANYWHERE, token="right", listening=come)
        try:
            frames = list(source.frames())
        finally:
            source.close()
    assert (source.info.video, source.info.audio) == (name, "opus")
    pictures = [frame for frame in frames if frame.picture is not None]
    assert len(pictures) > 30
    assert pictures[-1].wall is not None
    assert abs(pictures[-1].wall.utc_us / 1e6 - time.time()) < 10
    assert pictures[-1].picture is not None
    assert pictures[-1].picture.rgb(SPEC).mean() > 20
    assert max(np.abs(frame.samples).max() for frame in frames if frame.samples is not None) > 0.05


def test_ffmpeg_publishes_a_file(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    program = imageio_ffmpeg.get_ffmpeg_exe()
    made = "-f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440 -t 5"
    video = "-c:v libx264 -profile:v baseline -preset ultrafast -tune zerolatency -g 25 -bf 0 -pix_fmt yuv420p"
    clip = str(tmp_path / "clip.mkv")
    sound = "-c:a libopus -ar 48000 -ac 2"
    subprocess.run([program, "-v", "error", *made.split(), *video.split(), *sound.split(), clip], check=True)
    with started() as start:

        def come(whip: str) -> None:
            start(program, "-v", "error", "-re", "-i", clip, "-c", "copy", "-f", "whip", whip)

        source = publish_endpoint(ANYWHERE, token=None, listening=come)
        try:
            frames = list(source.frames())
        finally:
            source.close()
    assert (source.info.video, source.info.audio) == ("h264", "opus")
    assert len([frame for frame in frames if frame.picture is not None]) > 80
    assert len([frame for frame in frames if frame.samples is not None]) > 150


# --- parts


def a_frame(n: int, kind: str) -> Frame:
    if kind == "picture":
        return Frame(n, Fraction(1, 90_000), picture=AvPicture(av.VideoFrame(16, 16)))
    return Frame(n, Fraction(1, 90_000), samples=np.zeros(1, np.float32))


@given(st.lists(st.sampled_from(["picture", "sound", "read"]), max_size=200), st.integers(0, 40), st.integers(0, 300))
def test_what_waits_for_a_reader_is_bounded_in_order_and_the_newest(
    steps: list[str], pictures: int, sound: int
) -> None:
    handover, waiting, expected, taken = Handover(), [], [], []
    frames = handover.frames()
    for n, step in enumerate(["picture"] * pictures + ["sound"] * sound + steps):
        if step != "read":
            handover.put(a_frame(n, step))
            waiting.append((n, step))
            same = [w for w in waiting if w[1] == step]
            if len(same) > (25 if step == "picture" else 250):
                waiting.remove(same[0])
        elif waiting:
            taken.append(next(frames).pts)
            expected.append(waiting.pop(0)[0])
    handover.end()
    assert taken == expected
    assert [frame.pts for frame in frames] == [n for n, _ in waiting]


def test_what_went_wrong_is_raised_after_the_last_frame() -> None:
    handover = Handover()
    handover.put(a_frame(1, "picture"))
    handover.end(SourceFault("Gone.", "broke_off"))
    handover.end()
    frames = handover.frames()
    assert next(frames).pts == 1
    with pytest.raises(SourceFault, match="Gone"):
        next(frames)


class Encoded(NamedTuple):
    data: bytes


class Codec(NamedTuple):
    name: str = "VP8"


KEY, DELTA = (Codec(), Encoded(b"\0")), (Codec(), Encoded(b"\1"))


def test_what_waits_for_the_decoder_is_bounded_and_goes_on_with_a_key_picture() -> None:
    handover = Handover()
    gate = Gate(handover)
    for picture in [KEY] + [DELTA] * 100 + [KEY]:
        gate.put(picture)
    assert gate.qsize() == 50
    assert handover.skipped == 52
    while not gate.empty():
        gate.get()
    for picture in (DELTA, KEY, DELTA):
        gate.put(picture)
    assert [gate.get() for _ in range(gate.qsize())] == [KEY, DELTA]
    gate.skipping = True
    gate.put(DELTA)
    gate.put(None)
    assert gate.get() is None


@pytest.mark.parametrize(
    ("codec", "data", "key"),
    [
        ("h264", b"\0\0\0\1\x67\x42\0\0\0\1\x68\0\0\0\1\x65\x88", True),
        ("h264", b"\0\0\1\x06\x05\0\0\1\x65\x88", True),
        ("h264", b"\0\0\0\1\x41\x9a\x65", False),
        ("h264", b"", False),
        ("vp8", b"\x10\x02", True),
        ("vp8", b"\x11\x02", False),
        ("vp8", b"", False),
    ],
)
def test_a_key_picture_is_known_undecoded(codec: str, data: bytes, key: bool) -> None:
    assert is_key_picture(codec, data) is key
