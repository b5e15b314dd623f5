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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import numpy as np
from rich.console import Group
from rich.table import Table

from engines.actions import Action, read_actions
from engines.errors import TouchlineError
from streamer.screen import clock
from streamer.watch import Received

TOLERANCE_S = 2.5
"""A spot of the right label this close to an action is counted as found."""
_PARTS = ("grid", "look_ahead", "hold", "compute", "publish")
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
    broker = ["--broker", "--broker-port", str(port), "--quiet"]
    watch = ["watch", f"mqtt://127.0.0.1:{port}", "--stream", "demo", "--until-stopped"]
    summary = ["--wait", str(_BROKER_WAIT_S), "--summary", str(args.labels)]
    return run_both([*touchline, *live, *broker], [*touchline, *watch, *summary])


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


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """True actions beside what was said of them.

    Attributes:
        found: each action with its spot, or None.
        false: spots of no action.
    """

    found: list[tuple[Action, Received | None]]
    false: list[Received]

    @property
    def recall(self) -> float:
        """Share of the actions that were found; 0 where there is none."""
        return sum(r is not None for _, r in self.found) / max(len(self.found), 1)

    @property
    def precision(self) -> float:
        """Share of the spots that were right; 0 where there is none."""
        right = sum(r is not None for _, r in self.found)
        return right / max(right + len(self.false), 1)


def match(actions: Sequence[Action], received: Sequence[Received], tolerance_s: float = TOLERANCE_S) -> Matched:
    """Give each action the nearest spot of its label and half, and each spot to one action at most.

    Args:
        actions: what happened.
        received: what was said; only confirmed spots count.
        tolerance_s: how far from the action a spot may be.

    Source: none; not SoccerNet's metric, which weighs all thresholds. The nearest pair is taken first.
    """
    confirmed = [one for one in received if one.spot.state == "confirmed"]
    pairs = sorted(
        (abs(one.spot.media_time - action.time_s), a, s)
        for a, action in enumerate(actions)
        for s, one in enumerate(confirmed)
        if (one.spot.label, one.spot.half) == (action.label, action.half)
    )
    spot_of: dict[int, int] = {}
    used: set[int] = set()
    for distance_s, a, s in pairs:
        if distance_s <= tolerance_s and a not in spot_of and s not in used:
            spot_of[a] = s
            used.add(s)
    found = [(action, confirmed[spot_of[a]] if a in spot_of else None) for a, action in enumerate(actions)]
    return Matched(found, [one for s, one in enumerate(confirmed) if s not in used])


def summary(actions: Sequence[Action], received: Sequence[Received], status: Mapping[str, Any]) -> Group:
    """Return what people see at the end.

    Args:
        actions: what happened in the sample.
        received: what the subscriber received.
        status: the streamer's `stopped` status, with its statistics.
    """
    matched = match(actions, received)
    right = len(matched.found) - sum(one is None for _, one in matched.found)
    verdict = (
        f"{right} of {len(matched.found)} actions found (recall {matched.recall:.0%}), {len(matched.false)} false "
        f"{'spot' if len(matched.false) == 1 else 'spots'} (precision {matched.precision:.0%}), "
        f"within {TOLERANCE_S:g} s."
    )
    return Group(
        "\nWhat happened, and what was said of it:",
        _actions_table(matched),
        verdict,
        "\nFrom the action to the subscriber, in seconds:",
        _latency_table(received),
        _run_sentence(status),
    )


def _actions_table(matched: Matched) -> Table:
    table = Table()
    for name in ("action", "label", "found at", "confidence", "late"):
        table.add_column(name, justify="left" if name == "label" else "right", no_wrap=True)
    for action, one in matched.found:
        label = action.label if action.visible else f"{action.label} (not shown)"
        if one is None:
            table.add_row(_exact(action.time_s), label, "missed", "", "", style="red")
        else:
            at, confidence = _exact(one.spot.media_time), f"{one.spot.confidence:.0%}"
            table.add_row(_exact(action.time_s), label, at, confidence, f"{one.late_s:.2f} s")
    return table


def _latency_table(received: Sequence[Received]) -> Table:
    """Return the delay by part: grid, look-ahead and hold are media time, compute and publish wall clock."""
    table = Table()
    for name in ("part", "p50", "p95", "max"):
        table.add_column(name, justify="left" if name == "part" else "right")
    values = defaultdict(list)
    for one in received:
        for part in _PARTS:
            values[part].append(one.publish_s if part == "publish" else one.spot.latency.get(part, 0.0))
        values["total"].append(one.late_s)
    for part in (*_PARTS, "total"):
        if values[part]:
            p50, p95 = np.percentile(values[part], [50, 95], method="inverted_cdf")
            cells = (f"{p50:.3f}", f"{p95:.3f}", f"{max(values[part]):.3f}")
            table.add_row(part.replace("_", "-"), *cells, style="bold" if part == "total" else "")
    return table


def _run_sentence(status: Mapping[str, Any]) -> str:
    factor, seconds, shed = (status.get(key) for key in ("real_time_factor", "seconds", "seconds_shed"))
    if factor is None or seconds is None or shed is None:
        return "The streamer has reported no statistics."
    return f"{seconds} seconds of media at {factor:.2f} times the speed of life; {shed} seconds shed."


def _exact(seconds: float) -> str:
    return f"{clock(seconds)}.{int(seconds * 10) % 10}"
