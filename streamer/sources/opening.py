"""Which source a URL means, and how it is opened.

In: a URL as users write it. Out: an opened source. Nothing here has a time limit: what waits for a sender waits as long
as it takes.
"""

import os
import select
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from engines.errors import UsageError
from streamer.redact import redact_url
from streamer.sources.base import Listening, Source, SourceFault

if TYPE_CHECKING:
    from streamer.sources.libav import PacketTap

STDIN = ("-", "pipe:", "pipe:0")
_FIRST_BYTE_S = 5.0
"""How long who has called may take to say anything."""
_WEBRTC = ("whip", "whep", "wheps")
_QUICK = {"fpsprobesize": "0"}
"""Opens a stream as soon as every track has shown what it is, and does not wait, up to a second more, for a frame rate
that nobody asks for."""
_DEFAULTS = {
    "http": {"multiple_requests": "1"},  # FFmpeg 8.1 reads from closed connections after a seek otherwise
    "https": {"multiple_requests": "1"},
    "rtsp": {"rtsp_transport": "tcp"},  # UDP does not pass every network, and loses pictures where it does
    "rtsps": {"rtsp_transport": "tcp"},
    "udp": {"overrun_nonfatal": "1", "fifo_size": "50000"},  # in packets of 188 bytes: 4 s of 20 Mbit/s
}
_KNOWN = (
    "files, - (standard input), http(s), rtsp(s), rtmp(s), srt, udp, rtp, tcp, whip (waits for a publisher), whep(s) "
    "and whatever else FFmpeg knows"
)


def open_source(
    url: str,
    *,
    options: Mapping[str, str],
    threads: int,
    listening: Listening,
    start_s: float | None = None,
    tap: "PacketTap | None" = None,
    give_up_after: int | None = None,
    stdin_fd: int | None = None,
) -> Source:
    """Return an opened source.

    TCP and UDP are read as MPEG-TS. `?listen=1` makes us wait for a caller at tcp:// and rtmp:// URLs. A playlist that
    is fetched by HTTP has .m3u8 at the end of its path. WebRTC's token is in the environment, TOUCHLINE_TOKEN.

    Args:
        url: a path, `-` for standard input, or a URL.
        options: passed to FFmpeg; they come before what is set here.
        threads: decoder threads.
        listening: told the address when a source begins to wait for who sends.
        start_s: see LibavSource, as the next two.
        tap: WebRTC has none.
        give_up_after: for LibavSource.
        stdin_fd: under which number standard input is open in this process.

    Raises:
        UsageError: the URL makes no sense.
        SourceFault: nothing can be opened there.
    """
    scheme = _scheme(url)
    if scheme in _WEBRTC:
        return _open_webrtc(scheme, url, listening)
    if awaits_sender(url):
        listening(redact_url(url.partition("?")[0]))
    kind = "hls" if scheme in ("http", "https") and _is_playlist(url) else scheme
    quick = {} if kind in ("", "file") else _QUICK
    how = {
        "options": {**quick, **_DEFAULTS.get(kind, {}), **options},
        "threads": threads,
        "start_s": start_s,
        "tap": tap,
        "give_up_after": give_up_after,
    }
    from av.error import ProtocolNotFoundError

    try:
        return _open(kind, url, how, 0 if stdin_fd is None else stdin_fd)
    except SourceFault as fault:
        if isinstance(fault.__cause__, ProtocolNotFoundError):
            raise UsageError(f"{redact_url(url)} cannot be read: {scheme}: is unknown; known are {_KNOWN}.") from fault
        raise


def awaits_sender(url: str) -> bool:
    """Return whether opening a URL waits for somebody who sends, so that nothing is wrong while nobody does."""
    scheme = _scheme(url)
    if scheme == "srt":
        return _query(url).get("mode", "caller" if _parts(url).hostname else "listener") == "listener"
    return scheme in ("udp", "rtp", "whip") or (scheme in ("tcp", "rtmp") and _listens(url))


def _open(kind: str, url: str, how: dict[str, Any], stdin_fd: int) -> Source:
    from streamer.sources.hls import HlsSource
    from streamer.sources.libav import LibavSource
    from streamer.sources.srt import SrtSource

    if url in STDIN:
        return LibavSource("standard input", recording=False, file=_stdin(stdin_fd), **how)
    if kind == "pipe" or not url:
        raise UsageError(f"“{url}” is nothing that can be read; there are {_KNOWN}.")
    if kind in ("srt", "tcp", "udp"):
        _check_port(kind, url)
    if kind == "srt":
        return SrtSource(url, listens=awaits_sender(url), **how)
    if kind == "hls":
        return HlsSource(url, **how)
    if kind == "tcp" and _listens(url):
        return LibavSource(url, format="mpegts", recording=False, file=cast(BinaryIO, _Pipe(_accepted(url))), **how)
    if kind in ("tcp", "udp"):
        return LibavSource(url, format="mpegts", **how)
    if kind == "rtmp" and _listens(url):
        return LibavSource(_without_listen(url), **{**how, "options": {**how["options"], "listen": "1"}})
    if kind == "" and ":" in url:
        url = f"file:{url}"  # FFmpeg would take what is before the colon for a protocol
    return LibavSource(url, **how)


def _scheme(url: str) -> str:
    """Return a URL's scheme in small letters; "" for a path."""
    scheme, colon, _ = url.partition(":")
    known = "://" in url or scheme in ("file", "pipe")
    return scheme.lower() if colon and known else ""


def _is_playlist(url: str) -> bool:
    return _parts(url).path.lower().endswith((".m3u8", ".m3u"))


def _listens(url: str) -> bool:
    return _query(url).get("listen", "0") != "0"


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(_parts(url).query, keep_blank_values=True))


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{redact_url(url)} is no URL: {error}.") from error


def _without_listen(url: str) -> str:
    """Return an RTMP URL as FFmpeg takes it: that it listens is said by an option."""
    query = {key: value for key, value in _query(url).items() if key != "listen"}
    return _parts(url)._replace(query=urlencode(query)).geturl()


def _check_port(scheme: str, url: str) -> None:
    address = _parts(url).netloc
    if not address.rpartition(":")[2].isdecimal():
        raise UsageError(f"{redact_url(url)} names no port; write {scheme}://HOST:PORT.")


def _accepted(url: str) -> int:
    """Return the descriptor of the first connection that says anything; whoever only connects is hung up on.

    Raises:
        SourceFault: the address cannot be had.
    """
    host, port = _parts(url).hostname or "", int(_parts(url).netloc.rpartition(":")[2])
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise SourceFault(f"{redact_url(url)}: cannot listen there: {error}.", "unreachable") from error
    with listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                if select.select([connection], [], [], _FIRST_BYTE_S)[0] and _has_data(connection):
                    return os.dup(connection.fileno())


def _has_data(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


class _Pipe:
    """A descriptor, read unbuffered, so that the next process to read it misses little; never sought in."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        return os.read(self._fd, size)


def _stdin(fd: int) -> BinaryIO:
    if os.isatty(fd):
        raise UsageError("Standard input is a terminal; pipe a stream into it, as in: … | touchline live -")
    return cast(BinaryIO, _Pipe(fd))


def _open_webrtc(scheme: str, url: str, listening: Listening) -> Source:
    from streamer.sources.webrtc import publish_endpoint, pull

    token = os.environ.get("TOUCHLINE_TOKEN")
    return publish_endpoint(url, token=token, listening=listening) if scheme == "whip" else pull(url, token=token)
