"""Words on stdout, whoever reads them, or does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

SAYING = """
import sys, time
from datetime import UTC, datetime
from engines.decider import Spot
from streamer.screen import JsonScreen
count, patient = int(sys.argv[1]), sys.argv[2] == "patient"
with JsonScreen(patient=patient) as screen:
    for n in range(count):
        screen.said(Spot(str(n), "main", 1, 0, "Goal", 1.0, 0.9, 4.0), datetime.now(UTC))
    print("said", file=sys.stderr, flush=True)
"""


def saying(root: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SAYING, *map(str, arguments)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_word_is_a_line_in_order(root: Path) -> None:
    out, err = saying(root, 3000, "patient").communicate(timeout=30)
    assert [json.loads(line)["id"] for line in out.splitlines()] == [str(n) for n in range(3000)]
    assert err == "said\n"


def test_a_reader_that_stops_reading_holds_up_no_live_stream(root: Path) -> None:
    with saying(root, 12_000, "live") as process:
        assert process.stderr is not None
        complaint = process.stderr.readline()
        assert "nobody reads stdout" in complaint
        assert process.stderr.readline() == "said\n"
        process.kill()


def test_a_slow_reader_of_a_replay_gets_every_word(root: Path) -> None:
    with saying(root, 12_000, "patient") as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        assert sum(1 for _ in process.stdout) >= 11_999
        assert process.wait(10) == 0


def test_a_reader_that_goes_away_is_an_error_of_the_next_word(root: Path) -> None:
    with saying(root, 12_000, "patient") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "BrokenPipeError" in process.stderr.read()
