"""`touchline live` and `touchline replay`: their arguments, and the run that these describe."""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from engines.errors import UsageError
from streamer.arguments import add_broker_options, add_input_option, seconds
from streamer.config import ClipConfig, IngestConfig, MqttConfig, OutputConfig, RunConfig, ServeConfig, WatchConfig
from streamer.decision import add_deadline

log = logging.getLogger("touchline")

INTERRUPTED = 130

Number = TypeVar("Number", int, float)

_BUNDLE = Path("bundles/demo")
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


def add_live(parser: argparse.ArgumentParser) -> None:
    """Add what `live` takes."""
    parser.description = (
        "Watch a stream, or a file at the speed of life, and say spots as they happen.\n"
        "A stream that stalls, ends or breaks off is opened again, for ever.\n"
        "When the machine is too slow, whole seconds are shed (and counted) rather than fall behind."
    )
    parser.epilog = _SOURCES
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


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Add what `replay` takes."""
    parser.description = (
        "Run recordings through the live pipeline as fast as it goes, losing nothing. Two files are the two halves\n"
        "of one match. The spots are those that live would have said."
    )
    parser.epilog = (
        "example: touchline replay 1.mp4 2.mp4 --bundle bundles/demo --out results_spotting.json\n"
        "         touchline replay 1.mp4 2.mp4 --start 1-40:00 --end 2-05:00 --clips clips"
    )
    parser.add_argument("urls", metavar="FILE", nargs="+", help="a recording, or the halves of a match in order")
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
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="also write this file; its ending decides: .json (SoccerNet's results_spotting.json), .jsonl or .csv "
        "(every word), .vtt (chapters), .edl (for video editors); may be repeated",
    )
    _add_delivery(parser.add_argument_group("delivery over MQTT"))
    pages = parser.add_argument_group("pages, metrics and health")
    pages.add_argument(
        "--serve",
        type=_listen,
        metavar="[HOST:]PORT",
        help="serve the dashboard, /overlay, /metrics, /healthz and /readyz here: on loopback, unless HOST says "
        "otherwise, which needs a token in the environment variable TOUCHLINE_PAGES_TOKEN",
    )
    pages.add_argument("--overlay", type=Path, metavar="FILE", help="how the overlay looks (TOML; see docs/overlay.md)")
    add_input_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines on a terminal too")
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="of the log (default text)")


def _add_delivery(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--mqtt",
        metavar="URL",
        help="publish to this broker: mqtt://host[:port], or mqtts:// for TLS; user and password are taken from "
        "TOUCHLINE_MQTT_USER and TOUCHLINE_MQTT_PASSWORD, or the file TOUCHLINE_MQTT_PASSWORD_FILE",
    )
    add_broker_options(group)
    group.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep here what must outlive this process: spots that the broker has not acknowledged, and the clock of a "
        "live stream, by --stream (default with --mqtt: touchline in XDG_STATE_HOME or ~/.local/state)",
    )
    group.add_argument("--scores", action="store_true", help="publish each second's scores too")
    group.add_argument("--commands", action="store_true", help="obey pause, mute and threshold (see docs/messages.md)")
    group.add_argument(
        "--broker",
        action="store_true",
        help="start an MQTT broker on loopback, and publish to it unless --mqtt says where",
    )
    group.add_argument("--broker-port", type=_port, default=1883, metavar="PORT", help="its port (default 1883)")


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
    return _run(args, ingest)


def _run(args: argparse.Namespace, ingest: IngestConfig) -> int:
    from streamer.pipeline import Pipeline
    from streamer.screen import JsonScreen, TerminalScreen

    _check_files(args.out, args.stream)
    if args.overlay is not None:
        from streamer.pages.overlay import read_overlay

        if args.serve is None:
            raise UsageError("--overlay says how a page looks that is not served; add --serve PORT.")
        read_overlay(args.overlay)  # what is wrong with it is better said at once
    if args.clips is not None:
        _check_clips(args.clips, ingest)
    config = RunConfig(
        args.bundle,
        args.stream,
        ingest,
        _output(args),
        threshold=args.threshold,
        deadlines_s=dict(args.deadline),
        provisional_threshold=args.provisional,
        provisional=not args.no_provisional,
        clips=ClipConfig(args.clips, args.clip_pre, args.clip_post) if args.clips is not None else None,
    )
    with TerminalScreen() if sys.stdout.isatty() and not args.json else JsonScreen(patient=not ingest.live) as screen:
        asyncio.run(_interruptible(Pipeline(config, screen).run()))
    return 0


def _output(args: argparse.Namespace) -> OutputConfig:
    mqtt = _mqtt(args)
    serve = None
    if args.serve is not None:
        host, port = args.serve
        serve = ServeConfig(port, host, os.environ.get("TOUCHLINE_PAGES_TOKEN") or None, args.overlay)
    state = args.state
    if state is None and args.mqtt is not None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "touchline"
    return OutputConfig(mqtt, args.broker, args.broker_port, serve, tuple(args.out), state)


def _mqtt(args: argparse.Namespace) -> MqttConfig | None:
    files = (args.mqtt_ca, args.mqtt_cert, args.mqtt_key)
    if args.mqtt is None and not args.broker:
        if args.scores or args.commands or any(files):
            raise UsageError("--scores, --commands and --mqtt-… are about a broker; add --mqtt URL, or --broker.")
        return None
    mqtt = MqttConfig(args.mqtt or "", args.prefix, *files, scores=args.scores, commands=args.commands)
    if args.mqtt is not None:
        from streamer.mqtt import address_of

        address_of(mqtt, os.environ)  # what is wrong with it is better said at once
    return mqtt


def _check_files(paths: Sequence[Path], stream: str) -> None:
    from streamer.files.opening import out_file

    named = set()
    for path in paths:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: is a folder, or in none; give a file to write.")
        if path.absolute() in named:
            raise UsageError(f"--out {path} is there twice; give each file once.")
        named.add(path.absolute())
        out_file(path, stream)


def _check_clips(folder: Path, ingest: IngestConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: clips cannot be written there: {error.strerror}.") from error
    for url in ingest.urls:
        if url.partition(":")[0].lower() in ("whip", "whep", "wheps"):
            raise UsageError("--clips needs an encoded stream, and WebRTC gives pictures alone; leave it out.")


async def _interruptible(work: Awaitable[None]) -> None:
    """Await `work`; Ctrl-C and SIGTERM end it in good order, and only the third of them at once."""
    task = asyncio.current_task()
    assert task is not None
    received = 0

    def end() -> None:
        nonlocal received
        received += 1
        if received == 1:
            task.cancel()
        elif received == 2:
            log.warning("ending: what is pending is delivered first; once more to end at once")
        else:
            os._exit(INTERRUPTED)  # what was not delivered is kept in the state folder, if there is one

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a background job of a shell
            with suppress(NotImplementedError):  # not on Windows
                asyncio.get_running_loop().add_signal_handler(number, end)
    await work


def _number(kind: Callable[[str], Number], text: str, what: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None


def _speed(text: str) -> float:
    value = _number(float, text, "a speed")
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: a speed lies between 0.01 and 1000")
    return value


def _count(text: str) -> int:
    value = _number(int, text, "a whole number")
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
    value = _number(float, text, "a confidence")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a confidence lies between 0 and 1")
    return value


def _port(text: str) -> int:
    value = _number(int, text, "a port")
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port lies between 0 and 65535 (0 takes a free one)")
    return value


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if colon and not host:
        raise argparse.ArgumentTypeError(f"{text!r}: write PORT, or HOST:PORT")
    return host or ServeConfig(0).host, _port(port)


def _stream(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a stream's name is 1 to 64 letters, digits, '.', '_', '-' or blanks"
        )
    return text
