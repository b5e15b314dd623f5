"""What all tests share: the hypothesis profile, the optional shared data, the command as a user runs it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Ended, Touchline
from hypothesis import settings
from originals import COPIES, Originals

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci")


def pytest_report_header() -> str:
    there = SHARED.is_dir()
    return f"shared data: {'found' if there else 'not there; tests that need it are skipped and say so'} (../shared)"


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what commands remember out of the developer's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture(params=["copies", "whole"])
def originals(request: pytest.FixtureRequest) -> Originals:
    """Return the numbers of the original code: the repository's small copies, then the full set in ../shared."""
    if request.param == "copies":
        return Originals(COPIES, whole=False)
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("../shared/fixtures is not there")
    return Originals(SHARED / "fixtures", whole=True)


@pytest.fixture
def sample() -> Path:
    return ROOT / "samples" / "broadcast.ts"


@pytest.fixture
def demo_bundle() -> Path:
    return ROOT / "bundles" / "demo"


@pytest.fixture
def touchline() -> Touchline:
    def run(*arguments: str | Path, timeout: float = 100) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "streamer", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def touchline_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Touchline:
    """Run the command in this process, which has torch already; for training's commands, where that takes seconds."""
    from streamer.cli import main

    monkeypatch.chdir(ROOT)

    def run(*arguments: str | Path, timeout: float = 100) -> Ended:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command in a process group of its own; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: str | Path, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # as in a terminal, even where whoever runs the tests ignores Ctrl-C (a background job does)
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            **options,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def short_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half minute of the sample, as a file of its own."""
    path = tmp_path_factory.mktemp("short") / "short.ts"
    data = (ROOT / "samples" / "broadcast.ts").read_bytes()
    path.write_bytes(data[: len(data) // 4 // 188 * 188])
    return path


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
