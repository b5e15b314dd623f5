"""`touchline demo`: the sample broadcast through the whole live path, seen by an independent subscriber.

Two processes: the streamer, with a broker of its own, and a subscriber, whose output is what people see. The table at
the end rests on what the subscriber received and on the labels, on nothing that the streamer keeps to itself.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from engines.actions import read_actions
from engines.errors import TouchlineError

_BROKER_WAIT_S = 120
_PATIENCE_S = 20.0
_POLL_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="X times the speed of life (default 1)")
    parser.add_argument("--sample", type=Path, default=Path("samples/broadcast.ts"), metavar="FILE")
    parser.add_argument("--labels", type=Path, default=Path("samples/Labels-v2.json"), metavar="FILE")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Run the demo; return its exit code.

    Raises:
        DataError: the labels cannot be read.
        TouchlineError: a part of it failed and has not said why.
    """
    read_actions(args.labels)  # rather now than after the game
    port = _free_port()
    touchline = [sys.executable, "-m", "streamer"]
    live = ["live", str(args.sample), "--bundle", str(args.bundle), "--speed", str(args.speed), "--stream", "demo"]
    pages = _free_port()
    broker = ["--broker", "--broker-port", str(port), "--serve", str(pages), "--quiet"]
    watch = ["watch", f"mqtt://127.0.0.1:{port}", "--stream", "demo", "--until-stopped"]
    address = f"http://127.0.0.1:{pages}"
    print(f"Watch it at {address}/ as long as it plays; what goes on air: {address}/overlay\n", flush=True)
    summary = ["--wait", str(_BROKER_WAIT_S), "--summary", str(args.labels)]
    with tempfile.TemporaryDirectory() as clips:
        return run_both([*touchline, *live, *broker, "--clips", clips], [*touchline, *watch, *summary])


def run_both(streamer: Sequence[str], watcher: Sequence[str], patience_s: float = _PATIENCE_S) -> int:
    """Run the two processes to their end; an interrupt ends both.

    Args:
        streamer: command line; its standard error is ours, its standard output nobody's.
        watcher: command line; its standard output is ours, its standard error shown only if it fails by itself.
        patience_s: how long one may take to end when the other has, or when it is asked to; then it is killed.

    Returns:
        0, 1 if one of them failed, 128 + the signal if interrupted.

    Raises:
        TouchlineError: one of them ended without saying why.
    """
    with _Interrupts() as interrupts, tempfile.TemporaryFile() as complaints:
        children: list[subprocess.Popen[bytes]] = []
        try:
            # Sessions of their own: Ctrl-C on the terminal reaches us alone, and we end them in order.
            children.append(subprocess.Popen(streamer, stdout=subprocess.DEVNULL, start_new_session=True))
            children.append(subprocess.Popen(watcher, stderr=complaints, start_new_session=True))
            ended = _wait(children, interrupts, patience_s)
        finally:
            _end(children, patience_s)
        if interrupts.signal:
            return 128 + interrupts.signal
        if ended == [0, 0]:
            return 0
        return _failure(ended, complaints)


def _wait(
    children: Sequence[subprocess.Popen[bytes]], interrupts: "_Interrupts", patience_s: float
) -> list[int | None]:
    """Return the exit codes, None for one that was still running when the other had failed or long ended."""
    until_mono_s = float("inf")
    while not interrupts.signal and time.monotonic() < until_mono_s:
        codes = [child.poll() for child in children]
        if None not in codes or any(codes):
            return codes
        if 0 in codes:
            until_mono_s = min(until_mono_s, time.monotonic() + patience_s)
        time.sleep(_POLL_S)
    return [child.poll() for child in children]


def _end(children: Sequence[subprocess.Popen[bytes]], patience_s: float) -> None:
    """End what still runs: ask, wait, then kill it and what it has started."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    until_mono_s = time.monotonic() + patience_s
    for child in children:
        try:
            child.wait(max(0.0, until_mono_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # its own session, so its own group
            child.wait()


def _failure(ended: Sequence[int | None], complaints: IO[bytes]) -> int:
    """Return 1 if who failed has said why; what the subscriber says of a dead streamer is of no interest."""
    for name, code in zip(("streamer", "subscriber"), ended, strict=True):
        if code is not None and code < 0:
            raise TouchlineError(f"The {name} was ended by {signal.Signals(-code).name}.")
    if not ended[0]:
        complaints.seek(0)
        text = complaints.read().decode(errors="replace")
        if not text:
            raise TouchlineError("The streamer has ended, but the subscriber did not learn of it in time.")
        sys.stderr.write(text)
    return 1


class _Interrupts:
    """Remembers SIGINT, SIGTERM and SIGHUP instead of breaking off wherever they arrive."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
