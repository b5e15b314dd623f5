import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import UsageError
from streamer.sources import opening, srt
from streamer.sources.base import Source, SourceFault
from streamer.sources.opening import awaits_sender, open_source


@pytest.fixture
def few_seconds(short_sample: Path, tmp_path: Path) -> Path:
    path = tmp_path / "few-seconds.ts"
    path.write_bytes(short_sample.read_bytes()[: 188 * 2000])
    return path


def opened(url: str, stdin_fd: int | None = None, told: list[str] | None = None) -> Source:
    listening = (lambda _: None) if told is None else told.append
    return open_source(url, options={}, threads=1, listening=listening, stdin_fd=stdin_fd)


@pytest.mark.parametrize(
    ("url", "waits"),
    [
        ("match.ts", False),
        ("-", False),
        ("https://host/live.m3u8", False),
        ("rtsp://camera/main", False),
        ("rtmp://host/app/key", False),
        ("rtmp://0.0.0.0:1935/app/key?listen=1", True),
        ("rtmp://0.0.0.0:1935/app/key?listen=0", False),
        ("tcp://host:9000", False),
        ("tcp://0.0.0.0:9000?listen", True),
        ("tcp://0.0.0.0:9000?listen=1", True),
        ("udp://@239.1.1.1:5000", True),
        ("UDP://127.0.0.1:5000", True),
        ("rtp://127.0.0.1:5000", True),
        ("srt://host:9000", False),
        ("srt://host:9000?mode=listener", True),
        ("srt://:9000", True),
        ("srt://:9000?mode=caller", False),
        ("whip://127.0.0.1:8080/match", True),
        ("wheps://host/match", False),
    ],
)
def test_who_waits_for_a_sender_is_known_from_the_url(url: str, waits: bool) -> None:
    assert awaits_sender(url) is waits


@pytest.mark.parametrize(
    "url", ["", "pipe:7", "spam://host/x", "tcp://host", "udp://host/x", "srt://host", "http://[::1/x"]
)
def test_nonsense_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        opened(url)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"spam.*rtsp.*srt.*whip"):
        opened("spam://user:secret@host/x")


def test_no_sentence_shows_a_password(free_port: int) -> None:
    for url in (f"tcp://me:secret@127.0.0.1:{free_port}", f"http://me:secret@127.0.0.1:{free_port}/live.m3u8?k=secret"):
        with pytest.raises(SourceFault) as fault:
            opened(url)
        assert fault.value.cause == "unreachable"
        assert "secret" not in str(fault.value)


@given(st.text(max_size=40))
def test_no_text_trips_it(text: str) -> None:
    with suppress(UsageError):
        awaits_sender(f"srt://{text}")


def test_a_file_whose_name_looks_like_a_protocol_is_a_file(
    short_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rtmp:1.ts").write_bytes(short_sample.read_bytes())
    source = opened("rtmp:1.ts")
    source.close()
    assert source.info.recording


def test_standard_input_may_be_a_file_too(short_sample: Path) -> None:
    with short_sample.open("rb") as file:
        source = opened("-", file.fileno())
        first = next(frame for frame in source.frames() if frame.picture is not None)
        source.close()
    assert not source.info.recording, "it has the pace of whoever writes to it"
    assert first.picture is not None


def test_who_calls_and_says_nothing_does_not_keep_the_sender_out(
    short_sample: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_FIRST_BYTE_S", 0.3)
    called: list[str] = []
    found: list[Source] = []
    reader = threading.Thread(target=lambda: found.append(opened(f"tcp://127.0.0.1:{free_port}?listen=1", told=called)))
    reader.start()
    with _call(free_port), _call(free_port) as gone, _call(free_port) as sender:
        gone.close()
        sender.sendall(short_sample.read_bytes()[:400_000])
        reader.join(20)
    assert called == [f"tcp://127.0.0.1:{free_port}"]
    assert (found[0].info.video, found[0].info.recording) == ("h264", False)
    found[0].close()


def _call(port: int) -> socket.socket:
    until_s = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < until_s
            time.sleep(0.05)


def test_an_address_that_cannot_be_listened_on_is_one_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SourceFault, match="cannot listen there") as caught,
    ):
        opened(f"tcp://127.0.0.1:{taken.getsockname()[1]}?listen=1")
    assert caught.value.cause == "unreachable"


