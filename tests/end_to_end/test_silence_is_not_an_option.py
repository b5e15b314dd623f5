"""Every fault that a user can cause: continued work with a flag, or one sentence and exit code 1."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from command import Touchline


def write_video(path: Path, sizes: list[tuple[int, int]], audio_s: float = 0.0, seconds_each: int = 3) -> Path:
    """Write an MPEG-TS with one stretch of pictures per size (an encoder restart), and sound for `audio_s` seconds."""
    data, start = b"", 0
    for width, height in sizes:
        part = path.with_suffix(".part.ts")
        with av.open(str(part), "w", format="mpegts") as out:
            video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "25"})
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            sound = out.add_stream("aac", rate=48_000, layout="mono") if audio_s else None
            for i in range(25 * seconds_each):
                pixels = np.full((height, width, 3), (i * 3) % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = start + i
                out.mux(video.encode(frame))
                if sound is not None and (start + i) / 25 < audio_s:
                    block = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), format="fltp", layout="mono")
                    block.sample_rate, block.pts = 48_000, (start + i) * 1920
                    out.mux(sound.encode(block))
            out.mux(video.encode(None))
            if sound is not None:
                out.mux(sound.encode(None))
        start += 25 * seconds_each
        data += part.read_bytes()
        part.unlink()
    path.write_bytes(data)
    return path


def test_a_stream_without_sound_goes_on_and_flags_every_spot(touchline: Touchline, tmp_path: Path) -> None:
    video = write_video(tmp_path / "mute.ts", [(320, 180)], seconds_each=8)
    done = touchline("replay", video, "--threshold", "0")
    assert done.code == 0, done.err
    assert done.spots
    assert all("no-audio" in s["flags"] for s in done.spots)
    assert "no sound" in done.err


def test_sound_that_stops_is_flagged_from_then_on(touchline: Touchline, tmp_path: Path) -> None:
    video = write_video(tmp_path / "stops.ts", [(320, 180)], audio_s=12, seconds_each=40)
    spots = touchline("replay", video, "--threshold", "0").spots
    assert all("no-audio" in s["flags"] for s in spots if s["media_time"] > 13)
    assert any("no-audio" not in s["flags"] for s in spots if s["media_time"] < 7)


def test_a_video_that_changes_size_goes_on(touchline: Touchline, tmp_path: Path) -> None:
    video = write_video(tmp_path / "sizes.ts", [(320, 180), (640, 360), (192, 108)], audio_s=9)
    done = touchline("replay", video, "--threshold", "0")
    assert done.code == 0, done.err
    assert max(s["emitted_at"] for s in done.spots) >= 9


def test_a_truncated_file_gives_what_it_holds(touchline: Touchline, sample: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.ts"
    cut.write_bytes(sample.read_bytes()[:1_234_567])
    done = touchline("replay", cut, "--threshold", "0.05")
    assert done.code == 0, done.err
    assert done.spots


def make_text(tmp_path: Path) -> Path:
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    return path


def make_empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.mp4"
    path.touch()
    return path


@pytest.mark.parametrize("command", ["live", "replay"])
@pytest.mark.parametrize("make", [make_text, make_empty, lambda p: p / "absent.mp4", lambda p: p])
def test_what_is_no_video_is_one_sentence(touchline: Touchline, tmp_path: Path, command: str, make) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path)
    done = touchline(command, path)
    assert done.code == 1
    assert path.name in done.complaint
    assert done.out == ""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_url_that_nobody_answers_is_one_sentence(touchline: Touchline, free_port: int) -> None:
    done = touchline("live", f"http://user:secret@127.0.0.1:{free_port}/stream?token=hidden")
    assert done.code == 1
    assert "refused" in done.complaint
    assert "secret" not in done.err
    assert "hidden" not in done.err


def test_a_server_that_says_nothing_is_one_sentence(touchline: Touchline, silent_port: int) -> None:
    done = touchline("live", f"http://127.0.0.1:{silent_port}/stream", "--stall", "2")
    assert done.code == 1
    assert "nothing came within 10 s" in done.complaint


def test_a_broker_that_refuses_is_one_sentence(touchline: Touchline, short_sample: Path, free_port: int) -> None:
    done = touchline("replay", short_sample, "--mqtt", f"mqtt://user:secret@127.0.0.1:{free_port}")
    assert done.code == 1
    assert "refused" in done.complaint
    assert "secret" not in done.err


def test_a_bundle_that_is_none_is_one_sentence(touchline: Touchline, short_sample: Path, tmp_path: Path) -> None:
    done = touchline("replay", short_sample, "--bundle", tmp_path)
    assert done.code == 1
    assert "is no bundle" in done.complaint


def test_results_that_cannot_be_written_are_one_sentence(
    touchline: Touchline, short_sample: Path, tmp_path: Path
) -> None:
    done = touchline("replay", short_sample, "--out", tmp_path / "absent" / "results.json")
    assert done.code == 2
    assert "give a file to write" in done.complaint


def test_a_port_that_is_taken_is_one_sentence(touchline: Touchline, short_sample: Path, silent_port: int) -> None:
    for option in ("--serve", "--broker-port"):
        done = touchline("replay", short_sample, "--broker", option, silent_port)
        assert done.code == 1
        assert str(silent_port) in done.complaint


@pytest.mark.parametrize(
    "arguments",
    [[], ["live"], ["replay"], ["live", "x", "--speed", "0"], ["replay", "x", "--stream", "a/b"], ["dance"]],
)
def test_wrong_usage_is_exit_code_2(touchline: Touchline, arguments: list[str]) -> None:
    done = touchline(*arguments)
    assert done.code == 2
    assert "usage:" in done.err


def test_every_command_teaches_itself(touchline: Touchline) -> None:
    for command in ("live", "replay", "watch", "demo", "evaluate"):
        done = touchline(command, "--help")
        assert done.code == 0
        assert f"touchline {command}" in done.out


ODD = [
    ("made/restart_h264_to_mpeg2.ts", 0),
    ("made/damage_5pct.ts", 0),
    ("made/audio_only.ts", 1),
    ("real/dvb_bad_utf8_service_name.ts", 0),
]
"""Through the whole command; through source and sampler all of them go in test_odd_streams."""


@pytest.mark.parametrize(("name", "code"), ODD)
def test_odd_streams_are_watched_or_refused_in_one_sentence(
    touchline: Touchline, shared: Path, name: str, code: int
) -> None:
    done = touchline("replay", shared / "data" / "streams" / name, "--threshold", "0")
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    if code:
        assert done.complaint
    else:
        assert done.spots


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_is_one_sentence(root: Path, short_sample: Path) -> None:
    command = [sys.executable, "-m", "streamer", "replay", str(short_sample), "--threshold", "0.02"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False
        )
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
