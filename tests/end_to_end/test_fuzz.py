"""A small part of `benchmarks/fuzz.py`, which is to be run at length: nothing that a user feeds ends in a traceback."""

import subprocess
import sys
from pathlib import Path


def fuzz(root: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, root / "benchmarks" / "fuzz.py", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_damaged_inputs_of_every_kind_are_accepted_or_refused_in_a_sentence(root: Path) -> None:
    done = fuzz(root, "--count", "250", "--no-torch", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "250 inputs" in done.stdout
    assert "0 findings" in done.stdout


def test_what_hangs_crashes_throws_or_takes_too_much_memory_is_found_and_kept(root: Path, tmp_path: Path) -> None:
    limits = ("--patience", "3", "--memory", "300")
    done = fuzz(root, "--only", "planted", "--count", "6", "--seed", "14", *limits, "--keep", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "6 findings" in done.stdout
    kept = [path.read_text().splitlines()[:2] for path in sorted(tmp_path.glob("planted-14-*/finding.txt"))]
    faults = ["memory", "thread", "memory", "hang", "traceback", "died"]
    ends = ["memory", "traceback", "memory", "hang", "traceback", "died"]
    assert kept == [[end, f"a planted fault: {fault}"] for end, fault in zip(ends, faults, strict=True)]
