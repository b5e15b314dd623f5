"""Worker processes that are fed inputs, and watched: one that dies, or is silent for too long, is a finding.

In: items, a kind and a number each. Out: verdicts, in any order. A worker is fed hundreds of inputs; one that hangs is
killed and replaced, and what it hung on is tried again in a fresh one, so that a busy machine is no finding.
"""

import multiprocessing
import os
import queue
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from fuzzing.kinds import Case, Item, Kind, Make, Verdict
from fuzzing.worker import READY, work

_PREPARE_S = 180.0
_STARVED = 12
"""On a busy machine an input may take so many times as long at the most."""
_INPUTS_A_WORKER = 500
_TOLD = 4000


def case_of(kind: Kind, seed: int, item: Item) -> Case:
    """Return an input; it depends on the seed, its kind and its number alone."""
    return kind.case(random.Random(f"{seed} {item.kind} {item.index}"))


class Pool:
    """Workers. Use as a context manager.

    Args:
        make: makes the kinds, in every worker; it is pickled.
        seed: of all inputs.
        workers: how many.
        patience_s: how long an input may take.
        most_mb: how much memory a worker may have.
        scratch: a folder for their files, which are removed.
    """

    def __init__(
        self, make: Make, seed: int, scratch: Path, *, workers: int, patience_s: float = 10.0, most_mb: int = 2048
    ) -> None:
        self._scratch, self._patience_s = scratch, patience_s
        self._start = partial(_Worker, make=make, seed=seed, most_mb=most_mb)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._tend, name=f"fuzz-{i}") for i in range(workers)]
        self._lock = threading.Lock()
        self._verdicts: queue.Queue[Verdict | BaseException | None] = queue.Queue()
        self._items: Iterator[Item] = iter(())

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def verdicts(self, items: Iterator[Item]) -> Iterator[Verdict]:
        """Feed all items, once; yield what becomes of each."""
        self._items = items
        for thread in self._threads:
            thread.start()
        left = len(self._threads)
        while left:
            verdict = self._verdicts.get()
            if isinstance(verdict, BaseException):
                raise verdict
            if verdict is None:
                left -= 1
            else:
                yield verdict

    def _next(self) -> Item | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._items, None)

    def _tend(self) -> None:
        """Keep one worker busy."""
        worker: _Worker | None = None
        try:
            while (item := self._next()) is not None:
                worker = worker or self._started()
                verdict = worker.fed(item, self._patience_s)
                if verdict.end in ("hang", "died"):
                    worker.end()
                    worker = None  # in case no other can be started
                    worker = self._started()
                    verdict = _weighed(verdict, worker.fed(item, self._patience_s))
                if not worker.lives or worker.inputs >= _INPUTS_A_WORKER:
                    worker.end()
                    worker = None
                self._verdicts.put(verdict)
            self._verdicts.put(None)
        except BaseException as error:  # handed to whoever takes the verdicts
            self._verdicts.put(error)
        finally:
            if worker is not None:
                worker.end()

    def _started(self) -> "_Worker":
        return self._start(folder=Path(tempfile.mkdtemp(dir=self._scratch)), stopped=self._stopped)


def _weighed(first: Verdict, alone: Verdict) -> Verdict:
    """Return what to make of an input that hung or died, and of what it did in a fresh worker."""
    if first.end == "hang":
        return alone
    return replace(first, said=f"{first.said}\nIn a fresh process: {alone.end}. {alone.said}")


class _Worker:
    """A worker, seen from outside."""

    def __init__(self, make: Make, seed: int, most_mb: int, folder: Path, stopped: threading.Event) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._folder, self._stopped = folder, stopped
        self._process = context.Process(target=work, args=(theirs, make, seed, most_mb, folder), name="fuzz")
        self._process.start()
        theirs.close()
        self.lives, self.inputs = True, 0
        verdict = self._hear(Item("", 0), _PREPARE_S)
        if verdict.end != READY:
            raise RuntimeError(f"A worker cannot be prepared: {verdict.said}{self.left()}")

    def fed(self, item: Item, patience_s: float) -> Verdict:
        """Have it make and feed an input."""
        self.inputs += 1
        try:
            self._connection.send(item)
        except OSError:
            self.lives = False
            return Verdict(item, "died", self.left(), 0.0)
        return self._hear(item, patience_s)

    def _hear(self, item: Item, patience_s: float) -> Verdict:
        since_s, starved_s = time.monotonic(), self._starved_s()
        try:
            while not self._connection.poll(0.5):
                wall_s = time.monotonic() - since_s
                own_s = max(wall_s - (self._starved_s() - starved_s), wall_s / _STARVED)
                if own_s > patience_s or self._stopped.is_set():
                    self.lives = False
                    return Verdict(item, "hang", f"nothing for {wall_s:.1f} s\n{self.left()}", wall_s)
            verdict: Verdict = self._connection.recv()
        except (EOFError, OSError):
            self.lives = False
            return Verdict(item, "died", self.left(), time.monotonic() - since_s)
        return verdict

    def _starved_s(self) -> float:
        """Return how long its threads could have run and were not let, where the system tells."""
        waited_ns = 0
        for path in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                waited_ns += int(path.read_text().split()[1])
        return waited_ns / 1e9

    def left(self) -> str:
        """Return its exit code, if it has ended, and the end of its standard error; a hanging one says where it is."""
        self._process.join(0.5)
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGUSR1)  # faulthandler writes where it is
            time.sleep(0.2)
        path = self._folder / "stderr"
        text = path.read_text(errors="replace")[-_TOLD:] if path.exists() else ""
        return f"exit code {self._process.exitcode}\n{text}"

    def end(self) -> None:
        """Kill it, with its files."""
        self.lives = False
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()
        self._process.close()
        self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)
