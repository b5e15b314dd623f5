"""The command `touchline`: arguments in, exit code out. No logic lives here."""

import argparse
import asyncio
import errno
import importlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from engines.errors import TouchlineError, UsageError
from streamer.arguments import add_input_option, seconds
from streamer.config import ClipConfig, IngestConfig, OutputConfig, RunConfig, WatchConfig
from streamer.decision import add_deadline
from streamer.redact import printable, redact

INTERRUPTED, BUG = 130, 70
_BUNDLE = Path("bundles/demo")

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_Parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 (failure), 2 (usage), 70 (a bug) or 130 (interrupted)."""
    try:
        return _main(argv)
    except TouchlineError as error:
        print(f"touchline: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
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
    traceback.print_exc()
    print("touchline: this is a bug; please report it with the lines above.", file=sys.stderr)
    return BUG


def _main(argv: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = _parser(arguments[0] if arguments else None).parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if getattr(args, "quiet", False) else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
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
    _add_live(commands)
    _add_replay(commands)
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


_PATIENCE_S = 60.0
"""A replay waits so long for a file that gives nothing: a pipe that nobody writes to, a server that has died."""

_SOURCES = """URL is one of
  match.ts  -                       a file, standard input
  http://…  https://…  ….m3u8       progressive or HLS, live or not
  rtsp://camera/main                over TCP; --input-option rtsp_transport=udp for UDP
  rtmp://server/app/key             pull; with ?listen=1 wait for an encoder that pushes
  udp://@239.1.2.3:5000  tcp://h:p  MPEG-TS; tcp with ?listen=1 waits for a sender
  srt://host:9000  srt://:9000      caller, listener
  whip://127.0.0.1:8889/main        wait for OBS, FFmpeg or a browser to publish over WebRTC
  whep://host/path  wheps://…       pull over WebRTC; a bearer token is taken from TOUCHLINE_TOKEN

example: touchline live rtsp://camera/main --mqtt mqtt://localhost --clips clips"""


def _add_live(commands: "Commands") -> None:
    parser = commands.add_parser(
        "live",
        help="watch a stream and say spots as they happen",
        description="Watch a stream, or a file at the speed of life, and say spots as they happen.\n"
        "A stream that stalls, ends or breaks off is opened again, for ever.\n"
        "When the machine is too slow, whole seconds are shed (and counted) rather than fall behind.",
        epilog=_SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="what to watch; - is standard input")
    parser.add_argument(
        "--speed", type=_speed, default=1.0, metavar="X", help="play a file at X times the speed of life (default 1)"
    )
    watch = WatchConfig()
    parser.add_argument(
        "--stall",
        type=seconds,
        default=watch.stall_s,
        metavar="S",
        help=f"open the stream again when nothing has come for so long (default {watch.stall_s:g}; twice as long, and "
        "10 s at least, is allowed for opening it, and three times, and 15 s at least, for its first second)",
    )
    parser.add_argument(
        "--stale",
        type=seconds,
        default=1.0,
        metavar="S",
        help="shed whole seconds, oldest first, that have waited for the engines for longer than this (default 1)",
    )
    parser.add_argument(
        "--retries",
        type=_count,
        metavar="N",
        help="open it again at most N times in a row, also if it could not be opened at first (default: for ever, once "
        "it has been open; a URL that cannot be opened at all is an error at once)",
    )
    _add_common(parser)
    parser.set_defaults(run=_live)


def _add_replay(commands: "Commands") -> None:
    parser = commands.add_parser(
        "replay",
        help="run recordings through the same pipeline at full speed",
        description="Run recordings through the live pipeline as fast as it goes, losing nothing. Two files are the "
        "two halves of one match. The spots are those that live would have said.",
        epilog="example: touchline replay 1.mp4 2.mp4 --bundle bundles/demo --out results_spotting.json\n"
        "         touchline replay 1.mp4 2.mp4 --start 1-40:00 --end 2-05:00 --clips clips",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("urls", metavar="FILE", nargs="+", help="a recording, or the halves of a match in order")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write SoccerNet's results_spotting.json, or every word as JSON lines if FILE ends in .jsonl",
    )
    parser.add_argument("--realtime", action="store_true", help="play at the speed of life")
    parser.add_argument(
        "--start",
        type=_moment,
        metavar="[HALF-]MM:SS",
        help="say only what happened from here on (a moment of the first file, unless HALF says which); in a recording "
        "whose timestamps start anew in its middle it may be a moment of either part",
    )
    parser.add_argument(
        "--end",
        type=_moment,
        metavar="[HALF-]MM:SS",
        help="and only up to here (of the last file, unless HALF says which)",
    )
    _add_common(parser)
    parser.set_defaults(run=_replay)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, default=_BUNDLE, metavar="DIR", help=f"the model (default {_BUNDLE})")
    parser.add_argument("--stream", type=_stream, default="main", metavar="NAME", help="name of the broadcast")
    parser.add_argument("--threshold", type=_share, metavar="P", help="say every spot of at least this confidence")
    add_deadline(parser)
    provisional = parser.add_mutually_exclusive_group()
    provisional.add_argument(
        "--provisional", type=_share, metavar="P", help="say provisional words from this confidence on"
    )
    provisional.add_argument("--no-provisional", action="store_true", help="say nothing before it is settled")
    clips = ClipConfig(Path())
    parser.add_argument(
        "--clips",
        type=Path,
        metavar="DIR",
        help="write a clip of each confirmed spot there, in the stream's own encoding",
    )
    parser.add_argument(
        "--clip-pre",
        type=seconds,
        default=clips.pre_s,
        metavar="S",
        help=f"seconds before the action (default {clips.pre_s:g})",
    )
    parser.add_argument(
        "--clip-post", type=seconds, default=clips.post_s, metavar="S", help=f"and after it (default {clips.post_s:g})"
    )
    parser.add_argument("--mqtt", metavar="URL", help="publish to this broker: mqtt://[user:password@]host[:port]")
    parser.add_argument("--prefix", default="touchline", help="first level of the topics (default touchline)")
    parser.add_argument(
        "--broker",
        action="store_true",
        help="start an MQTT broker on loopback, and publish to it unless --mqtt says where",
    )
    parser.add_argument("--broker-port", type=_port, default=1883, metavar="PORT", help="its port (default 1883)")
    parser.add_argument("--metrics-port", type=_port, metavar="PORT", help="serve /metrics, /healthz, /readyz here")
    add_input_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines on a terminal too")
    parser.add_argument("--quiet", action="store_true", help="log warnings only")


