"""The command `touchline`: arguments in, exit code out. No logic lives here."""

import argparse
import asyncio
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from engines.errors import TouchlineError, UsageError
from streamer import logs, runs
from streamer.redact import printable, redact

BUG = 70
SECRETS = ("TOUCHLINE_TOKEN", "TOUCHLINE_PAGES_TOKEN", "TOUCHLINE_MQTT_PASSWORD")
"""Variables whose values are never shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 (failure), 2 (usage), 70 (a bug) or 130 (interrupted)."""
    try:
        return _main(argv)
    except TouchlineError as error:
        print(f"touchline: {printable(logs.safe(str(error)))}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError):
        return runs.INTERRUPTED
    except OSError as error:
        return _world(error)
    except Exception:
        return _bug()


def _world(error: OSError) -> int:
    """Return the exit code of a fault of the world: a file that cannot be written, a full disk, a closed pipe."""
    if error.errno not in (errno.EPIPE, errno.ENOSPC):
        if error.filename is None:
            return _bug()
        print(f"touchline: {printable(str(error.filename))}: {error.strerror}; give another path.", file=sys.stderr)
        return 1
    if error.errno == errno.ENOSPC:
        print("touchline: the output cannot be written: the disk is full.", file=sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left unwritten has nowhere to go
    return 1


def _bug() -> int:
    print(logs.safe(traceback.format_exc()), file=sys.stderr, end="")
    print("touchline: this is a bug; please report it with the lines above.", file=sys.stderr)
    return BUG


def _main(argv: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = _parser(arguments[0] if arguments else None).parse_args(arguments)
    level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
    for secret in SECRETS:
        logs.hide(os.environ.get(secret, ""))
    logs.configure(level, getattr(args, "log_format", "text"))
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


class _Parser(argparse.ArgumentParser):
    """One whose complaints cannot steer the terminal, whatever they quote."""

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint; exit with 2."""
        super().error(printable(redact(message)))


def _parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser; of the commands that live in modules of their own, only `command`'s is imported."""
    parser = _Parser(
        prog="touchline",
        description="Watches a football broadcast and says what happened, within a promised delay.",
        epilog="Exit codes: 0 done, 1 failure, 2 usage, 130 interrupted. `touchline COMMAND --help` tells more.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    runs.add_live(commands.add_parser("live", help="watch a stream and say spots as they happen", formatter_class=raw))
    replay = "run recordings through the same pipeline at full speed"
    runs.add_replay(commands.add_parser("replay", help=replay, formatter_class=raw))
    for name, (module, summary) in _MODULES.items():
        own = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            implementation = _import(module)
            implementation.add_arguments(own)
            own.set_defaults(run=implementation.run)
    return parser


_MODULES = {
    "probe": (
        "streamer.probe.command",
        "say what a stream is, how late spots will be, and what is wrong with it",
    ),
    "watch": ("streamer.watch", "print the spots that a broker delivers, one a line"),
    "demo": ("streamer.demo", "play the sample broadcast through the whole live path"),
    "spot": ("streamer.spot", "spot on feature files instead of a video"),
    "evaluate": ("training.evaluate", "score predictions with SoccerNet's metric"),
    "import": ("training.import_command", "turn weights of the original code into a bundle"),
    "train": ("training.train", "train a recipe and write its bundle (needs the train extra)"),
    "export": ("training.export_command", "make a bundle of a training checkpoint"),
    "tune": ("training.tune_command", "choose radius, calibration and thresholds on your own matches"),
    "embed": ("training.embed", "compute the embeddings of recordings, as feature files"),
}
"""Commands that bring their own arguments; torch and aiomqtt cost seconds to import."""


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in _EXTRAS:
            raise UsageError(f"This command needs {error.name}; install it with: make train-setup.") from error
        raise


_EXTRAS = ("torch", "onnx", "lightning_fabric", "tensorboardX", "scipy")
"""What the run-time set leaves out."""
