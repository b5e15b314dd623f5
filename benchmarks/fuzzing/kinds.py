"""What all kinds of inputs have in common: a case, what it may end in, and the guard around it."""

import errno
import os
import random
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engines.errors import TouchlineError

LOOPBACK = ("127.0.0.1", "::1", "localhost", "")
CLOSED_PORTS = (1, 9)
"""Where nobody listens."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        title: how it is fed, for people.
        files: name → content, as they lie in the folder where it is fed.
        feed: what else is needed to feed it.
    """

    title: str
    files: Mapping[str, bytes]
    feed: Mapping[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """A kind of inputs. Whatever is slow is done in `prepare`."""

    def prepare(self, folder: Path) -> None:
        """Make ready to feed; the folder is this worker's own, and its current one."""

    def case(self, rng: random.Random) -> Case:
        """Return an input."""

    def feed(self, case: Case) -> None:
        """Feed an input, whose files lie in the current folder.

        Raises:
            TouchlineError: it is refused.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """An input that is to be made and fed."""

    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an input.

    Attributes:
        item: which.
        end: accepted; refused, in one sentence; or a finding: traceback, memory, hang, died.
        said: the sentence, or what is known of the finding.
        wall_s: how long it took.
        peak_mb: the most memory that the worker had meanwhile.
    """

    item: Item
    end: str
    said: str
    wall_s: float
    peak_mb: float = 0.0

    @property
    def is_finding(self) -> bool:
        """Whether something is wrong."""
        return self.end not in ("accepted", "refused")


Make = Callable[[], Mapping[str, Kind]]
"""Makes the kinds."""


class Passed(TouchlineError):
    """Raised where touchline would connect to somebody: the input has been accepted so far."""

    def __str__(self) -> str:
        return "The fuzzer goes no further."


StandIns = Sequence[tuple[object, str, object]]
"""Module or class, name there, and what takes its place."""


def replace_all(stand_ins: StandIns) -> None:
    """Put stand-ins in their places, which must be there: otherwise touchline would connect after all."""
    for owner, name, stand_in in stand_ins:
        getattr(owner, name)
        setattr(owner, name, stand_in)


class _Shield:
    """Refuses, as an audit hook, what an input could do to the world outside a folder."""

    def __init__(self, folder: Path) -> None:
        self._inside = (str(folder.resolve()), "/dev/null", "/dev/shm/", os.path.realpath("/proc/self"))
        self._checks: dict[str, Callable[..., None]] = {
            "open": self._open,
            "socket.connect": self._address,
            "socket.bind": self._address,
            "socket.sendto": self._address,
            "socket.getaddrinfo": self._host,
            "subprocess.Popen": self._program,
            "os.system": self._program,
            **dict.fromkeys(("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"), self._change),
        }

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self._checks:
            self._checks[event](*arguments)

    def _open(self, path: object, mode: object, flags: int) -> None:
        if any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR):
            self._change(path)

    def _change(self, path: object, *_: object) -> None:
        if isinstance(path, str | bytes | os.PathLike) and b"\0" not in os.fsencode(path):
            name = os.fsdecode(path)
            if not os.path.realpath(name).startswith(self._inside):
                raise PermissionError(errno.EACCES, _REFUSAL, name)

    def _address(self, _: object, address: object, *__: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise ConnectionRefusedError(errno.ECONNREFUSED, _REFUSAL)

    def _host(self, host: str | bytes | None, *_: object) -> None:
        if host is not None and os.fsdecode(host) not in LOOPBACK:
            raise socket.gaierror(socket.EAI_NONAME, _REFUSAL)

    def _program(self, program: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, _REFUSAL, str(program))


_REFUSAL = "not while fuzzing"


def shield(folder: Path) -> None:
    """From now on, let Python code here neither write outside a folder, nor start programs, nor reach other machines.

    It stays for the life of the process.
    """
    sys.addaudithook(_Shield(folder))
