"""Every protocol, from a real server or sender on loopback to whole seconds, all at once.

Each is read by a process of its own, since a source has no time limits. `pytest -rP` shows how long each took.
"""

import re
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
import reader
import servers
from reader import Seen
from servers import RATE, Server

SECONDS = 3
RTCP_SECONDS = 6
"""A sender's first report comes after two or three seconds."""


@dataclass
class Case:
    """A protocol.

    Attributes:
        serve: what to start; its URL is read.
        seconds: to read.
        options: for FFmpeg.
        late: a sender that is to be started when we listen already.
    """

    serve: Callable[[Path, Path], Server]
    seconds: int = SECONDS
    options: Mapping[str, str] = field(default_factory=dict)
    late: bool = False


def _file(media: Path, folder: Path) -> Server:
    return Server(str(media))


def _http(media: Path, folder: Path) -> Server:
    web = servers.http_server(media.parent)
    return Server(f"{web.url}/{media.name}", parts=[web])


def _hls_vod(media: Path, folder: Path) -> Server:
    web = servers.http_server(folder)
    return Server(f"{web.url}/{servers.hls_recording(media, folder).name}", parts=[web])


def _hls_live(media: Path, folder: Path) -> Server:
    return servers.hls_origin(media, folder)


def _multicast(media: Path, folder: Path) -> Server:
    return servers.udp_sender(media, folder, "239.255.77.7")


CASES = {
    "file": Case(_file),
    "http": Case(_http),
    "hls-live": Case(_hls_live),
    "hls-live-fmp4": Case(lambda media, folder: servers.hls_origin(media, folder, kind="fmp4")),
    "hls-vod": Case(_hls_vod),
    "rtsp-tcp": Case(servers.rtsp_server, RTCP_SECONDS),
    "rtsp-udp": Case(servers.rtsp_server, RTCP_SECONDS, {"rtsp_transport": "udp"}),
    "rtmp-pull": Case(servers.rtmp_server),
    "rtmp-listen": Case(servers.rtmp_encoder, late=True),
    "udp": Case(servers.udp_sender, late=True),
    "udp-multicast": Case(_multicast),
    "rtp": Case(servers.rtp_sender),
    "tcp-connect": Case(lambda media, folder: servers.tcp_sender(media, folder, calls=False)),
    "tcp-listen": Case(lambda media, folder: servers.tcp_sender(media, folder, calls=True), late=True),
    "srt-caller": Case(lambda media, folder: servers.srt_sender(media, folder, calls=False)),
    "srt-listener": Case(lambda media, folder: servers.srt_sender(media, folder, calls=True), late=True),
}
LISTENING = {"rtmp-listen", "udp", "udp-multicast", "rtp", "tcp-listen", "srt-listener"}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.broadcast(tmp_path_factory.mktemp("media") / "broadcast.ts", 60)


@dataclass
class Found:
    """What every reader saw (or why it was skipped), and when picture 0 of the live HLS streams was sent."""

    seen: dict[str, Seen | str]
    hls_start_us: dict[str, int]


