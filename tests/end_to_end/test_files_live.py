"""A file that cannot be written takes no live stream off the air."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Touchline

Start = Callable[..., "subprocess.Popen[str]"]


def test_a_live_stream_goes_on_without_a_file_that_is_gone(start: Start, short_sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    kept = tmp_path / "kept.csv"
    files = ["--out", folder / "words.json", "--out", kept]
    process = start("live", short_sample, "--speed", "4", "--threshold", "0.02", "--json", *files)
    assert process.stdout is not None
    said = [json.loads(process.stdout.readline()) for _ in range(3)]
    folder.rename(tmp_path / "elsewhere")
    rest, complaints = process.communicate(timeout=60)
    words = said + [json.loads(line) for line in rest.splitlines()]
    assert sum(word["state"] == "confirmed" for word in words) > 10
    assert complaints.count("goes on without it") >= 1
    assert process.returncode == 1, "at the end it says that the file is not what was said"
    assert "Traceback" not in complaints
    assert len(kept.read_text().splitlines()) == len(words) + 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--out", "{}/a.json", "--out", "{}/a.json"], "there twice"),
        (["--out", "{}/a.mp3"], "tells no format"),
        (["--out", "{}"], "is a folder"),
        (["--overlay", "{}/x.toml"], "--serve"),
        (["--serve", "80x"], "is not a port"),
        (["--serve", "0.0.0.0:0"], "TOUCHLINE_PAGES_TOKEN"),
        (["--speed", "fast"], "is not a speed"),
    ],
)
def test_outputs_that_make_no_sense_are_wrong_usage(
    touchline: Touchline, sample: Path, tmp_path: Path, options: list[str], why: str
) -> None:
    done = touchline("live", sample, *(option.format(tmp_path) for option in options))
    assert done.code == 2
    assert why in done.err
    assert "Traceback" not in done.err
