"""URLs, as the reading process takes them; what would wait for a sender, or ask another machine, is not opened."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fuzzing.kinds import CLOSED_PORTS, Passed
from streamer.sources import hls, libav, opening, srt
from streamer.sources.handover import Handover
from streamer.sources.opening import awaits_sender, open_source
from streamer.sources.whep import WhepPull
from streamer.sources.whip import Place

_CLOSED = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^@/?#\\\s]*@)?(?:127\.0\.0\.1|\[::1\]):(?P<port>\d+)(?:[/?#][!-~]*)?", re.I
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.,-]*(?:,,[^:]*)?:", re.I)
_FRAMES = 20


def look_at(url: str, options: Mapping[str, str], start_s: float | None = None) -> None:
    """Parse a URL; open and read it where that reaches nobody.

    Raises:
        TouchlineError: it is refused, or Passed.
    """
    token = os.environ.get("TOUCHLINE_TOKEN")
    scheme = url.partition("://")[0].lower()
    if scheme == "whip":
        Place.of(url, token)
    elif scheme in ("whep", "wheps"):
        WhepPull(url, token, Handover())
    elif not awaits_sender(url) and is_harmless(url):
        _open(url, options, start_s)
    else:
        with _closed_doors():
            _open(url, options, start_s)


def is_harmless(url: str) -> bool:
    """Return whether opening a URL reads a file, or asks a port of this machine where nobody listens."""
    if (asked := _CLOSED.fullmatch(url)) is not None:
        closed = len(asked["port"]) > 5 or int(asked["port"]) in CLOSED_PORTS or int(asked["port"]) > 65_535
        return closed and asked["scheme"].lower() != "srt" and "://" not in url.partition("://")[2]
    return not _SCHEME.match(url.removeprefix("file:"))


@contextmanager
def _closed_doors() -> Iterator[None]:
    """Let whatever opens a URL raise Passed."""

    def passed(*_: object, **__: object) -> None:
        raise Passed

    whole, accepted = (libav.LibavSource, hls.HlsSource, srt.SrtSource), opening._accepted
    libav.LibavSource = hls.HlsSource = srt.SrtSource = passed  # type: ignore[assignment, misc]
    opening._accepted = passed  # type: ignore[assignment]
    try:
        yield
    finally:
        libav.LibavSource, hls.HlsSource, srt.SrtSource = whole  # type: ignore[misc]
        opening._accepted = accepted


def _open(url: str, options: Mapping[str, str], start_s: float | None) -> None:
    source = open_source(url, options=options, threads=1, listening=lambda _: None, start_s=start_s, give_up_after=250)
    try:
        for _, _ in zip(range(_FRAMES), source.frames(), strict=False):
            pass
    finally:
        source.close()
