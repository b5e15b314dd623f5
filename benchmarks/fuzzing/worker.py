"""A worker's life: it makes inputs, feeds them, and says what became of each."""

import faulthandler
import gc
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from engines.errors import TouchlineError
from fuzzing.kinds import Case, Item, Kind, Make, Passed, Verdict, shield

READY = "ready"
_MOST_MORE_BYTES = 6 * 2**30
_TOLD = 6000

_unheard: list[str] = []
"""Exceptions that nobody caught, of other threads and of destructors."""


def work(connection: Connection, make: Make, seed: int, most_mb: int, folder: Path) -> None:
    """Feed what the connection names, until it is closed."""
    _settle(folder)
    shield(folder)
    kinds = make()
    try:
        for kind in kinds.values():
            kind.prepare(folder)
    except Exception:
        connection.send(Verdict(Item("", 0), "traceback", traceback.format_exc(), 0.0))
        return
    _limit_memory()
    connection.send(Verdict(Item("", 0), READY, "", 0.0))
    with suppress(EOFError, OSError):
        while True:
            item: Item = connection.recv()
            verdict = _verdict(item, kinds[item.kind], seed, folder / "case")
            if verdict.peak_mb > most_mb and not verdict.is_finding:
                verdict = replace(verdict, end="memory", said=f"{verdict.peak_mb:.0f} MB; {verdict.end} {verdict.said}")
            connection.send(verdict)


def _settle(folder: Path) -> None:
    """Cut the process off from the terminal, and let nothing that goes wrong in it pass unseen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    stderr = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stderr, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    threading.excepthook = lambda hooked: _unheard.append(
        "".join(traceback.format_exception(hooked.exc_type, hooked.exc_value, hooked.exc_traceback))
    )
    sys.unraisablehook = lambda hooked: _unheard.append(
        f"{hooked.err_msg or 'Exception ignored in'} {hooked.object!r}: {hooked.exc_value!r}"
    )
    warnings.simplefilter("ignore")
    logging.raiseExceptions = False
    sys.dont_write_bytecode = True
    tempfile.tempdir = str(folder)
    os.chdir(folder)


def _limit_memory() -> None:
    """Let what asks for gigabytes fail, instead of the machine."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MOST_MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _verdict(item: Item, kind: Kind, seed: int, folder: Path) -> Verdict:
    case = kind.case(random.Random(f"{seed} {item.kind} {item.index}"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_files(case, folder)
    os.chdir(folder)
    _forget_peak()
    _unheard.clear()
    since_s = time.monotonic()
    end, said = judged(kind, case)
    wall_s = time.monotonic() - since_s
    gc.collect(0)
    if _unheard and end in ("accepted", "refused"):
        end, said = "traceback", "\n".join(_unheard)
    return Verdict(item, end, said[-_TOLD:], wall_s, _peak_mb())


def write_files(case: Case, folder: Path) -> None:
    """Write an input's files."""
    for name, data in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def judged(kind: Kind, case: Case) -> tuple[str, str]:
    """Feed an input; return what becomes of it, and what is said."""
    try:
        kind.feed(case)
    except Passed:
        return "accepted", ""
    except TouchlineError as error:
        return "refused", str(error)
    except BaseException:
        return "traceback", traceback.format_exc()
    return "accepted", ""


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    """Return the most resident memory since it was forgotten, or, where that cannot be, ever."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
