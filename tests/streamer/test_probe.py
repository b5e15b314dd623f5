import argparse
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from command import Touchline
from fakes import fake_manifest
from rich.console import Console

from engines.bundle import Manifest, Pictures
from streamer.ingest.messages import Listening
from streamer.probe import command as probe_module
from streamer.probe.command import add_arguments, run
from streamer.probe.findings import problems
from streamer.probe.looking import Look, Said, Seen, look_at
from streamer.probe.page import Report, as_dict, page
from streamer.sources.base import PictureSpec, SourceFault

SPEC = PictureSpec(rate=4, width=160, height=90)


def look(path: Path, seconds: float = 60.0) -> tuple[Seen, SourceFault | None]:
    """Return what a file shows; in this process, since nothing blocks."""
    return _look(path, seconds)


@cache
def _look(path: Path, seconds: float) -> tuple[Seen, SourceFault | None]:
    said: list[Said] = []
    fault = look_at(Look(str(path), {}, seconds, SPEC), said.append)
    assert isinstance(said[-1], Seen)
    return said[-1], fault


def manifest() -> Manifest:
    fake = fake_manifest()
    visual, audio = fake.streams
    pictures = Pictures(rate=4, width=160, height=90, resize_filter="area")
    return fake.model_copy(update={"streams": (visual.model_copy(update={"pictures": pictures}), audio)})


def found(path: Path, seconds: float = 60.0) -> set[str]:
    return {problem.name for problem in problems(look(path, seconds)[0], manifest())}


def report(path: Path) -> Report:
    seen, _ = look(path)
    return Report(path.name, seen, manifest(), 0.1, tuple(problems(seen, manifest(), 0.1)))


def shown(one: Report) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(page(one))
    return console.export_text()


@pytest.fixture
def made(shared: Path) -> Path:
    return shared / "data" / "streams" / "made"


@pytest.fixture
def real(shared: Path) -> Path:
    return shared / "data" / "streams" / "real"


# What is wrong


