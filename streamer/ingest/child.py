"""Processes that read media: FFmpeg can block where nothing interrupts it, and a process can be killed.

Promise: Ctrl-C is the streamer's affair alone; a child is killed with every program that it has started; and it does
not outlive the streamer, even if that was killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import DupFd
from typing import Any

from engines.errors import UsageError
from streamer.sources.opening import STDIN

_DEATH_S = 5.0


def start(main: Callable[..., None], *args: object, name: str) -> SpawnProcess:
    """Return a process that runs `main(*args)`, which should call `begin` first; from any thread."""
    process = multiprocessing.get_context("spawn").Process(target=main, args=args, name=name, daemon=True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()  # it inherits that Ctrl-C is not for it, from its first moment
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return process


def begin() -> None:
    """Do what a child does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        os.setsid()  # programs that it starts are in this group, and are killed with it
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def end(process: SpawnProcess) -> None:
    """Kill a process and its group, and forget it."""
    if process.pid is not None:
        with suppress(OSError):  # the group is there once the process has got so far, and while anybody is in it
            os.killpg(process.pid, signal.SIGKILL)
        if process.exitcode is None:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
    process.join(_DEATH_S)
    if process.exitcode is not None:  # otherwise it is stuck in the kernel, and nothing can be done
        process.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        with suppress(OSError):
            if os.getpgid(0) == os.getpid():
                os.killpg(0, signal.SIGKILL)
        os._exit(1)


class PassedFd:
    """A file descriptor that a process started with it finds open too, perhaps under another number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.fd),)


def stdin_of(url: str) -> PassedFd | None:
    """Return our standard input for a child, if a URL means it.

    Raises:
        UsageError: it is closed.
    """
    if url not in STDIN:
        return None
    if sys.stdin is None:
        raise UsageError("Standard input is closed; pipe a stream into it, as in: … | touchline live -")
    return PassedFd(sys.stdin.fileno())


def _received(passed: Any) -> PassedFd:
    return PassedFd(passed.detach())
