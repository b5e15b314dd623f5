"""The demo's table tells the truth, and its two processes end together."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engines.actions import Action, read_actions
from engines.decider import Spot
from engines.errors import DataError, TouchlineError
from streamer.demo import run, run_both
from streamer.payload import Received
from streamer.summary import match, summary


def received(label: str, at_s: float, publish_s: float = 0.01, **changes: Any) -> Received:
    latency = {"grid": 0.5, "look_ahead": 4.0, "hold": 2.5, "compute": 0.05}
    spot = Spot(f"{label}{at_s}", "demo", 1, 0, label, at_s, 0.8, at_s + 7, latency=latency)
    return Received(Spot(**{f: getattr(spot, f) for f in Spot.__slots__} | changes), publish_s, {})


def rendered(*arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(*arguments))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# Matching


def test_an_action_takes_the_nearest_spot_of_its_label() -> None:
    far, near = received("Goal", 12.0), received("Goal", 9.5)
    matched = match([Action("Goal", 1, 10.0)], [far, near, received("Foul", 10.0)])
    assert matched.found == [(Action("Goal", 1, 10.0), near)]
    assert [one.spot.label for one in matched.false] == ["Goal", "Foul"]
    assert matched.recall == 1
    assert matched.precision == pytest.approx(1 / 3)


def test_a_spot_is_used_once() -> None:
    actions = [Action("Goal", 1, 10.0), Action("Goal", 1, 11.0)]
    matched = match(actions, [received("Goal", 10.8)])
    assert [one is not None for _, one in matched.found] == [False, True]


@pytest.mark.parametrize(("at_s", "found"), [(12.5, True), (12.51, False), (7.5, True)])
def test_a_spot_counts_up_to_the_tolerance(at_s: float, found: bool) -> None:
    matched = match([Action("Goal", 1, 10.0)], [received("Goal", at_s)])
    assert (matched.found[0][1] is not None) is found


def test_another_half_and_what_was_not_confirmed_do_not_count() -> None:
    spots = [received("Goal", 10.0, half=2), received("Goal", 10.0, state="retracted")]
    matched = match([Action("Goal", 1, 10.0)], spots)
    assert matched.recall == 0
    assert len(matched.false) == 1


def test_nothing_at_all_is_nothing_found() -> None:
    assert (match([], []).recall, match([], []).precision) == (0, 0)


moments = st.lists(st.tuples(st.sampled_from(["Goal", "Foul"]), st.floats(0, 30)), max_size=12)


@given(moments, moments)
def test_every_spot_is_either_found_or_false(happened: list[tuple[str, float]], said: list[tuple[str, float]]) -> None:
    spots = [received(label, at_s) for label, at_s in said]
    matched = match([Action(label, 1, at_s) for label, at_s in happened], spots)
    used = [one for _, one in matched.found if one is not None]
    assert len(matched.found) == len(happened)
    assert {id(one) for one in [*used, *matched.false]} == {id(one) for one in spots}
    assert len(used) + len(matched.false) == len(spots)
    assert all(one is None or abs(one.spot.media_time - action.time_s) <= 2.5 for action, one in matched.found)


# The table


def test_the_summary_shows_actions_latency_and_the_run() -> None:
    actions = [Action("Goal", 1, 754.3), Action("Foul", 1, 800.0, visible=False)]
    early = received("Goal", 754.5, id="Goal754.9", state="provisional", emitted_at=759.0)
    taken_back = [received("Foul", 30.0, state=state) for state in ("provisional", "retracted")]
    spots = [early, *taken_back, received("Goal", 754.9), received("Corner", 20.0, publish_s=0.03)]
    text = rendered(actions, spots, {"statistics": {"seconds": 90, "seconds_shed": 2, "real_time_factor": 7.912}})
    lines = [" ".join(part.split()) for part in text.replace("│", " ").splitlines()]
    assert "12:34.3 Goal 12:34.9 80% 4.16 s 7.06 s" in lines
    assert "2 spots were said provisionally, 1 of them retracted." in lines
    assert "13:20.0 Foul (not shown) missed" in lines
    assert "1 of 2 actions found (recall 50%), 1 false spot (precision 50%), within 2.5 s." in lines
    assert "look-ahead 4.000 4.000 4.000" in lines
    assert "publish 0.010 0.030 0.030" in lines
    assert "total 7.060 7.080 7.080" in lines
    assert "90 seconds of media at 7.91 times the speed of life; 2 seconds shed." in lines


def test_a_run_without_spots_or_statistics_has_a_summary_too() -> None:
    text = rendered([Action("Goal", 1, 1.0)], [], {})
    assert "0 of 1 actions found (recall 0%), 0 false spots (precision 0%)" in text
    assert "no statistics" in text


# The labels


def test_position_counts_and_game_time_only_without_it(tmp_path: Path) -> None:
    path = tmp_path / "Labels-v2.json"
    annotations = [
        {"gameTime": "2 - 01:00", "label": "Goal", "position": "60500", "visibility": "visible"},
        {"gameTime": "1 - 12:34", "label": "Foul", "position": "", "visibility": "not shown"},
    ]
    path.write_text(json.dumps({"annotations": annotations}))
    assert read_actions(path) == [Action("Foul", 1, 754.0, visible=False), Action("Goal", 2, 60.5)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"annotations": 3}', '{"annotations": [{"label": "Goal"}]}', "\0"])
def test_what_is_no_labels_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "Labels-v2.json"
    path.write_text(text)
    with pytest.raises(DataError, match="Labels-v2 format"):
        read_actions(path)


def test_missing_labels_are_said_before_anything_starts(tmp_path: Path) -> None:
    args = argparse.Namespace(labels=tmp_path / "none.json", sample=Path(), bundle=Path(), speed=1)
    with pytest.raises(DataError, match="No such file"):
        run(args)


# The two processes

STREAMER = """
import asyncio, sys
from datetime import UTC, datetime
from engines.decider import Spot
from streamer.broker import EmbeddedBroker
from streamer.config import MqttConfig
from streamer.mqtt import parse_broker_url
from streamer.outbox import Outbox
from streamer.payload import SpotMessage, StatusMessage
from streamer.publisher import Publisher

