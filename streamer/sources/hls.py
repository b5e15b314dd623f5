"""HLS: what the playlist knows and FFmpeg does not tell.

In: a playlist's URL. Out: whether it has an end, how large its bursts are, which variant to read, and when its pictures
were taken. The clock never raises: where it knows nothing, the arrival of pictures has to do.
"""

import re
import ssl
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from io import BytesIO
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import av
import m3u8

from streamer.redact import redact, redact_url
from streamer.sources.base import Cause, SourceFault
from streamer.sources.libav import LibavSource
from streamer.timeline import to_us

_TIMEOUT_S = 5.0
_PLAYLIST_BYTES = 8_000_000
_HEAD_BYTES = 256_000
"""So much of a segment holds the start of its first picture."""
_UNREADABLE = (OSError, HTTPException, ValueError, LookupError, EOFError, av.FFmpegError)

_WRAP_US = 2**33 * 1_000_000 // 90_000
_LIVE_REACH_US = 600 * 1_000_000
_RECORDED_REACH_US = 12 * 3600 * 1_000_000
"""How far from a dated picture others are dated by it: a live stream's timestamps may start anew at any time."""
_JUMP_US = 10_000_000
_KEPT = 16
_AGAIN_S, _RENEW_S = 2.0, 60.0

_ENOUGH_LINES = 720
"""Of picture; the networks see far fewer, and more only cost bandwidth and decoding."""


@dataclass(frozen=True, slots=True)
class Playlist:
    """What a playlist says.

    Attributes:
        url: what FFmpeg should open; of a choice of variants, one.
        dated_url: whose segments carry the dates.
        recording: it has an end.
        burst_s: so much media comes at once.
    """

    url: str
    dated_url: str
    recording: bool
    burst_s: float


