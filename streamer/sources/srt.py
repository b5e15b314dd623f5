"""SRT, which PyAV's wheels do not have: a program that has it receives the bytes, FFmpeg reads them from its pipe.

In: srt://HOST:PORT?mode=…. Out: a source. The bytes pass as they are: MPEG-TS keeps its own timestamps and its damage.
The program is in the reading process's group, so it ends with it.
"""

import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from streamer.redact import redact, redact_url
from streamer.sources.base import Cause, Frame, SourceFault
from streamer.sources.libav import LibavSource

_END_S = 1.0
_MICROSECONDS = ("latency", "rcvlatency", "peerlatency")


class SrtSource(LibavSource):
    """An opened SRT stream of MPEG-TS.

    Args:
        url: srt://HOST:PORT; the query's names and units are FFmpeg's and OBS's. `mode` is caller or listener,
            `latency` is in microseconds (1000 times the milliseconds that encoders show), 120000 by default;
            `passphrase`, `streamid` and the rest as they are.
        listens: wait for a caller, if the URL names no mode.
        how: what LibavSource takes.

    Raises:
        SourceFault: nobody answers, or a program that knows SRT is not installed.
    """

    def __init__(self, url: str, *, listens: bool, **how: Any) -> None:
        self._url = redact_url(url)
        self._program = _Program(command(url, listens))
        try:
            super().__init__(url, file=self._program.stdout, format="mpegts", **how)
        except SourceFault as fault:
            nobody = SourceFault(f"{self._url}: nobody answers there.", "unreachable")
            silent = nobody if isinstance(fault.__cause__, EOFError) else fault
            raise self._fault("unreachable") or silent from fault
        except BaseException:
            self._program.end()
            raise

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends; see Source."""
        try:
            yield from super().frames()
        except SourceFault as fault:
            raise self._fault("broke_off") or fault from fault
        complaint = self._fault("broke_off")
        if complaint is not None:
            raise complaint

    def _fault(self, cause: Cause) -> SourceFault | None:
        """Return what went wrong according to the program, which is ended; None if it does not complain."""
        reason = self._program.end()
        return SourceFault(f"{self._url}: {reason}.", cause) if reason else None

    def close(self) -> None:
        """Release it; safe to call twice."""
        super().close()
        self._program.end()


class _Program:
    """A program that writes a stream to its standard output."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, bufsize=0)
        self.stdout = cast(BinaryIO, self._process.stdout)
        self._said: deque[str] = deque(maxlen=2)
        self._ending = False
        self._thread = threading.Thread(target=self._listen, name="srt", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        rest = b""
        while data := cast(BinaryIO, self._process.stderr).read(4096):
            *lines, rest = (rest + data)[-4096:].split(b"\n")
            if not self._ending:
                self._said.extend(text for line in lines if (text := line.decode("utf-8", "replace").strip()))

    def end(self) -> str:
        """End it; return what it complained of, if it did."""
        if self._process.returncode is None:
            try:
                self._process.wait(0.1)  # at the end of its stream it ends by itself, and says why
            except subprocess.TimeoutExpired:
                self._ending = True
                self._stop()
            self._thread.join(_END_S)
            self.stdout.close()
            cast(BinaryIO, self._process.stderr).close()
        return _reason(list(self._said))

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _reason(lines: list[str]) -> str:
    """Return the line that says most, without what FFmpeg writes before it; its last one only repeats the URL."""
    told = next((line for line in lines if line.startswith("[")), lines[-1] if lines else "")
    told = re.sub(r"Connection to \S+ failed", "the connection failed", told.partition("] ")[2] or told)
    return redact(told).rstrip(".")


def command(url: str, listens: bool) -> list[str]:
    """Return the command that receives a stream and writes it to its standard output.

    Raises:
        SourceFault: no program that could is installed.
    """
    parts = urlsplit(url)
    query = {"mode": "listener" if listens else "caller", **dict(parse_qsl(parts.query, keep_blank_values=True))}
    ffmpeg, transmit = _ffmpeg(), shutil.which("srt-live-transmit")
    if ffmpeg is None and transmit is None:
        raise SourceFault(
            f"{redact_url(url)}: SRT needs a program that knows it; install ffmpeg (Debian: apt install ffmpeg; macOS: "
            "brew install ffmpeg), or the Python package imageio-ffmpeg.",
            "missing_part",
        )
    if ffmpeg is None:
        for name in _MICROSECONDS:  # milliseconds there
            if query.get(name, "").isdecimal():
                query[name] = str(int(query[name]) // 1000)
    address = parts._replace(query=urlencode(query, quote_via=quote)).geturl()
    if ffmpeg is None:
        return [str(transmit), "-q", "-loglevel:error", "-a:no", address, "file://con"]
    receive = [ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-f", "data", "-i", address]
    return [*receive, "-map", "0", "-c", "copy", "-flush_packets", "1", "-f", "data", "pipe:1"]


def _ffmpeg() -> str | None:
    """Return an ffmpeg that knows SRT."""
    for path in (shutil.which("ffmpeg"), _imageio_ffmpeg()):
        if path is not None:
            listed = subprocess.run([path, "-hide_banner", "-protocols"], capture_output=True, text=True, check=False)
            if "srt" in listed.stdout.split():
                return path
    return None


def _imageio_ffmpeg() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return None
    with suppress(RuntimeError):
        return str(get_ffmpeg_exe())
    return None
