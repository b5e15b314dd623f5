"""Pictures of what is being analysed: while somebody watches, through reconnections, and at nobody's expense."""

import io
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from servers import broadcast

from engines.second import UINT8
from streamer.config import IngestConfig, WatchConfig
from streamer.ingest.messages import Alive, Preview
from streamer.ingest.outlet import Outlet
from streamer.ingest.supervisor import Ingest
from streamer.sources.base import PictureSpec
from streamer.sources.jpeg import JpegEncoder
from streamer.sources.picture import AvPicture, Turn

SAMPLE = Path(__file__).parents[2] / "samples" / "broadcast.ts"
SPEC = PictureSpec(rate=2, width=16, height=9)
QUICK = WatchConfig(open_s=6, first_s=6, stall_s=1.5, first_backoff_s=0.05, longest_backoff_s=0.1)


def seen(jpeg: bytes) -> UINT8:
    with av.open(io.BytesIO(jpeg), "r", format="mjpeg") as container:
        return cast(UINT8, next(container.decode(video=0)).to_ndarray(format="rgb24"))


def picture(width: int, height: int, **look: object) -> AvPicture:
    """A picture whose left third is white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 3] = 255
    return AvPicture(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p"), **look)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "look", "size"),
    [
        (1920, 1080, {}, (640, 360)),
        (720, 576, {"sar": Fraction(64, 45)}, (640, 360)),
        (720, 576, {"sar": Fraction(16, 15)}, (640, 480)),
        (1080, 1920, {}, (270, 480)),
        (1920, 1080, {"turn": Turn(sideways=True)}, (270, 480)),
        (2048, 858, {}, (640, 268)),
    ],
)
def test_the_preview_has_the_streams_shape(
    width: int, height: int, look: dict[str, object], size: tuple[int, int]
) -> None:
    shown = seen(JpegEncoder().encode(picture(width, height, **look)))
    assert (shown.shape[1], shown.shape[0]) == size
    left, top = shown[:, : size[0] // 4].mean(), shown[: size[1] // 4].mean()
    assert max(left, top) > 240, "upright: what was on the left is there, or on top if the picture is turned"


def test_one_encoder_takes_pictures_of_any_size() -> None:
    encoder = JpegEncoder()
    shapes = [
        seen(encoder.encode(picture(*size))).shape[:2] for size in ((1280, 720), (640, 640), (1280, 720), (16, 2))
    ]
    assert shapes == [(360, 640), (480, 480), (360, 640), (80, 640)]


def watched(
    config: IngestConfig, until: Callable[[Ingest, list[bytes]], bool], wanted: bool = True
) -> tuple[list[tuple[object, ...]], list[bytes]]:
    """Read, with the preview wanted or not; return what each second holds, and the pictures."""
    pictures: list[bytes] = []
    seconds: list[tuple[object, ...]] = []
    started = time.monotonic()
    with Ingest(config, SPEC, on_preview=pictures.append) as ingest:
        ingest.preview(wanted)
        for message in ingest.messages():
            assert time.monotonic() - started < 60
            second = getattr(message, "second", None)
            if second is not None:
                held = (second.pictures_NHWC.tobytes(), second.samples_S.tobytes())
                seconds.append((second.epoch, second.index, *held, second.flags))
            if until(ingest, pictures):
                break
    return seconds, pictures


def test_a_replay_is_the_same_with_and_without_viewers() -> None:
    config = IngestConfig((str(SAMPLE),), live=False, end=(1, 10.0))
    with_viewers, pictures = watched(config, lambda *_: False)
    without, none = watched(config, lambda *_: False, wanted=False)
    assert with_viewers == without
    assert len(without) >= 10
    assert not none, "nobody watched"
    assert pictures
    assert seen(pictures[0]).shape == (360, 640, 3)


def test_pictures_come_while_somebody_watches_and_no_longer() -> None:
    asked: list[float] = []

    def until(ingest: Ingest, pictures: list[bytes]) -> bool:
        if len(pictures) >= 4 and not asked:
            ingest.preview(False)
            asked.append(time.monotonic())
        if asked and time.monotonic() - asked[0] < 0.5:
            ended[:] = [len(pictures)]
        return bool(asked) and time.monotonic() - asked[0] > 1.5

    ended: list[int] = []
    _, pictures = watched(IngestConfig((str(SAMPLE),), live=True, speed=1.0), until)
    assert len(pictures) == ended[0], "what was on its way comes, and then nothing"


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[str]:
    """A TCP server that sends the same eight seconds to everybody who connects, and then holds still."""
    stream = broadcast(tmp_path / "stream.ts", 8).read_bytes()
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                with suppress(OSError):
                    kept[-1].sendall(stream)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for connection in kept:
        connection.close()


def test_a_new_connection_goes_on_with_the_preview(sender: str) -> None:
    first: list[int] = []
    count: list[int] = []

    def until(ingest: Ingest, pictures: list[bytes]) -> bool:
        if pictures and not first and ingest.pid:
            first.append(ingest.pid)
            os.kill(ingest.pid, 9)
        if first and ingest.pid in (None, first[0]):
            count[:] = [len(pictures)]
        return bool(count) and len(pictures) > count[0]

    _, pictures = watched(IngestConfig((sender,), live=True, watch=QUICK), until)
    assert len(pictures) > count[0]


def test_pictures_wait_for_nobody_and_hold_nothing_up() -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with closing(receiver):
        outlet = Outlet(sender, backlog_s=3, stale_s=1.0)
        for i in range(100):
            outlet.show(Preview(bytes([i]) * 100_000))
            outlet.send(Alive())
        heard: list[object] = []
        while sum(isinstance(report, Alive) for report in heard) < 100:
            assert receiver.poll(5)
            heard.append(receiver.recv())
        while receiver.poll(0.1):
            heard.append(receiver.recv())
        outlet.close()
    pictures = [report.jpeg[0] for report in heard if isinstance(report, Preview)]
    assert pictures[-1] == 99, "the newest"
    assert len(pictures) < 10, "and of the others only what the pipe took"