# SRT: the programs are scripts here; test_protocols.py has the real ones


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return what writes a program; PATH has no others."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return write


Write = Callable[[str, str], None]
KNOWS_SRT = 'case "$*" in *-protocols*) echo srt; exit;; esac\n'


def test_srt_asks_ffmpeg_with_the_url_as_it_is(program: Write) -> None:
    program("ffmpeg", KNOWS_SRT)
    command = srt.command("srt://host:9000?latency=200000&passphrase=a%20b", listens=False)
    assert Path(command[0]).name == "ffmpeg"
    assert "srt://host:9000?mode=caller&latency=200000&passphrase=a%20b" in command


def test_srt_waits_where_the_url_says_so(program: Write) -> None:
    program("ffmpeg", KNOWS_SRT)
    assert "srt://:9000?mode=listener" in srt.command("srt://:9000", listens=True)
    assert "srt://host:9000?mode=rendezvous" in srt.command("srt://host:9000?mode=rendezvous", listens=False)


def test_srt_takes_the_next_program_where_ffmpeg_has_no_srt_and_latency_in_its_unit(program: Write) -> None:
    program("ffmpeg", "echo file http tcp")
    program("srt-live-transmit", "")
    command = srt.command("srt://host:9000?latency=200000", listens=False)
    assert Path(command[0]).name == "srt-live-transmit"
    assert "srt://host:9000?mode=caller&latency=200" in command


def test_srt_without_a_program_says_what_to_install(program: Write) -> None:
    with pytest.raises(SourceFault, match=r"install ffmpeg.*imageio-ffmpeg") as fault:
        opened("srt://host:9000")
    assert fault.value.cause == "missing_part"


def test_srt_passes_on_the_programs_complaint_without_secrets(program: Write) -> None:
    program(
        "ffmpeg",
        KNOWS_SRT + "echo '[srt @ 0x5] Connection to srt://h:1?passphrase=secret failed: No route' >&2; exit 1",
    )
    with pytest.raises(SourceFault) as fault:
        opened("srt://h:1?passphrase=secret")
    assert str(fault.value) == "srt://h:1?…: the connection failed: No route."
    assert fault.value.cause == "unreachable"


def test_srt_says_when_nobody_answers_though_the_program_does_not(program: Write) -> None:
    program("srt-live-transmit", "exit 0")
    with pytest.raises(SourceFault, match="nobody answers") as fault:
        opened("srt://127.0.0.1:9000")
    assert fault.value.cause == "unreachable"


def test_srt_that_ends_is_no_fault_and_srt_that_breaks_off_is(program: Write, few_seconds: Path) -> None:
    program("ffmpeg", f"{KNOWS_SRT}exec /bin/cat {few_seconds}")
    source = opened("srt://127.0.0.1:9000")
    assert sum(frame.picture is not None for frame in source.frames()) > 50
    source.close()
    program("ffmpeg", f"{KNOWS_SRT}/bin/cat {few_seconds}; echo 'Connection was broken' >&2; exit 1")
    source = opened("srt://127.0.0.1:9000")
    with pytest.raises(SourceFault, match="Connection was broken") as fault:
        deque(source.frames(), maxlen=0)
    source.close()
    assert fault.value.cause == "broke_off"


@pytest.mark.parametrize("manners", ["", "trap '' TERM;"])
def test_the_program_ends_with_its_source(program: Write, few_seconds: Path, tmp_path: Path, manners: str) -> None:
    stay = "while :; do /bin/sleep 0.2; done"
    program("ffmpeg", f"{KNOWS_SRT}{manners} echo $$ > {tmp_path}/pid; /bin/cat {few_seconds}; {stay}")
    source = opened("srt://127.0.0.1:9000")
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    source.close()
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