def _live(args: argparse.Namespace) -> int:
    watch = WatchConfig(max(10.0, 2 * args.stall), max(15.0, 3 * args.stall), args.stall, args.retries)
    ingest = IngestConfig(
        (args.url,),
        live=True,
        speed=args.speed,
        input_options=dict(args.input_option),
        watch=watch,
        stale_s=args.stale,
    )
    return _run(args, ingest)


def _replay(args: argparse.Namespace) -> int:
    if args.out is not None and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        raise UsageError(f"{args.out}: is a folder, or in none; give a file to write.")
    halves = len(args.urls)
    start, end = args.start or (None, 0.0), args.end
    ingest = IngestConfig(
        tuple(args.urls),
        live=False,
        speed=1.0 if args.realtime else None,
        input_options=dict(args.input_option),
        watch=WatchConfig(_PATIENCE_S, _PATIENCE_S, _PATIENCE_S),
        start=(start[0] or 1, start[1]),
        end=(end[0] or halves, end[1]) if end is not None else None,
    )
    last = ingest.end or (halves, float("inf"))
    if not 1 <= ingest.start[0] <= last[0] <= halves or ingest.start >= last:
        raise UsageError(
            f"--start and --end name no part of {halves} file{'s' * (halves > 1)}: the end is not after the start."
        )
    return _run(args, ingest, args.out)


def _run(args: argparse.Namespace, ingest: IngestConfig, results: Path | None = None) -> int:
    from streamer.pipeline import Pipeline
    from streamer.screen import JsonScreen, TerminalScreen

    output = OutputConfig(
        mqtt_url=args.mqtt,
        mqtt_prefix=args.prefix,
        broker=args.broker,
        broker_port=args.broker_port,
        metrics_port=args.metrics_port,
        results=results,
    )
    if args.clips is not None:
        _check_clips(args.clips, ingest)
    config = RunConfig(
        args.bundle,
        args.stream,
        ingest,
        output,
        threshold=args.threshold,
        deadlines_s=dict(args.deadline),
        provisional_threshold=args.provisional,
        provisional=not args.no_provisional,
        clips=ClipConfig(args.clips, args.clip_pre, args.clip_post) if args.clips is not None else None,
    )
    screen = TerminalScreen() if sys.stdout.isatty() and not args.json else JsonScreen()
    with screen if isinstance(screen, TerminalScreen) else nullcontext():
        asyncio.run(_interruptible(Pipeline(config, screen).run()))
    return 0


def _check_clips(folder: Path, ingest: IngestConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: clips cannot be written there: {error.strerror}.") from error
    for url in ingest.urls:
        if url.partition(":")[0].lower() in ("whip", "whep", "wheps"):
            raise UsageError("--clips needs an encoded stream, and WebRTC gives pictures alone; leave it out.")


async def _interruptible(work: Awaitable[None]) -> None:
    """Await `work`; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # not on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await work


def _speed(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: a speed lies between 0.01 and 1000")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 on belongs here")
    return value


def _moment(text: str) -> tuple[int | None, float]:
    """Return half, if it is named, and seconds."""
    found = re.fullmatch(r"(?:([1-9])-)?(?:(\d+):)?(\d+):(\d\d(?:\.\d+)?)|(\d+(?:\.\d+)?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write MM:SS or H:MM:SS, with the half before it if it matters: 2-05:00"
        )
    half, hours, minutes, seconds, alone = found.groups()
    if alone is not None:
        return None, float(alone)
    return int(half) if half else None, int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a confidence lies between 0 and 1")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port lies between 0 and 65535 (0 takes a free one)")
    return value


def _stream(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a stream's name is 1 to 64 letters, digits, '.', '_', '-' or blanks"
        )
    return text