async def main(port):
    async with EmbeddedBroker(port=port) as broker:
        outbox = Outbox(None)
        await outbox.open()
        publisher = Publisher(parse_broker_url(broker.url), "demo", outbox, MqttConfig(broker.url), run="r")
        await publisher.start(status("online"), patient=False)
        while "touchline/demo/spots/provisional" not in broker._broker.subscriptions:
            await asyncio.sleep(0.05)
        for n in range(3):
            early = Spot(str(n), "demo", 1, 0, "Goal", 10.0 * n, 0.8, 10.0 * n + 3, "provisional")
            publisher.pass_on("spot", word(early))
            await asyncio.sleep(0.2)
            await outbox.put([word(Spot(str(n), "demo", 1, 0, "Goal", 10.0 * n, 0.9, 10.0 * n + 7, revision=2))])
            publisher.wake()
            await asyncio.sleep(0.2)
        await publisher.stop(status("stopped", {"seconds": 30, "seconds_shed": 0, "real_time_factor": 5.0}), 10)
        await outbox.close()

def status(state, statistics=None):
    return StatusMessage(stream="demo", run="r", state=state, at_utc=datetime.now(UTC), statistics=statistics)

def word(spot):
    return SpotMessage.of(spot, datetime.now(UTC))

asyncio.run(main(int(sys.argv[1])))
"""
WATCHER = """
import argparse, sys
from streamer.watch import add_arguments, run
parser = argparse.ArgumentParser()
add_arguments(parser)
sys.exit(run(parser.parse_args(sys.argv[1:])))
"""
FOR_EVER = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]


def ending(code: int, said: str = "") -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.stderr.write({said!r}); sys.exit({code})"]


def test_what_the_subscriber_receives_is_shown_and_summed_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    labels = tmp_path / "Labels-v2.json"
    happened = [{"gameTime": "1 - 00:10", "label": "Goal", "position": str(ms)} for ms in (400, 10_400, 50_000)]
    labels.write_text(json.dumps({"annotations": happened}))
    url = f"mqtt://127.0.0.1:{unused_tcp_port}"
    code = run_both(
        [sys.executable, "-c", STREAMER, str(unused_tcp_port)],
        [sys.executable, "-c", WATCHER, url, "--stream", "demo", "--until-stopped", "--summary", str(labels)],
    )
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    assert [" ".join(text.split()[:3]) for text in out.splitlines()[:6]] == [
        *("00:00 Goal 80%", "00:00 Goal 90%"),
        *("00:10 Goal 80%", "00:10 Goal 90%"),
        *("00:20 Goal 80%", "00:20 Goal 90%"),
    ]
    assert "2 of 3 actions found (recall 67%), 1 false spot (precision 67%)" in " ".join(out.split())
    assert "30 seconds of media at 5.00 times" in out


def test_a_run_that_saw_nothing_is_not_summed_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    labels = tmp_path / "Labels-v2.json"
    labels.write_text('{"annotations": []}')
    nothing = STREAMER.replace("range(3)", "range(0)").replace('"seconds": 30', '"seconds": 0')
    url = f"mqtt://127.0.0.1:{unused_tcp_port}"
    run_both(
        [sys.executable, "-c", nothing, str(unused_tcp_port)],
        [sys.executable, "-c", WATCHER, url, "--stream", "demo", "--until-stopped", "--summary", str(labels)],
    )
    assert capfd.readouterr().out == ""


def test_a_streamer_that_dies_has_the_last_word(capfd: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    assert run_both(ending(1, "touchline: no such bundle.\n"), FOR_EVER) == 1
    assert capfd.readouterr().err == "touchline: no such bundle.\n"
    assert time.monotonic() - started_s < 10


def test_a_streamer_that_was_killed_is_one_sentence() -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(TouchlineError, match=r"^The streamer was ended by SIGKILL\.$"):
        run_both(killed, FOR_EVER)


def test_a_subscriber_that_fails_ends_the_streamer_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_both(FOR_EVER, ending(1, "touchline: nobody answers.\n")) == 1
    assert capfd.readouterr().err == "touchline: nobody answers.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_both_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    child = [
        sys.executable,
        "-c",
        f"import os,time; open({str(pids)!r},'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)",
    ]
    program = f"import sys; from streamer.demo import run_both; sys.exit(run_both({child!r}, {child!r}))"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as parent:
        while not pids.exists() or pids.read_text().count("\n") < 2:
            time.sleep(0.05)
        parent.send_signal(number)
        assert parent.wait(20) == 128 + number
        assert parent.stderr is not None
        assert parent.stderr.read() == ""
    for pid in map(int, pids.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_who_does_not_end_when_asked_is_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ready = tmp_path / "ready"
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    failing = (
        "import os, sys, time\nwhile not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()): time.sleep(0.05)\n"
        "sys.exit('failed')"
    )
    streamer, watcher = ([sys.executable, "-c", text, str(ready)] for text in (stubborn, failing))
    assert run_both(streamer, watcher, patience_s=0.5) == 1
    assert capfd.readouterr().err == "failed\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready.read_text()), 0)


def test_a_subscriber_that_misses_the_end_is_not_waited_for_for_ever() -> None:
    with pytest.raises(TouchlineError, match="did not learn"):
        run_both(ending(0), FOR_EVER, patience_s=0.5)
