"""`.edl`: confirmed spots as CMX 3600, for video editors; a file for each half, since each is a recording of its own.

An event is the piece of the recording around an action. Its place on the timeline is its place in the recording
(record timecode is source timecode), so that pieces lie over the recording, and a marker's time means the same to
everybody who reads it. Events may touch, never overlap: one ends where the next action happens at the latest, and the
next begins there. Actions of the same frame share an event.

Timecode counts the recording's frames from 00:00:00:00; of 50 and 60 frames a second every other one, since CMX 3600
counts to 30. Markers are written twice, as `* LOC:` (Avid's) and as Resolve's line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from engines.decider import Spot
from streamer.config import ClipConfig
from streamer.files.writing import HalvesFile, named, one_line

_AROUND = ClipConfig(Path())
_LONGEST_S = 24 * 3600
"""Timecode begins again after a day; what is later is left out."""


@dataclass(frozen=True, slots=True)
class Timebase:
    """How timecode counts frames.

    Attributes:
        rate: frames a second.
        counted: frames of a second of timecode.
        drop: two numbers are left out each minute but the tenth, so that timecode keeps up with time.
    """

    rate: Fraction
    counted: int
    drop: bool = False

    def frame(self, media_s: float) -> int:
        """Return the frame nearest to a media time."""
        return round(Fraction(round(media_s * 1_000_000), 1_000_000) * self.rate)

    def timecode(self, frame: int) -> str:
        """Return the timecode of a frame."""
        if self.drop:
            tens, rest = divmod(frame, 17_982)  # frames of ten minutes; all minutes but the first are two short
            frame += 18 * tens + 2 * max(0, (rest - 2) // 1_798)
        seconds, frames = divmod(frame, self.counted)
        minutes, hours = seconds // 60 % 60, seconds // 3600
        return f"{hours:02d}:{minutes:02d}:{seconds % 60:02d}{';' if self.drop else ':'}{frames:02d}"


PAL = Timebase(Fraction(25), 25)
_TIMEBASES = (
    Timebase(Fraction(24_000, 1001), 24),
    Timebase(Fraction(24), 24),
    PAL,
    Timebase(Fraction(30_000, 1001), 30, drop=True),
    Timebase(Fraction(30), 30),
)


def timebase_of(rate_fps: float | None) -> Timebase:
    """Return how a recording's frames are counted; 25 a second if nobody knows, or if no timecode fits."""
    if not rate_fps or not 0 < rate_fps < 1000:
        return PAL
    while rate_fps > 31:
        rate_fps /= 2
    nearest = min(_TIMEBASES, key=lambda t: abs(t.rate - rate_fps))
    return nearest if abs(nearest.rate - rate_fps) < 0.02 else PAL


def edl_file(path: Path, stream: str) -> HalvesFile:
    """Return an edit decision list."""
    return HalvesFile(path, lambda info, spots: edl_text(spots, stream, info.rate_fps))


def edl_text(spots: Sequence[Spot], stream: str, rate_fps: float | None) -> str:
    """Return the events of one half."""
    base, name = timebase_of(rate_fps), one_line(stream)
    early = [spot for spot in spots if spot.media_time + _AROUND.post_s < _LONGEST_S]
    by_frame: dict[int, list[Spot]] = {}
    for spot in sorted(early, key=lambda s: (s.media_time, s.label)):
        by_frame.setdefault(base.frame(spot.media_time), []).append(spot)
    lines = [f"TITLE: {name}", f"FCM: {'DROP FRAME' if base.drop else 'NON-DROP FRAME'}", ""]
    frames, end = list(by_frame), 0
    for number, (at, following) in enumerate(zip(frames, [*frames[1:], None], strict=False), 1):
        start = max(end, at - base.frame(_AROUND.pre_s))
        end = at + base.frame(_AROUND.post_s)
        if following is not None:
            end = min(end, following)
        lines += _event(number, name, [base.timecode(f) for f in (start, end, at)], end - start, by_frame[at])
    if len(early) < len(spots):
        lines.append(f"* TOUCHLINE: {len(spots) - len(early)} SPOTS AFTER 24 HOURS ARE LEFT OUT")
    return "\n".join(lines) + "\n"


def _event(number: int, name: str, timecodes: Sequence[str], frames: int, spots: Sequence[Spot]) -> list[str]:
    start, end, at = timecodes
    names = [named(spot).replace("|", "/") for spot in spots]
    return [
        f"{number:03d}  AX       V     C        {start} {end} {start} {end}",
        f"* FROM CLIP NAME: {name}",
        *(f"* LOC: {at} RED     {text}" for text in names),
        f"|C:ResolveColorRed |M:{', '.join(names)} |D:{frames}",
        "",
    ]
