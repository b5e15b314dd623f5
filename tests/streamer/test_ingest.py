"""One broadcast through many connections: real processes, a real server, and what they say of it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from servers import broadcast

from engines.errors import SourceError
from streamer.config import IngestConfig, WatchConfig
from streamer.ingest.clips import ClipRequest
from streamer.ingest.messages import Arrived, ClipDone, HalfEnded, Message, Opened, SourceChanged
from streamer.ingest.supervisor import Ingest
from streamer.sources.base import PictureSpec, SourceFault
from streamer.timeline import Anchor

SPEC = PictureSpec(rate=2, width=16, height=9)
QUICK = WatchConfig(open_s=6, first_s=6, stall_s=1.5, first_backoff_s=0.05, longest_backoff_s=0.1)
SECONDS = 8


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Eight seconds of MPEG-TS."""
    return broadcast(tmp_path_factory.mktemp("stream") / "stream.ts", SECONDS).read_bytes()


class Sender:
    """A TCP server that plays another script to each connection: bytes at once, and then an end or silence."""

    def __init__(self, *scripts: tuple[bytes, str]) -> None:
        self._scripts = scripts
        self._server = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.url = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        kept = []
        while not self._over.is_set():
            connection, _ = self._server.accept()
            data, then = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            with suppress(OSError):
                connection.sendall(data)
            if then == "silence":
                kept.append(connection)
            else:
                connection.close()
        for connection in kept:
            connection.close()

    def close(self) -> None:
        self._over.set()
        with socket.create_connection(self._server.getsockname()):
            pass
        self._thread.join()
        self._server.close()


def read(
    url: str, until: Callable[[Sequence[Message]], bool], anchor: Anchor | None = None, **config: object
) -> list[Message]:
    """Return what is said of a live source until that is enough."""
    heard: list[Message] = []
    started = time.monotonic()
    ingest_config = IngestConfig((url,), live=True, **{"watch": QUICK, **config})  # type: ignore[arg-type]
    with Ingest(ingest_config, SPEC, anchor=anchor) as ingest:
        for message in ingest.messages():
            heard += [message] if message is not None else []
            assert time.monotonic() - started < 60, heard
            if until(heard):
                break
    return heard


def seconds_of(heard: Sequence[Message]) -> list[Arrived]:
    return [m for m in heard if isinstance(m, Arrived)]


def states(heard: Sequence[Message]) -> list[str]:
    return [m.state if m.cause is None else f"{m.state}: {m.cause}" for m in heard if isinstance(m, SourceChanged)]


def in_epoch(epoch: int) -> Callable[[Sequence[Message]], bool]:
    return lambda heard: bool(seconds_of(heard)) and seconds_of(heard)[-1].second.epoch == epoch


def test_a_live_stream_that_ends_is_opened_again_and_its_clock_goes_on(stream: bytes) -> None:
    with closing(Sender((stream, "end"))) as sender:
        heard = read(sender.url, in_epoch(2))
    assert [m.again for m in heard if isinstance(m, Opened)] == [False, True, True]
    assert states(heard)[:6] == ["opening", "running", "waiting: ended", "opening: ended", "running", "waiting: ended"]
    media = [(m.second.epoch, m.second.index) for m in seconds_of(heard)]
    assert media == sorted(media), "media time never falls"
    ends = [max(index for e, index in media if e == epoch) for epoch in (0, 1)]
    assert next(index for e, index in media if e == 1) in (ends[0], ends[0] + 1), "the same stream again: it goes on"
    frames = [m.counts.frames for m in seconds_of(heard)]
    assert frames == sorted(frames)
    assert frames[-1] > SECONDS * 25 * 2, "counts are of all connections"


def test_a_stream_that_falls_silent_is_left_and_opened_again(stream: bytes) -> None:
    with closing(Sender((stream, "silence"))) as sender:
        started = time.monotonic()
        heard = read(sender.url, in_epoch(1))
    assert "waiting: stalled" in states(heard)
    reason = next(m.reason for m in heard if isinstance(m, SourceChanged) and m.cause == "stalled")
    assert "nothing came within 1.5 s" in (reason or "")
    assert time.monotonic() - started < 20