WRONG: list[tuple[str, set[str]]] = [
    ("plain.ts", set()),
    ("wrap_once.ts", set()),
    ("sar_4_3.ts", set()),
    ("rotate90.mp4", set()),
    ("fragmented.mp4", set()),
    ("video_only.ts", {"no-sound"}),
    ("audio_starts_at_5s.ts", {"sound-begins-later"}),
    ("audio_muxed_2s5_late.ts", {"late-sound"}),
    ("audio_gap_4_8.ts", {"sound-gaps"}),
    ("gop20s.ts", {"long-gop"}),
    ("1fps.mp4", {"low-rate", "long-gop"}),
    ("vfr.mp4", {"variable-rate", "long-gop"}),
    ("missing_pts_4_of_5.ts", {"no-timestamps"}),
    ("jump_back_600s.ts", {"timestamps-jump"}),
    ("restart_640x360p25_480x270p30.ts", {"timestamps-jump", "size-changes"}),
    ("cut_midgop_both_ends.ts", {"no-key-frame-first", "long-gop"}),
    ("bframes.avi", {"timestamps-go-back"}),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_what_is_wrong_is_found_and_nothing_else(made: Path, name: str, wrong: set[str]) -> None:
    assert found(made / name) == wrong


def test_damage_is_found(made: Path) -> None:
    assert {"damaged", "bad-timestamps"} <= found(made / "damage_1pct.ts")
    assert "damaged" in found(made / "lost_packets_2pct.ts")


def test_key_frames_that_are_further_apart_than_was_looked_are_found(made: Path) -> None:
    assert found(made / "gop20s.ts", 8.0) == {"long-gop"}
    assert found(made / "gop20s.ts", 3.0) == set()


def test_a_short_look_stops_early(made: Path) -> None:
    assert look(made / "gop20s.ts", 3.0)[0].media_s == pytest.approx(3, abs=0.1)


def plain(made: Path, **changes: Any) -> set[str]:
    """Return what is wrong with a good stream of which one thing is changed."""
    seen = replace(look(made / "plain.ts")[0], **changes)
    return {problem.name for problem in problems(seen, manifest())}


def test_what_pictures_and_sound_show_counts(made: Path) -> None:
    assert plain(made, brightest=16.0, still_s=9.0) == {"black"}
    assert plain(made, still_s=9.0) == {"frozen"}
    assert plain(made, loudest=0.0) == {"silent-sound"}
    assert plain(made, sizes=((120, 68),)) == {"small-picture"}
    assert plain(made, cpu_s=20.0) == {"slow-machine"}
    assert {p.name for p in problems(look(made / "plain.ts")[0], manifest(), 1.5)} == {"slow-machine"}


def test_bursts_count_of_live_streams_alone(made: Path) -> None:
    seen = look(made / "plain.ts")[0]
    packets = replace(seen.packets, longest_wait_s=4.0)
    assert plain(made, packets=packets) == set()
    assert plain(made, packets=packets, info=replace(seen.info, recording=False)) == {"bursts"}
    assert plain(made, age_s=40.0, info=replace(seen.info, recording=False)) == {"old"}


def test_every_problem_is_a_sentence_with_advice(made: Path) -> None:
    for name, _ in WRONG:
        for problem in problems(look(made / name)[0], manifest()):
            assert problem.what.endswith(".")
            assert problem.advice.endswith(".")


# What it is, and what is used


def test_what_a_stream_is_is_measured_and_not_believed(made: Path, real: Path) -> None:
    seen = look(made / "plain.ts")[0]
    assert seen.fps == pytest.approx(25)
    assert seen.packets.gop_s == pytest.approx(2)
    assert seen.packets.picture_kbits == pytest.approx(206, rel=0.1)
    assert seen.heard > 0.95
    flv = look(real / "sample.flv")[0]
    assert flv.streams[0].fps is None  # 1000 are announced
    assert flv.fps == pytest.approx(30, rel=0.02)


def test_a_page_fits_eighty_columns_and_says_what_is_used(made: Path, real: Path) -> None:
    text = {name: shown(report(made / name)) for name in ("mpeg2_576i25_bff.ts", "rotate90.mp4", "sar_4_3.ts")}
    text["multiplex"] = shown(report(real / "dvb_multiplex_5_services.ts"))
    text["audio"] = shown(report(made / "two_audio_first_silent.ts"))
    assert max(len(line) for page in text.values() for line in page.splitlines()) <= 80
    flat = {name: " ".join(page.split()) for name, page in text.items()}
    assert "interlaced, bottom field first" in flat["mpeg2_576i25_bff.ts"]
    assert "every second line" in flat["mpeg2_576i25_bff.ts"]
    assert "black bars left and right" in flat["mpeg2_576i25_bff.ts"]
    assert "turned upright" in flat["rotate90.mp4"]
    assert "bars" not in flat["sar_4_3.ts"]
    assert "the best one that belongs to the picture" in flat["audio"]
    assert "#9 (PID 513) MPEG-2 Main, 720x576" in flat["multiplex"]
    assert "a spot is said at most" in flat["multiplex"]


def test_json_has_stable_names(made: Path) -> None:
    values = json.loads(json.dumps(as_dict(report(made / "rotate90.mp4")), allow_nan=False))
    assert list(values) == [
        "url", "ok", "container", "recording", "duration_s", "streams", "measured", "used", "delay", "problems",
    ]  # fmt: skip
    assert values["streams"][0]["codec"] == "h264"
    assert values["streams"][1]["rate_hz"] == 48_000
    assert values["used"] == {
        "picture": 0, "sound": 1, "interlaced": False, "rotation": 90, "bars": "left and right",
        "resized_to": [160, 90], "pictures_per_s": 4, "clock": None,
    }  # fmt: skip
    assert values["delay"]["promised_s"] == pytest.approx(1 + 2 + 0.5)
    assert values["problems"] == []


# What cannot be watched


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("made/text.mp4", "its content is no video"),
        ("made/audio_only.ts", "there is no picture in it"),
        ("made/absent.ts", "there is no such file"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(shared: Path, name: str, sentence: str) -> None:
    with pytest.raises(SourceFault, match=sentence):
        look(shared / "data" / "streams" / name)


def test_a_stream_that_sends_no_picture_is_a_fault_too(real: Path) -> None:
    _, fault = look(real / "dvb_scrambled_csa.ts")
    assert fault is not None
    assert fault.cause == "no_picture"


# The command


def arguments(url: str, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([url, *options])


def test_the_command_looks_at_the_sample(touchline: Touchline, sample: Path) -> None:
    ended = touchline("probe", sample, "--seconds", "4")
    assert ended.code == 0, ended.err
    assert "H.264 High, 1280x720" in ended.out
    assert "a spot is said at most" in ended.out
    assert "it keeps up" in ended.out
    assert ended.err == ""


def test_a_dead_port_is_one_sentence(touchline: Touchline, free_port: int) -> None:
    url = f"http://user:s3cr3t@127.0.0.1:{free_port}/live.ts"
    ended = touchline("probe", url, "--json")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "connection refused" in ended.err
    said = json.loads(ended.out)
    assert (said["ok"], said["cause"]) == (False, "unreachable")
    assert "s3cr3t" not in ended.out + ended.err


@contextmanager
def server(says: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve HTTP to whoever comes, and end with the block."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError), ExitStack() as connections:
            while not over.is_set():
                with suppress(TimeoutError):
                    connection = connections.enter_context(listener.accept()[0])
                    says(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/live.ts"
        finally:
            over.set()
            thread.join()


def test_a_server_that_says_nothing_is_not_waited_for_long(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(probe_module, "OPENING_S", 4.0)
    began = time.monotonic()
    with server(lambda _: None) as url, pytest.raises(SourceFault, match=r"live\.ts: nothing came within 4 s\.$"):
        run(arguments(url))
    assert time.monotonic() - began < 15


def test_a_stream_that_stalls_is_told_with_what_there_was(
    made: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = (made / "plain.ts").read_bytes()

    def half(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data[: len(data) // 2])

    monkeypatch.chdir(root)
    monkeypatch.setattr(probe_module, "GRACE_S", 1.0)
    with server(half) as url:
        assert run(arguments(url, "--json", "--seconds", "6")) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["problems"][0]["name"] == "stalled"
    assert 2 < said["measured"]["media_s"] < 6


def test_an_interrupt_ends_it_cleanly(start: "Callable[..., subprocess.Popen[str]]", free_port: int) -> None:
    process = start("probe", f"udp://127.0.0.1:{free_port}")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == ""


def test_who_is_waited_for_is_said(free_port: int) -> None:
    said: list[Said] = []
    url = f"udp://127.0.0.1:{free_port}"
    with pytest.raises(SourceFault):
        look_at(Look(url, {"timeout": "100000"}, 1.0, SPEC), said.append)
    assert said == [Listening(url)]


@pytest.mark.parametrize("seconds", ["0", "nan", "1e9"])
def test_seconds_must_make_sense(touchline: Touchline, seconds: str) -> None:
    assert touchline("probe", "x.ts", "--seconds", seconds).code == 2


def test_a_bundle_that_is_none_is_said_first(touchline: Touchline, tmp_path: Path) -> None:
    ended = touchline("probe", "udp://127.0.0.1:9", "--bundle", tmp_path)
    assert ended.code == 1
    assert "is no bundle" in ended.err