@pytest.fixture(scope="module")
def found(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Read them all at once."""
    result, folders = Found({}, {}), {}
    now: dict[str, Server] = {}
    late: dict[str, Server] = {}
    for name, case in CASES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        try:
            (late if case.late else now)[name] = case.serve(media, folders[name])
        except pytest.skip.Exception as reason:
            result.seen[name] = str(reason)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        for server in [*now.values(), *late.values()]:
            stack.callback(server.kill)
        list(pool.map(Server.start, now.values()))
        readers = {}
        for name, server in {**now, **late}.items():
            readers[name] = reader.start(server.url, CASES[name].seconds, CASES[name].options)
            stack.callback(reader.kill, readers[name])
        list(pool.map(Server.start, late.values()))
        result.seen |= {name: reader.finish(process) for name, process in readers.items()}
        for name in {"hls-live", "hls-live-fmp4"} & set(readers):
            result.hls_start_us[name] = hls_start_us((folders[name] / "live.m3u8").read_text())
    return result


def hls_start_us(playlist: str) -> int:
    """Return the wall clock of picture 0: segments last a second, and say their number and date."""
    number = int(re.findall(r"^live(\d+)\.", playlist, re.M)[0])
    date = datetime.fromisoformat(re.findall(r"DATE-TIME:(.*)", playlist)[0])
    return round((date.timestamp() - number) * 1e6)


def seen_of(found: Found, name: str) -> Seen:
    seen = found.seen[name]
    if isinstance(seen, str):
        pytest.skip(seen)
    assert not seen.error, seen.error
    return seen


@pytest.mark.parametrize("name", CASES)
def test_a_protocol_gives_whole_seconds_of_pictures_and_sound(found: Found, name: str) -> None:
    seen = seen_of(found, name)
    clocks = {str(clock) for *_, clock, _ in seen.pictures}
    print(f"{name}: open {seen.open_s:.2f} s, first second {seen.first_s:.2f} s, wall clock {'/'.join(sorted(clocks))}")
    assert [index for index, *_ in seen.seconds] == list(range(CASES[name].seconds))
    assert all(video >= 0.5 for _, video, _ in seen.seconds)
    assert all(audio > 0.9 for *_, audio in seen.seconds[1:])  # the first one may begin before its sound


@pytest.mark.parametrize("name", CASES)
def test_media_time_is_the_pictures_own(found: Found, name: str) -> None:
    """A picture's number says where it is, whatever way it came."""
    pictures = seen_of(found, name).pictures
    starts = [pts_s - number / RATE for number, pts_s, *_ in pictures]
    assert max(starts) - min(starts) < 0.05
    assert [number for number, *_ in pictures] == sorted({number for number, *_ in pictures})


@pytest.mark.parametrize("name", CASES)
def test_who_waits_for_a_sender_says_where(found: Found, name: str) -> None:
    seen = seen_of(found, name)
    assert len(seen.addresses) == (name in LISTENING)
    assert not any("?" in address for address in seen.addresses)


@pytest.mark.parametrize("name", ["hls-live", "hls-live-fmp4"])
def test_hls_knows_when_a_picture_was_taken(found: Found, name: str) -> None:
    seen = seen_of(found, name)
    dated = [(number, utc_us) for number, _, utc_us, clock, _ in seen.pictures if clock == "hls" and utc_us]
    assert len(dated) > len(seen.pictures) // 2
    start_us = found.hls_start_us[name]
    assert all(abs(utc_us - start_us - number * 1_000_000 // RATE) < 100_000 for number, utc_us in dated)


@pytest.mark.parametrize("name", ["rtsp-tcp", "rtsp-udp"])
def test_rtsp_knows_when_a_picture_was_taken_once_the_sender_has_reported(found: Found, name: str) -> None:
    seen = seen_of(found, name)
    dated = [
        (number, utc_us, now_us) for number, _, utc_us, clock, now_us in seen.pictures if clock == "rtcp" and utc_us
    ]
    assert {clock for *_, clock, _ in seen.pictures[-10:]} == {"rtcp"}
    starts = [utc_us - number * 1_000_000 // RATE for number, utc_us, _ in dated]
    assert max(starts) - min(starts) < 100_000
    assert all(-1_000_000 < now_us - utc_us < 5_000_000 for _, utc_us, now_us in dated)


def test_what_ends_and_what_comes_in_bursts_is_known(found: Found) -> None:
    ends = {name for name in CASES if not isinstance(found.seen[name], str) and seen_of(found, name).recording}
    assert ends <= {"file", "http", "hls-vod"}
    assert seen_of(found, "file").recording
    assert seen_of(found, "hls-vod").recording
    live = seen_of(found, "hls-live")
    assert not live.recording
    assert live.burst_s == 1.0


def test_standard_input_is_taken_up_in_the_middle_by_the_next_process(media: Path) -> None:
    servers.needs("cat")
    with subprocess.Popen(["cat", str(media)], stdout=subprocess.PIPE) as cat:
        try:
            first = reader.finish(reader.start("-", SECONDS, stdin=cat.stdout))
            second = reader.finish(reader.start("-", SECONDS, stdin=cat.stdout))
        finally:
            cat.kill()
    assert not first.error
    assert not second.error
    assert not first.recording
    assert len(second.seconds) == SECONDS
    assert second.pictures[0][0] > first.pictures[-1][0]
