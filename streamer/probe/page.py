"""What a probe has found, as a page for people and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engines.bundle import Manifest
from streamer.decision import promise
from streamer.probe.findings import Problem, decode_share
from streamer.probe.looking import Seen
from streamer.redact import printable
from streamer.sources.examine import StreamSeen

_WIDTH = 78
_NAMES = {
    "h264": "H.264", "hevc": "HEVC", "av1": "AV1", "libdav1d": "AV1", "vvc": "H.266", "mpeg2video": "MPEG-2",
    "mpeg4": "MPEG-4", "vp8": "VP8", "vp9": "VP9", "aac": "AAC", "aac_latm": "AAC (LATM)", "mp2": "MP2", "mp3": "MP3",
    "mp3float": "MP3", "ac3": "AC-3", "eac3": "E-AC-3", "opus": "Opus", "libopus": "Opus", "vorbis": "Vorbis",
}  # fmt: skip
_CONTAINERS = {
    "mpegts": "MPEG-TS", "mpeg": "MPEG-PS", "hls": "HLS", "rtsp": "RTSP", "flv": "FLV", "webrtc": "WebRTC",
    "avi": "AVI", "mov,mp4,m4a,3gp,3g2,mj2": "MP4", "matroska,webm": "Matroska",
}  # fmt: skip
_FIELDS = {"progressive": "progressive", "tff": "interlaced, top field first", "bff": "interlaced, bottom field first"}
_CLOCKS = {
    "rtcp": "the sender's RTCP reports",
    "prft": "`prft` in the container",
    "hls": "EXT-X-PROGRAM-DATE-TIME in the playlist",
    "arrival": "none in the stream; our own clock on arrival",
}
_SAME_SHAPE = 0.01


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one probe.

    Attributes:
        name: the URL, without secrets.
        seen: what the stream has shown.
        manifest: of the bundle.
        bundle_share: how long its engines take for a second of media, in seconds.
        problems: what is wrong.
    """

    name: str
    seen: Seen
    manifest: Manifest
    bundle_share: float
    problems: tuple[Problem, ...]

    @property
    def picture(self) -> StreamSeen | None:
        """The picture stream that is used."""
        return next((s for s in self.seen.streams if s.used and s.type == "video"), None)

    @property
    def sound(self) -> StreamSeen | None:
        """The sound stream that is used."""
        return next((s for s in self.seen.streams if s.used and s.type == "audio"), None)

    @property
    def clock(self) -> str | None:
        """Who says when pictures were taken; None for a recording that does not say."""
        said = [clock for clock in self.seen.clocks if clock != "arrival"]
        return said[-1] if said else None if self.seen.info.recording else "arrival"

    @property
    def bars(self) -> str | None:
        """Where black bars make the picture fit the bundle's screen; None if it fits."""
        width, height = self.seen.sizes[0] if self.seen.sizes else (self.seen.info.width, self.seen.info.height)
        shape = width / height * ((self.picture.sar if self.picture else None) or 1.0) if height else 1.0
        narrower = (1 / shape if self.seen.rotation % 180 else shape) / self.manifest.pictures.aspect
        if abs(narrower - 1) <= _SAME_SHAPE:
            return None
        return "left and right" if narrower < 1 else "above and below"