def test_a_stream_that_has_gone_on_meanwhile_is_placed_by_its_own_clock(stream: bytes) -> None:
    packets = len(stream) // 188
    halves = stream[: packets * 3 // 8 * 188], stream[packets * 5 // 8 * 188 :]
    with closing(Sender((halves[0], "end"), (halves[1], "silence"))) as sender:
        heard = read(sender.url, lambda h: in_epoch(1)(h) and seconds_of(h)[-1].second.index >= 6)
    after = [m.second.index for m in seconds_of(heard) if m.second.epoch == 1]
    assert after[0] in (5, 6), "what was sent between the connections is a gap, and no time is lost"


def test_a_reading_process_that_is_killed_is_replaced(stream: bytes) -> None:
    with closing(Sender((stream, "silence"))) as sender:
        killed = False
        heard: list[Message] = []
        with Ingest(IngestConfig((sender.url,), live=True, watch=QUICK), SPEC) as ingest:
            for message in ingest.messages():
                heard += [message] if message is not None else []
                if in_epoch(1)(heard):
                    break
                if len(seconds_of(heard)) >= 3 and not killed:
                    killed = True
                    os.kill(ingest.pid or 0, 9)
    assert "waiting: died" in states(heard)


def test_clips_of_a_connection_that_has_ended_are_still_to_be_had(stream: bytes, tmp_path: Path) -> None:
    done: list[ClipDone] = []
    request = ClipRequest(tmp_path / "late", epoch=0, start_us=3_000_000, end_us=12_000_000)
    config = IngestConfig(("",), live=True, watch=QUICK, clips_keep_s=30)
    heard: list[Message] = []
    with (
        closing(Sender((stream, "end"), (stream, "silence"))) as sender,
        Ingest(replace(config, urls=(sender.url,)), SPEC, done.append) as ingest,
    ):
        for message in ingest.messages():
            heard += [message] if message is not None else []
            if in_epoch(1)(heard):
                break
        ingest.clip(request)
        ingest.clip(replace(request, path_stem=tmp_path / "new", epoch=1, start_us=8_000_000))
    assert {clip.path for clip in done} == {tmp_path / "late.mp4", tmp_path / "new.mp4"}, done


def test_retries_run_out_and_what_was_seen_is_given_its_end(stream: bytes) -> None:
    watch = WatchConfig(6, 6, 1.5, retries=1, first_backoff_s=0.05, longest_backoff_s=0.1)
    with closing(Sender((stream, "end"), (b"\0" * 100_000, "end"))) as sender:
        heard = read(sender.url, lambda h: isinstance(h[-1], HalfEnded), watch=watch)
        assert sender.connections == 2
    assert states(heard)[-1] == "failed: no_media"
    assert isinstance(heard[-1], HalfEnded)
    assert heard[-1].error is not None


def test_what_never_opened_is_an_error_at_once(free_port: int) -> None:
    with pytest.raises(SourceFault, match="refused"):
        read(f"tcp://127.0.0.1:{free_port}", lambda _: False)


def test_waiting_for_another_attempt_can_be_interrupted(stream: bytes) -> None:
    watch = WatchConfig(6, 6, 1.5, first_backoff_s=60, longest_backoff_s=60)
    with closing(Sender((stream, "end"))) as sender:
        started = time.monotonic()
        heard: list[Message] = []
        with Ingest(IngestConfig((sender.url,), live=True, watch=watch), SPEC) as ingest:
            for message in ingest.messages():
                heard += [message] if message is not None else []
                if states(heard)[-1:] == ["waiting: ended"]:
                    ingest.stop()
    assert time.monotonic() - started < 25


def test_a_recording_that_ends_has_ended(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "match.ts"
    path.write_bytes(stream)
    heard = read(str(path), lambda h: isinstance(h[-1], HalfEnded), speed=100.0)
    assert states(heard) == ["opening", "running", "ended"]
    assert heard[-1] == HalfEnded(1, None)
    assert [m.second.index for m in seconds_of(heard)] == list(range(SECONDS))


def test_a_part_of_a_recording_has_the_seconds_of_the_whole(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "match.ts"
    path.write_bytes(stream)

    def seconds(**config: object) -> dict[int, Arrived]:
        with Ingest(IngestConfig((str(path),), live=False, **config), SPEC) as ingest:  # type: ignore[arg-type]
            return {m.second.index: m for m in ingest.messages() if isinstance(m, Arrived)}

    whole, part = seconds(), seconds(start=(1, 4.5), end=(1, 6.0), context_s=1.0)
    assert list(part) == [3, 4, 5, 6]
    for index, arrived in part.items():
        assert (arrived.second.pictures_NHWC == whole[index].second.pictures_NHWC).all()
        assert arrived.second.epoch == whole[index].second.epoch
        off = abs(arrived.second.samples_S - whole[index].second.samples_S)
        assert off.max() < 0.13, "the same sound, less than a sample of 16 kHz off: resampling began elsewhere"


def test_halves_outside_a_part_are_not_opened(tmp_path: Path, stream: bytes) -> None:
    paths = [tmp_path / "1.ts", tmp_path / "2.ts"]
    for path in paths:
        path.write_bytes(stream)
    config = IngestConfig(tuple(map(str, paths)), live=False, start=(2, 0.0))
    with Ingest(config, SPEC) as ingest:
        assert {m.half for m in ingest.messages() if isinstance(m, Arrived)} == {2}


def test_replay_loses_nothing_however_slowly_it_is_taken(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "match.ts"
    path.write_bytes(stream)
    with Ingest(IngestConfig((str(path),), live=False), SPEC) as ingest:
        indices = []
        for message in ingest.messages():
            if isinstance(message, Arrived):
                indices.append(message.second.index)
                time.sleep(0.1)
    assert indices == list(range(SECONDS))


def test_stopping_ends_the_reading_process_at_once(sample: Path) -> None:
    with Ingest(IngestConfig((str(sample),), live=True, speed=1.0), SPEC) as ingest:
        messages = ingest.messages()
        next(messages)
        started = time.monotonic()
        ingest.stop()
        assert list(messages) == []
    assert time.monotonic() - started < 5


@pytest.fixture
def silent_pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_live_gives_a_chance_to_look_at_the_clock_while_nothing_comes(silent_pipe: Path) -> None:
    with Ingest(IngestConfig((str(silent_pipe),), live=True), SPEC) as ingest:
        messages = ingest.messages()
        assert isinstance(next(messages), SourceChanged)
        assert [next(messages) for _ in range(5)] == [None] * 5


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(silent_pipe: Path) -> None:
    config = IngestConfig((str(silent_pipe),), live=False, watch=WatchConfig(open_s=2))
    with Ingest(config, SPEC) as ingest, pytest.raises(SourceFault, match="nothing came within 2 s"):
        list(ingest.messages())


def test_what_the_process_cannot_open_is_an_error_here() -> None:
    with (
        Ingest(IngestConfig(("/absent.ts",), live=False), SPEC) as ingest,
        pytest.raises(SourceError, match="no such file"),
    ):
        list(ingest.messages())


def test_standard_input_that_stalls_is_read_again_and_its_end_is_the_end(stream: bytes, root: Path) -> None:
    command = [sys.executable, "-m", "streamer", "live", "-", "--threshold", "0", "--stall", "1.5"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(stream)
        process.stdin.flush()
        complaints = b""
        while b"nothing came within" not in complaints:
            complaints += process.stderr.readline()
        process.stdin.close()
        complaints += process.stderr.read()
        assert process.wait(30) == 0, complaints.decode()
    assert b"Traceback" not in complaints


def test_standard_input_is_read_by_the_reading_process(stream: bytes, root: Path) -> None:
    command = [sys.executable, "-m", "streamer", "replay", "-", "--threshold", "0"]
    done = subprocess.run(command, cwd=root, input=stream, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{SECONDS} seconds" in done.stderr.decode()
    assert done.stdout.startswith(b"{")


def test_another_run_of_a_live_stream_goes_on_where_the_last_one_ended(stream: bytes) -> None:
    with closing(Sender((stream, "end"))) as sender:
        first = seconds_of(read(sender.url, lambda h: len(seconds_of(h)) == 3))[-1].anchor
        assert first is not None
        heard = read(sender.url, in_epoch(first.epoch), anchor=replace(first, reach_us=2_000_000))
    media = [(m.second.epoch, m.second.index) for m in seconds_of(heard)]
    assert media[0][0] == 1
    assert media[0][1] >= first.media_us // 1_000_000


def test_another_run_over_a_recording_says_the_same_times_again(stream: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recording.ts"
    path.write_bytes(stream)
    heard = read(
        str(path), lambda h: bool(seconds_of(h)), anchor=Anchor(7, 99_000_000, 1_000_000, 5_000_000), speed=50.0
    )
    assert (seconds_of(heard)[0].second.epoch, seconds_of(heard)[0].second.index) == (0, 0)