class Reader:
    """Reads playlists and heads of segments, as FFmpeg would ask for them.

    Args:
        options: FFmpeg's, of which those count that make a request.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        named = {"User-Agent": options.get("user_agent", "touchline"), "Referer": options.get("referer", "")}
        lines = (line.partition(":") for line in options.get("headers", "").splitlines())
        self._headers = {key: value for key, value in named.items() if value}
        self._headers.update({key.strip(): value.strip() for key, _, value in lines if value})
        self._tls = ssl.create_default_context()
        if options.get("tls_verify", "0") == "0":  # FFmpeg's default
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    def playlist(self, url: str) -> tuple[str, str]:
        """Return the URL that answered, and the text of a playlist."""
        final, data = self.bytes(url, _PLAYLIST_BYTES)
        text = data.decode("utf-8-sig", "replace")
        if not text.lstrip().startswith("#EXTM3U"):
            raise ValueError("it is no playlist")
        return final, text

    def bytes(self, url: str, limit: int, part: str | None = None) -> tuple[str, bytes]:
        """Return the URL that answered, and at most `limit` bytes; `part` is a byte range as playlists write it."""
        headers = self._headers
        if part:
            length, _, start = part.partition("@")
            first, limit = int(start), min(limit, int(length))
            headers = {**headers, "Range": f"bytes={first}-{first + limit - 1}"}
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError("it is not at an HTTP address")
        user, at, host = parts.netloc.rpartition("@")
        if at:
            headers = {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}", **headers}
        request = Request(parts._replace(netloc=host).geturl(), headers=headers)
        try:
            with urlopen(request, timeout=_TIMEOUT_S, context=self._tls) as answer:
                if part and answer.status != 206:
                    raise ValueError("the server gives no parts of files")
                final = urlsplit(answer.url)
                final = final._replace(netloc=parts.netloc) if final.netloc == host else final
                return final.geturl(), answer.read(limit)
        except HTTPError as error:
            error.close()
            raise


def read_playlist(url: str, options: Mapping[str, str]) -> Playlist:
    """Return what a playlist says.

    Raises:
        SourceFault: it cannot be read, or is none.
    """
    reader, opened, dated = Reader(options), url, url
    try:
        final, text = reader.playlist(url)
        if "#EXT-X-STREAM-INF" in text:
            master = m3u8.loads(text, uri=final)
            dated = _variant(master)
            separate_sound = any(media.uri and media.type == "AUDIO" for media in master.media)
            opened = url if separate_sound else dated
            _, text = reader.playlist(dated)
    except _UNREADABLE as error:
        cause: Cause = "unreachable" if isinstance(error, OSError) else "no_media"
        raise SourceFault(f"{redact_url(url)}: the playlist cannot be read: {_reason(error)}.", cause) from error
    duration = re.search(r"^#EXT-X-TARGETDURATION:\s*([0-9]+(?:\.[0-9]+)?)", text, re.M)
    return Playlist(opened, dated, "#EXT-X-ENDLIST" in text, float(duration[1]) if duration else 0.0)


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    inner = error.reason if isinstance(error, URLError) else error
    return redact(getattr(inner, "strerror", None) or str(inner) or type(inner).__name__)


def _variant(playlist: Any) -> str:
    """Return the URL of the best variant that is not larger than needed; FFmpeg would fetch every one of them."""

    def lines(variant: Any) -> int:
        resolution = variant.stream_info.resolution
        return resolution[1] if resolution else 0

    variants = sorted(playlist.playlists, key=lambda variant: variant.stream_info.bandwidth or 0)
    pictured = [variant for variant in variants if lines(variant)] or variants
    fitting = [variant for variant in pictured if lines(variant) <= _ENOUGH_LINES]
    if not pictured:
        raise ValueError("it names no variant")
    return str(fitting[-1].absolute_uri if fitting else pictured[0].absolute_uri)


class ProgramClock:
    """The wall clock of EXT-X-PROGRAM-DATE-TIME, for timestamps as FFmpeg's hls demuxer hands them out.

    Args:
        url: of the playlist with the segments.
        options: FFmpeg's.

    A thread reads the playlist now and then, and opens the heads of dated segments to learn the timestamp that belongs
    to a date.
    """

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self._url, self._reader = url, Reader(options)
        self._dated: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # stream time, wall clock
        self._reach_us = _LIVE_REACH_US
        self._last_us: int | None = None
        self._closed, self._wake = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="program-clock", daemon=True).start()

    def __call__(self, stream_us: int) -> int | None:
        """Return when a picture was taken, microseconds since 1970; None if unknown."""
        if self._last_us is not None and abs(apart(stream_us, self._last_us)) > _JUMP_US:
            self._wake.set()  # the timestamps have started anew, so the dates have to be learnt anew
        self._last_us = stream_us
        nearest = min(tuple(self._dated), key=lambda dated: abs(apart(stream_us, dated[0])), default=None)
        if nearest is None:
            return None
        after_us = apart(stream_us, nearest[0])
        return nearest[1] + after_us if abs(after_us) <= self._reach_us else None

    def close(self) -> None:
        """End the thread, as soon as it is not waiting for an answer."""
        self._closed.set()
        self._wake.set()

    def _run(self) -> None:
        pause_s = _AGAIN_S
        while not self._closed.is_set():
            with suppress(*_UNREADABLE):
                if self._learn():
                    return
            pause_s = _RENEW_S if self._dated else min(_RENEW_S, pause_s * 2)
            self._closed.wait(_AGAIN_S)  # damaged timestamps may jump with every picture
            self._wake.wait(pause_s - _AGAIN_S)
            self._wake.clear()

    def _learn(self) -> bool:
        """Learn what the playlist says now; return whether it will never say more."""
        final, text = self._reader.playlist(self._url)
        playlist = m3u8.loads(text, uri=final)
        if playlist.is_endlist:
            self._reach_us = _RECORDED_REACH_US
        for segment in _dated(playlist.segments):
            if self._closed.is_set():
                break
            with suppress(*_UNREADABLE):
                stream_us = self._first_picture_us(segment)
                if stream_us is not None:
                    self._dated.append((stream_us, _utc_us(segment.program_date_time)))
        return bool(playlist.is_endlist and self._dated)

    def _first_picture_us(self, segment: Any) -> int | None:
        head = b""
        if segment.init_section is not None:
            section = segment.init_section
            head = self._reader.bytes(section.absolute_uri, _HEAD_BYTES, section.byterange)[1]
        head += self._reader.bytes(segment.absolute_uri, _HEAD_BYTES, segment.byterange)[1]
        with av.open(BytesIO(head), "r", metadata_errors="replace", options={"fpsprobesize": "0"}) as container:
            video = container.streams.best("video")
            if video is None or video.time_base is None:
                return None
            pts = next((packet.pts for packet in container.demux(video) if packet.pts is not None), None)
            return to_us(pts, video.time_base) if pts is not None else None


def _dated(segments: Any) -> list[Any]:
    """Return the newest segment that is dated and not encrypted, of each stretch between discontinuities."""
    found: dict[int, Any] = {}
    stretch = 0
    for segment in segments:
        stretch += bool(segment.discontinuity)
        encrypted = segment.key is not None and segment.key.method not in (None, "NONE")
        if segment.program_date_time is not None and not encrypted:
            found[stretch] = segment
    return list(found.values())[-_KEPT:]


def _utc_us(date: datetime) -> int:
    known = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    since = known - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def apart(later_us: int, earlier_us: int) -> int:
    """Return the way from one stream time to another, whichever of them has been unwrapped how often."""
    half = _WRAP_US // 2
    return (later_us - earlier_us + half) % _WRAP_US - half


class HlsSource(LibavSource):
    """An opened HLS stream, with its clock.

    Args:
        url: of the playlist.
        options: passed to FFmpeg.
        how: the rest of what LibavSource takes.
    """

    def __init__(self, url: str, *, options: Mapping[str, str], **how: Any) -> None:
        playlist = read_playlist(url, options)
        self._clock = ProgramClock(playlist.dated_url, options)
        live = {} if playlist.recording else {"live_start_index": "-1"}  # nothing is played out, so nothing is kept
        try:
            super().__init__(
                playlist.url,
                options={**live, **options},
                recording=playlist.recording,
                burst_s=playlist.burst_s,
                program_clock=self._clock,
                **how,
            )
        except BaseException:
            self._clock.close()
            raise

    def close(self) -> None:
        """Release it; safe to call twice."""
        self._clock.close()
        super().close()