def as_dict(report: Report) -> dict[str, Any]:
    """Return a report as plain values, ready for JSON; numbers are rounded, names are stable."""
    seen, manifest, picture, sound = report.seen, report.manifest, report.picture, report.sound
    slowest = max(manifest.labels, key=manifest.promised_delay_s)
    pictures = manifest.pictures
    values: dict[str, Any] = _rounded(
        {
            "url": report.name,
            "ok": True,
            "container": seen.info.container,
            "recording": seen.info.recording,
            "duration_s": seen.info.duration_s if seen.info.recording else None,
            "streams": [asdict(stream) for stream in seen.streams],
            "measured": {
                "media_s": seen.media_s,
                "wall_s": seen.wall_s,
                "opening_s": seen.opening_s,
                "first_picture_s": seen.first_picture_s,
                "pictures": seen.pictures,
                "corrupt": seen.corrupt,
                "decode_errors": seen.decode_errors,
                "fps": seen.fps,
                "uneven": seen.uneven,
                "sizes": [list(size) for size in seen.sizes],
                "rotation": seen.rotation,
                "repairs": dict(seen.repairs),
                "epochs": seen.epochs,
                "heard": seen.heard,
                "loudest": seen.loudest,
                "brightest": seen.brightest,
                "still_s": seen.still_s,
                "packets": asdict(seen.packets),
            },
            "used": {
                "picture": picture.index if picture else None,
                "sound": sound.index if sound else None,
                "interlaced": _interlaced(picture),
                "rotation": seen.rotation,
                "bars": report.bars,
                "resized_to": [pictures.width, pictures.height],
                "pictures_per_s": pictures.rate,
                "clock": report.clock,
            },
            "delay": {
                "promised_s": _finite(manifest.promised_delay_s(slowest)),
                "look_ahead_s": manifest.look_ahead_s(slowest),
                "hold_s": _finite(manifest.hold_s(slowest)),
                "grid_s": manifest.grid_s,
                "burst_s": _burst_s(seen),
                "age_s": seen.age_s,
                "decode_share": decode_share(seen),
                "bundle_share": report.bundle_share,
            },
            "problems": [asdict(problem) for problem in report.problems],
        }
    )
    return values


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _interlaced(picture: StreamSeen | None) -> bool:
    return picture is not None and picture.field_order in ("tff", "bff")


def _burst_s(seen: Seen) -> float:
    """Return how much media a live stream sends at once, as measured or as it says itself."""
    return 0.0 if seen.info.recording else max(seen.info.burst_s, seen.packets.longest_wait_s)


def page(report: Report) -> RenderableType:
    """Return a report for people, at most 80 columns wide."""
    parts: list[RenderableType] = [Text(printable(report.name), "bold"), Text(_kind(report.seen), "dim"), Text()]
    for title, rows in (
        ("What it is", _streams(report)),
        ("What is used", _used(report)),
        ("How late spots are", _delay(report)),
    ):
        parts += [Text(title, "bold cyan"), _grid(rows), Text()]
    parts.append(Text("What is wrong", "bold cyan"))
    parts += _wrong(report)
    return Group(*parts)


