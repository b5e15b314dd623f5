import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import Touchline

Start = Callable[..., "subprocess.Popen[str]"]


def essence(spot: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("id", "revision", "state", "label", "media_time", "confidence", "emitted_at", "flags")
    return tuple(spot[key] for key in keys)


@pytest.mark.parametrize("words", [("--no-provisional",), ("--deadline", "3.2", "--provisional", "0.3")])
def test_replay_equals_live(touchline: Touchline, short_sample: Path, words: tuple[str, ...]) -> None:
    replay = touchline("replay", short_sample, "--threshold", "0.02", *words)
    live = touchline("live", short_sample, "--speed", "2", "--threshold", "0.02", *words)
    assert (replay.code, live.code) == (0, 0), replay.err + live.err
    assert len(replay.spots) > 5
    assert [essence(s) for s in replay.spots] == [essence(s) for s in live.spots]
    assert ({s["state"] for s in live.spots} > {"confirmed"}) == ("--provisional" in words)


def test_replay_twice_says_the_same(touchline: Touchline, short_sample: Path) -> None:
    first, second = (touchline("replay", short_sample, "--threshold", "0.1") for _ in range(2))
    assert [essence(s) for s in first.spots] == [essence(s) for s in second.spots]


def test_a_spot_keeps_the_promise_and_its_parts_add_up(touchline: Touchline, short_sample: Path) -> None:
    done = touchline("replay", short_sample, "--threshold", "0.02")
    promise = float(done.err.split("at most ")[1].split(" s ")[0])
    for spot in done.spots:
        delay = spot["emitted_at"] - spot["media_time"]
        assert delay <= promise + 1e-6
        assert abs(sum(spot["latency"][p] for p in ("grid", "look_ahead", "hold")) - delay) < 1e-6


def test_two_files_are_two_halves(touchline: Touchline, short_sample: Path, tmp_path: Path) -> None:
    results = tmp_path / "results_spotting.json"
    done = touchline("replay", short_sample, short_sample, "--threshold", "0.1", "--out", results)
    assert done.code == 0, done.err
    predictions = json.loads(results.read_text())["predictions"]
    confirmed = [s for s in done.spots if s["state"] == "confirmed"]
    assert len(predictions) == len(confirmed)
    halves = {half: [p["position"] for p in predictions if p["half"] == half] for half in ("1", "2")}
    assert halves["1"] == halves["2"]
    assert halves["1"]
    assert len({s["id"] for s in confirmed}) == len(confirmed)


def test_the_results_file_can_be_evaluated(touchline: Touchline, sample: Path, tmp_path: Path) -> None:
    """The shipped bundle finds real actions of the shipped sample: well above chance."""
    results = tmp_path / "results_spotting.json"
    assert touchline("replay", sample, "--threshold", "0.02", "--out", results).code == 0
    done = touchline("evaluate", results, "--labels", sample.parent / "Labels-v2.json", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["a_mAP_occurring"] > 0.4


def test_every_spot_has_the_promised_fields(touchline: Touchline, short_sample: Path) -> None:
    spots = touchline("replay", short_sample, "--threshold", "0.1", "--stream", "cup final").spots
    spot = next(s for s in spots if s["state"] == "confirmed")
    wanted = {
        "id",
        "stream",
        "label",
        "media_time",
        "confidence",
        "state",
        "revision",
        "emitted_at",
        "latency",
        "flags",
    }
    assert wanted <= set(spot)
    assert spot["stream"] == "cup final"
    assert spot["state"] == "confirmed"
    assert {"grid", "look_ahead", "hold", "compute"} <= set(spot["latency"])


def test_ctrl_c_ends_live_cleanly(start: Start, sample: Path) -> None:
    process = start("live", sample, "--threshold", "0.02")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("{")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    out, err = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert all(json.loads(line)["id"] for line in out.splitlines())


def test_sigterm_ends_live_as_ctrl_c_does(start: Start, sample: Path) -> None:
    process = start("live", sample, "--threshold", "0.02")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_no_process_is_left_behind_when_the_streamer_is_killed(start: Start, sample: Path) -> None:
    process = start("live", sample, "--threshold", "0.02")
    assert process.stdout is not None
    process.stdout.readline()
    readers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert readers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(map(psutil.pid_exists, readers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(psutil.pid_exists, readers))


def test_a_reader_that_goes_away_is_no_traceback(start: Start, short_sample: Path) -> None:
    process = start("replay", short_sample, "--threshold", "0.02")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=60)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stdout = None


def test_live_leaves_work_out_rather_than_fall_behind(touchline: Touchline, sample: Path) -> None:
    """At forty times the speed of life no decoder here keeps up: pictures are skipped, and the file ends in time."""
    started = time.monotonic()
    done = touchline("live", sample, "--speed", "40", "--threshold", "0.05")
    assert done.code == 0, done.err
    assert time.monotonic() - started < 60
    told = re.search(r"(\d+) seconds at .* (\d+) seconds shed, (\d+) pictures skipped", done.err)
    assert told is not None
    seconds, shed, skipped = map(int, told.groups())
    assert 110 <= seconds + shed <= 125  # pictures skipped at the very end leave no second behind
    assert skipped > 100
