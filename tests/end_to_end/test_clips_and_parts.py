"""Recordings replayed in part, at the speed of life, and with clips; and what a broker hears of a source in trouble."""

import asyncio
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
from command import Touchline

from streamer.cloudevents import data_of
from streamer.mqtt import connect, parse_broker_url

Start = Callable[..., "subprocess.Popen[str]"]


def test_each_confirmed_spot_has_a_clip_in_the_stream_s_own_encoding(
    touchline: Touchline, short_sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "clips"
    done = touchline("replay", short_sample, "--clips", folder, "--clip-pre", "4", "--clip-post", "2")
    assert done.code == 0, done.err
    confirmed = [spot for spot in done.spots if spot["state"] == "confirmed"]
    assert len(confirmed) >= 5
    clips = {path.stem.rpartition("_")[2]: path for path in folder.iterdir()}
    assert clips.keys() == {spot["id"] for spot in confirmed}
    assert f"{len(confirmed)} clips written" in done.err
    for spot in confirmed:
        path = clips[spot["id"]]
        assert path.suffix == ".mp4"
        with av.open(str(path)) as clip:
            assert {s.codec_context.name for s in clip.streams.video} == {"h264"}
            times = [frame.time for frame in clip.decode(video=0) if frame.time is not None]
        wanted_s = min(4.0, spot["media_time"]) + min(2.0, 31 - spot["media_time"])
        assert times[0] < 0.1
        assert wanted_s - 0.5 < times[-1] < wanted_s + 4, "from the key frame before it"


def test_a_part_says_what_the_whole_says_of_it(touchline: Touchline, short_sample: Path) -> None:
    whole = touchline("replay", short_sample, "--threshold", "0.1", "--no-provisional")
    part = touchline("replay", short_sample, "--threshold", "0.1", "--no-provisional", "--start", "0:15", "--end", "25")
    assert part.code == 0, part.err
    wanted = [spot for spot in whole.spots if 15 <= spot["media_time"] < 25]
    assert len(wanted) >= 4
    keys = ("label", "id")
    assert [[s[key] for key in keys] for s in part.spots] == [[s[key] for key in keys] for s in wanted]
    for spot, same in zip(part.spots, wanted, strict=True):
        assert abs(spot["confidence"] - same["confidence"]) < 0.05, "sound is resampled from another beginning"


@pytest.mark.parametrize("wrong", [("--start", "2-00:10"), ("--start", "20", "--end", "10"), ("--start", "soon")])
def test_a_part_that_is_none_is_wrong_usage(touchline: Touchline, short_sample: Path, wrong: tuple[str, ...]) -> None:
    done = touchline("replay", short_sample, *wrong)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_part_after_the_end_is_one_sentence(touchline: Touchline, short_sample: Path) -> None:
    done = touchline("replay", short_sample, "--start", "45:00")
    assert done.code == 1
    assert "ends before" in done.complaint


def test_realtime_is_the_speed_of_life(touchline: Touchline, short_sample: Path, tmp_path: Path) -> None:
    data = short_sample.read_bytes()
    (tmp_path / "five.ts").write_bytes(data[: len(data) // 6])
    started = time.monotonic()
    done = touchline("replay", tmp_path / "five.ts", "--realtime", "--threshold", "0")
    assert done.code == 0, done.err
    assert time.monotonic() - started > 5
    factor = re.search(r"at (\S+) times the speed of life", done.err)
    assert factor is not None
    assert float(factor[1]) < 1.7, "five seconds, the last of which does not wait for its end"


def test_clips_of_webrtc_are_refused_before_anything_is_opened(touchline: Touchline, tmp_path: Path) -> None:
    done = touchline("live", "whip://127.0.0.1:0/main", "--clips", tmp_path)
    assert done.code == 2
    assert "--clips needs an encoded stream" in done.complaint


async def test_the_status_topic_and_the_metrics_tell_of_a_source_in_trouble(
    start: Start, short_sample: Path, free_port: int
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    data = short_sample.read_bytes()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(data[: len(data) // 3])

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    process = start("live", url, "--broker", "--broker-port", free_port, "--retries", "1")
    states: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(60):
            while not states or states[-1]["state"] != "stopped":
                with suppress(Exception):
                    async with connect(parse_broker_url(f"mqtt://127.0.0.1:{free_port}")) as client:
                        await client.subscribe(["touchline/main/status"])
                        async for message in client.messages():
                            states.append(data_of(message.payload))
                            if states[-1]["state"] == "stopped":
                                break
                await asyncio.sleep(0.1)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
    _, err = process.communicate(timeout=30)
    sources = [status["source"] for status in states if status["source"] is not None]
    assert {"waiting", "running", "failed"} <= {source["state"] for source in sources}
    assert {source.get("cause") for source in sources if source["state"] in ("waiting", "failed")} == {"ended"}
    assert all("since_utc" in source for source in sources)
    assert states[-1]["statistics"]["source_openings"] == 2
    assert process.returncode == 1, err
    assert "came to an end" in err
