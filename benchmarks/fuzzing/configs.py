"""Command lines, environments, and the files that commands read.

Stood in for: the reading process (a URL is looked at as it would be there), the connections to a broker, the broker
itself, the process of `probe`, and the demo's two processes. No command reaches the network.
"""

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from engines.errors import TouchlineError
from fuzzing import command_lines, tiny
from fuzzing.commands import run_command
from fuzzing.kinds import Case, Passed, StandIns, replace_all
from fuzzing.payloads import connected
from fuzzing.urls import look_at
from streamer import cli, delivery, demo, publisher, watch
from streamer.ingest import supervisor
from streamer.ingest.connection import Job
from streamer.ingest.messages import ClipDone
from streamer.probe import command as probe
from streamer.probe.looking import Look

TORCH = ("train", "import", "export")
"""Commands that need torch, which takes long to load."""


class Configs:
    """Command lines.

    Args:
        seeds: see media.make_seeds.
        torch: whether with the commands that need torch.
    """

    def __init__(self, seeds: Path, *, torch: bool) -> None:
        self._commands = ["live", "replay", "probe", "watch", "demo", "spot", "evaluate", "tune", "embed"]
        self._commands += TORCH if torch and find_spec("torch") and find_spec("lightning_fabric") else ()
        watching = tiny.bundle(tiny.manifest(), tiny.graphs())
        spotting = tiny.bundle(tiny.feature_manifest(), {"head.onnx": tiny.feature_head()})
        self._files = {f"bundle/{name}": data for name, data in watching.items()}
        self._files |= {f"features/{name}": data for name, data in spotting.items()}
        self._files["match.ts"] = (seeds / "h264.ts").read_bytes()

    def prepare(self, folder: Path) -> None:
        """Import what commands import, and put stand-ins where they would connect."""
        for command in self._commands:
            cli._parser(command)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        replace_all(_STAND_INS)

    def case(self, rng: random.Random) -> Case:
        """Return a command line, of which something is odd: an argument, a file, the environment."""
        command = rng.choice(self._commands)
        files = self._files | command_lines.FILES
        odd = rng.random()
        environment: dict[str, str] = {}
        if odd < 0.25 and command in command_lines.READS:
            name = rng.choice(command_lines.READS[command])
            files |= {name: command_lines.changed_file(name, files[name], rng)}
            arguments = command_lines.whole(command, rng)
        elif odd < 0.35:
            environment = command_lines.environment(rng)
            arguments = command_lines.whole(command, rng)
        else:
            arguments = command_lines.changed(command_lines.whole(command, rng), rng)
        return Case(
            f"touchline {' '.join(map(repr, arguments))} {environment or ''}",
            files,
            {"arguments": arguments, "environment": environment},
        )

    def feed(self, case: Case) -> None:
        """Run the command."""
        changed: dict[str, str] = case.feed["environment"]
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            run_command(case.feed["arguments"])
        except Passed:
            return
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class _Reader:
    """In place of the reading process."""

    def __init__(self, job: Job, on_clip: Callable[[ClipDone], None], on_preview: Callable[[bytes], None]) -> None:
        self.job, self.first_epoch = job, 0

    def receive(self, timeout_s: float) -> TouchlineError:
        """Return what is wrong with its URL, or that nothing is; both end the run."""
        try:
            look_at(self.job.url, self.job.config.input_options, self.job.from_s or None)
        except TouchlineError as error:
            return error
        return Passed()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None  # it is told of clips, and to finish


class _Looking(AbstractContextManager["_Looking"]):
    """In place of the process that `touchline probe` looks with."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def result(self, _: object) -> NoReturn:
        """Say what is wrong with its URL, or that nothing is."""
        look_at(self._look.url, self._look.options)
        raise Passed


class _Broker:
    """In place of the embedded broker."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.url = f"mqtt://{host}:{port or 1883}"

    async def __aenter__(self) -> "_Broker":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def _nothing(*_: Any, **__: Any) -> None:
    pass


_STAND_INS: StandIns = (
    (supervisor, "_Reader", _Reader),
    (probe, "_Looking", _Looking),
    (publisher.Publisher, "start", _nothing),
    (delivery, "EmbeddedBroker", _Broker),
    (watch, "connect", connected),
    (demo, "run_both", lambda *_: 0),
)
