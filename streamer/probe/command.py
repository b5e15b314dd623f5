"""`touchline probe`: what a stream is, what will be used of it, how late spots will be, and what is wrong with it.

In: a URL. Out: a page for people, or one JSON object. Promise: it ends within the time that was asked for, that of the
opening and a little grace, whatever the stream does; what cannot be watched is one sentence.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from engines.bundle import open_bundle, read_manifest
from engines.errors import TouchlineError
from engines.second import SAMPLE_RATE_HZ, Second
from engines.spotter import Spotter
from streamer.arguments import add_input_option
from streamer.ingest import child
from streamer.ingest.child import stdin_of
from streamer.ingest.messages import Ended, Listening
from streamer.probe.findings import Problem, problems
from streamer.probe.looking import Look, Said, Seen, main
from streamer.probe.page import Report, as_dict, page
from streamer.redact import redact_url
from streamer.sources.base import PictureSpec, SourceFault

OPENING_S = 20.0
GRACE_S = 10.0
"""How much longer than asked for a stream is read that gives no picture, or only now and then."""
_POLL_S = 0.1
_SILENT_S = 2.0
_TIMED_SECONDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("url", metavar="URL", help="what `touchline live` takes")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"), metavar="DIR", help="to watch it with")
    parser.add_argument("--seconds", type=_seconds, default=8.0, metavar="S", help="look at so much of it (default 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_input_option(parser)


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text}: look at 1 to 600 seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code.

    Raises:
        TouchlineError: it cannot be watched.
    """
    try:
        report = probe(args)
    except SourceFault as fault:
        if args.json:
            print(json.dumps({"url": redact_url(args.url), "ok": False, "error": str(fault), "cause": fault.cause}))
        raise
    if args.json:
        print(json.dumps(as_dict(report), ensure_ascii=False))
    else:
        Console(highlight=False).print(page(report))
    return 0


def probe(args: argparse.Namespace) -> Report:
    """Return what was found; on a terminal, say meanwhile what is going on.

    Raises:
        TouchlineError: it cannot be watched.
    """
    manifest, _ = read_manifest(args.bundle)
    options, spec = dict(args.input_option), PictureSpec.of(manifest.pictures)
    look = Look(args.url, options, args.seconds, spec, stdin_of(args.url))
    terminal = Console(stderr=True, highlight=False)
    with terminal.status("") as status:
        with _Looking(look) as looking:
            seen, fault = looking.result(status.update)
        status.update("timing the bundle …")
        share = engine_share(args.bundle)
    wrong = ([] if fault is None else [_interruption(fault)]) + problems(seen, manifest, share)
    return Report(redact_url(args.url), seen, manifest, share, tuple(wrong))


def _interruption(fault: SourceFault) -> Problem:
    name = "stalled" if fault.cause == "stalled" else "broke-off"
    return Problem(name, str(fault), "live would connect again; look for a sender or network that pauses.")


def engine_share(path: Path) -> float:
    """Return how long a bundle takes for a second of media here, in seconds.

    Raises:
        BundleError: it cannot be opened.
    """
    bundle = open_bundle(path)
    pictures, spotter = bundle.manifest.pictures, Spotter(bundle, "probe")
    noise = np.random.default_rng(0)
    taken_s = []
    for index in range(_TIMED_SECONDS):
        shape = (pictures.rate, pictures.height, pictures.width, 3)
        shown = noise.integers(0, 256, shape, np.uint8)
        second = Second(0, index, shown, noise.normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32))
        began = time.perf_counter()
        spotter.push(second)
        taken_s.append(time.perf_counter() - began)
    return min(taken_s)  # the first is slow anywhere, and others may be at work now


class _Looking:
    """The process that looks, seen from here. Use as a context manager: at its end the process is killed."""

    def __init__(self, look: Look) -> None:
        self._look, self._name = look, redact_url(look.url)
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self._process = child.start(main, sender, look, name="touchline-probe")
        sender.close()
        self._seen: Seen | None = None
        self._address: str | None = None

    def __enter__(self) -> "_Looking":
        return self

    def __exit__(self, *_: object) -> None:
        child.end(self._process)
        self._receiver.close()

    def result(self, say: Callable[[str], None]) -> tuple[Seen, SourceFault | None]:
        """Return what was found, and why the stream did not go on, if it did not.

        Raises:
            TouchlineError: no picture was found.
        """
        fault = self._listen(say)
        if self._seen is not None and self._seen.pictures:
            return self._seen, fault
        fault = fault or SourceFault(
            f"{self._name}: no picture came of it, so there is nothing to watch.", "no_picture"
        )
        if fault.cause == "no_picture" and self._seen is not None and self._seen.info.container == "mpegts":
            fault = SourceFault(f"{fault} It may be scrambled.", fault.cause)
        raise fault

    def _listen(self, say: Callable[[str], None]) -> SourceFault | None:
        """Take what the process says, to its end or that of our patience."""
        until_s, heard_s = time.monotonic() + OPENING_S, time.monotonic()
        say(f"opening {self._name} …")
        while (now_s := time.monotonic()) < until_s:
            said = self._receive()
            if isinstance(said, Ended):
                return said.fault
            if isinstance(said, TouchlineError):
                raise said
            if isinstance(said, Listening):
                self._address = said.address
                say(f"waiting for somebody who sends to {said.address} …")
            elif said is not None:
                until_s = until_s if self._seen is not None else now_s + self._look.seconds + GRACE_S
                if self._seen is None or said.pictures > self._seen.pictures:
                    heard_s = now_s
                self._seen = said
                say(f"looking at {self._name}: {said.media_s:.1f} of {self._look.seconds:g} s …")
        return self._silence(time.monotonic() - heard_s)

    def _receive(self) -> Said | None:
        try:
            return self._receiver.recv() if self._receiver.poll(_POLL_S) else None
        except (EOFError, OSError):
            return Ended(SourceFault(f"{self._name}: the process that looked at it died.", "died"))

    def _silence(self, silent_s: float) -> SourceFault | None:
        """Return what it means that nothing more came."""
        if self._seen is None and self._address is not None:
            return SourceFault(f"{self._address}: nobody has sent anything within {OPENING_S:g} s.", "unreachable")
        if self._seen is None:
            return SourceFault(f"{self._name}: nothing came within {OPENING_S:g} s.", "unreachable")
        if not self._seen.pictures:
            waited_s = self._look.seconds + GRACE_S
            return SourceFault(f"{self._name}: it opens, but no picture came within {waited_s:g} s.", "no_picture")
        if silent_s < _SILENT_S:
            return None  # it is only slow
        return SourceFault(f"{self._name}: nothing came for {silent_s:.0f} s.", "stalled")