def _grid(rows: Iterator[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", width=10)
    table.add_column(width=_WIDTH - 16)
    for name, text in rows:
        table.add_row(name, printable(text))
    return Padding(table, (0, 0, 0, 2))


def _wrong(report: Report) -> Iterator[RenderableType]:
    if not report.problems:
        yield Text(f"  Nothing that {report.seen.media_s:.1f} s would show.", "green")
    for problem in report.problems:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="bold yellow", width=1)
        table.add_column(width=_WIDTH - 5)
        table.add_row("!", printable(problem.what))
        table.add_row("", Text(printable(problem.advice), "dim"))
        yield Padding(table, (0, 0, 0, 2))


def _kind(seen: Seen) -> str:
    container = _CONTAINERS.get(seen.info.container, seen.info.container)
    if not seen.info.recording:
        first_s = seen.first_picture_s or 0.0
        return f"{container}, live; opened in {seen.opening_s:.1f} s, first picture after {first_s:.1f} s more"
    length = f", {clock_text(seen.info.duration_s)} by its own account" if seen.info.duration_s else ""
    return f"{container}, a recording{length}"


def clock_text(seconds: float) -> str:
    """Return a duration for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _streams(report: Report) -> Iterator[tuple[str, str]]:
    seen, others = report.seen, 0
    for stream in seen.streams:
        if stream.type == "video":
            yield "picture", _picture_text(stream, seen)
        elif stream.type == "audio":
            yield "sound", _sound_text(stream, seen)
        else:
            others += 1
    if others:
        yield "also", f"{others} of subtitles and data, which are not used"
    packets = seen.packets
    if packets.gop_s is not None:
        yield "key frames", f"every {packets.gop_s:.1f} s"
    elif packets.since_key_s >= 1.0:
        yield "key frames", f"one, and none in the {packets.since_key_s:.1f} s after it"


def _picture_text(stream: StreamSeen, seen: Seen) -> str:
    size = f"{stream.width}x{stream.height}" if stream.width and stream.height else None
    facts = [_codec(stream), size, stream.pixel_format]
    if stream.used:
        announced = f"{stream.fps:.4g}" if stream.fps is not None else "no rate"
        measured = f"{seen.fps:.4g} fps" if seen.fps is not None else f"{announced} fps"
        differs = seen.fps is not None and (stream.fps is None or abs(stream.fps - seen.fps) > 0.01 * seen.fps)
        facts.append(f"{measured} ({announced} announced)" if differs else measured)
    elif stream.fps is not None:
        facts.append(f"{stream.fps:.4g} fps")
    facts.append(_FIELDS.get(stream.field_order or ""))
    if stream.sar is not None and stream.sar != 1:
        facts.append(f"pixels {stream.sar:.4g} times as wide as high")
    if stream.used and seen.rotation:
        facts.append(f"turned by {seen.rotation}°")
    if stream.used:
        facts.append(_rate(seen.packets.picture_kbits))
    return _numbered(stream, facts, seen)


def _sound_text(stream: StreamSeen, seen: Seen) -> str:
    rate = f"{stream.rate_hz / 1000:g} kHz" if stream.rate_hz else None
    layout = None if stream.layout == "0 channels" else stream.layout
    facts = [_codec(stream), rate, layout, stream.language]
    if stream.used:
        facts.append(_rate(seen.packets.sound_kbits))
    return _numbered(stream, facts, seen)


def _numbered(stream: StreamSeen, facts: list[str | None], seen: Seen) -> str:
    pid = f" (PID {stream.pid})" if stream.pid else ""
    used = "" if stream.used or len(seen.streams) < 3 else "; not used"
    return f"#{stream.index}{pid}  " + ", ".join(fact for fact in facts if fact) + used


def _codec(stream: StreamSeen) -> str:
    name = _NAMES.get(stream.codec or "", stream.codec or "unknown codec")
    return f"{name} {stream.profile}" if stream.profile else name


def _rate(kbits: float | None) -> str | None:
    if kbits is None:
        return None
    return f"{kbits / 1000:.2g} Mbit/s" if kbits >= 1000 else f"{kbits:.0f} kbit/s"


def _used(report: Report) -> Iterator[tuple[str, str]]:
    seen, pictures = report.seen, report.manifest.pictures
    picture, sound = report.picture, report.sound
    if picture is not None:
        steps = [f"resized to {pictures.width}x{pictures.height}, {pictures.rate} a second"]
        if _interlaced(picture):
            steps.insert(0, "every second line (it is interlaced)")
        if seen.rotation:
            steps.insert(0, "turned upright")
        if report.bars:
            steps.append(f"black bars {report.bars}")
        yield "picture", f"#{picture.index}, {_why(report, 'video')}; " + ", ".join(steps)
    if sound is not None:
        yield "sound", f"#{sound.index}, {_why(report, 'audio')}; resampled to 16 kHz mono"
    else:
        yield "sound", "none"
    yield "wall clock", _CLOCKS[report.clock] if report.clock else "none: it is a recording that does not say"


def _why(report: Report, kind: str) -> str:
    if sum(stream.type == kind for stream in report.seen.streams) == 1:
        return "the only one"
    return "the best one, as FFmpeg sees it" if kind == "video" else "the best one that belongs to the picture"


def _delay(report: Report) -> Iterator[tuple[str, str]]:
    seen, text = report.seen, promise(report.manifest)
    yield "bundle", f"{report.manifest.name}: {text}"
    burst_s = _burst_s(seen)
    if burst_s > 1.0:
        yield "stream", f"up to {burst_s:.1f} s more by the wall clock, since so much comes at once"
    elif seen.info.recording:
        yield "stream", "adds nothing: a recording is played at the speed of life"
    else:
        yield "stream", "adds nothing: it comes as it happens"
    if seen.age_s is not None and report.clock != "arrival":
        yield "", f"by its own clock it is {seen.age_s:.1f} s old when it comes"
    late_s = seen.packets.sound_late_s or 0.0
    if late_s > 1.0:
        yield "sound", f"{late_s:.1f} s more, while it is waited for"
    share, keeps_up = decode_share(seen), not any(p.name == "slow-machine" for p in report.problems)
    verdict = "it keeps up" if keeps_up else "it does not keep up"
    yield (
        "machine",
        f"decoding takes {share:.2f} of a core, the bundle {report.bundle_share:.2f} s for each second: {verdict}",
    )
