import os
import threading
import time
from fractions import Fraction
from multiprocessing import Pipe
from pathlib import Path

import pytest
from fakes import FlatPicture, second

from engines.errors import SourceError
from streamer.config import IngestConfig
from streamer.ingest import Arrived, Counts, HalfEnded, Ingest, Message, Opened, Pacer, _Outlet
from streamer.sources.base import Frame, PictureSpec

SPEC = PictureSpec(rate=2, width=16, height=8)


@pytest.fixture
def silent_pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_live_sheds_the_oldest_second_when_nobody_takes_them() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = _Outlet(sender, backlog_s=2, shed=True)
    for k in range(6):
        outlet.send(Arrived(1, second(k), Counts()))
        time.sleep(0.05)  # the first is on its way: it no longer fits into the pipe, and waits there
    outlet.send(HalfEnded(1, None))
    ender = threading.Thread(target=outlet.close)
    ender.start()
    received: list[Message] = []
    while not isinstance(received[-1] if received else None, HalfEnded):
        received.append(receiver.recv())
    ender.join()
    seconds = [m.second.index for m in received if isinstance(m, Arrived)]
    assert seconds == sorted(seconds)
    assert seconds[-2:] == [4, 5]
    assert 6 - len(seconds) == max(m.counts.shed_seconds for m in received if isinstance(m, Arrived)) > 0


def test_replay_loses_nothing_however_slowly_it_is_taken(sample: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.ts"
    part.write_bytes(sample.read_bytes()[:700_000])
    with Ingest(IngestConfig((str(part),), live=False), SPEC) as ingest:
        messages: list[Message | None] = []
        for message in ingest.messages():
            messages.append(message)
            time.sleep(0.05)
    assert isinstance(messages[0], Opened)
    assert isinstance(messages[-1], HalfEnded)
    indices = [m.second.index for m in messages if isinstance(m, Arrived)]
    assert indices == list(range(len(indices)))
    assert len(indices) > 5


def test_stopping_ends_the_reading_process_at_once(sample: Path) -> None:
    with Ingest(IngestConfig((str(sample),), live=True, speed=1.0), SPEC) as ingest:
        messages = ingest.messages()
        next(messages)
        started = time.monotonic()
        ingest.stop()
        assert list(messages) == []
    assert time.monotonic() - started < 5


def test_live_gives_a_chance_to_look_at_the_clock_while_nothing_comes(silent_pipe: Path) -> None:
    with Ingest(IngestConfig((str(silent_pipe),), live=True), SPEC) as ingest:
        messages = ingest.messages()
        assert [next(messages) for _ in range(5)] == [None] * 5


def test_what_the_process_cannot_open_is_an_error_here() -> None:
    with (
        Ingest(IngestConfig(("/absent.ts",), live=False), SPEC) as ingest,
        pytest.raises(SourceError, match="no such file"),
    ):
        list(ingest.messages())


def test_pictures_without_timestamps_are_paced_too() -> None:
    pacer = Pacer(speed=10.0)
    frames = [Frame(None, Fraction(1, 90_000), picture=FlatPicture(0)) for _ in range(26)]
    started = time.monotonic()
    for frame in frames:
        pacer.wait(frame)
    assert time.monotonic() - started >= 0.099


def test_a_file_is_paced_by_its_own_clock() -> None:
    pacer = Pacer(speed=10.0)
    frames = [Frame(i * 9_000, Fraction(1, 90_000), picture=FlatPicture(0)) for i in range(11)]
    started = time.monotonic()
    arrivals = [pacer.wait(frame).arrived_mono_s - started for frame in frames]
    assert all(arrival >= i * 0.01 - 1e-3 for i, arrival in enumerate(arrivals))
    assert 0.1 <= arrivals[-1] + 1e-3 < 1.0
