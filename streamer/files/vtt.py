"""`.vtt`: confirmed spots as WebVTT chapters, for players; a file for each half, since each is a recording of its own.

Source: WebVTT, W3C: "WebVTT file using chapter title text"; its cues may touch and be equal, but not overlap.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from engines.decider import Spot
from streamer.files.writing import HalvesFile, named, one_line

LONGEST_MS = 15_000
"""A chapter ends where the next begins, or after so long."""


def vtt_file(path: Path, stream: str) -> HalvesFile:
    """Return a file of chapters."""
    return HalvesFile(path, lambda _info, spots: vtt_text(spots, stream))


def vtt_text(spots: Sequence[Spot], stream: str) -> str:
    """Return the chapters of one half."""
    ordered = sorted(spots, key=lambda s: (s.media_time, s.label))
    starts_ms = [round(spot.media_time * 1000) for spot in ordered]
    next_ms = dict(zip(distinct := sorted(set(starts_ms)), distinct[1:], strict=False))
    cues = [f"WEBVTT\n\nNOTE touchline: {_text(one_line(stream))}; time 0 is its first picture\n"]
    for start_ms, spot in zip(starts_ms, ordered, strict=True):
        end_ms = min(start_ms + LONGEST_MS, next_ms.get(start_ms, start_ms + LONGEST_MS))
        cues.append(f"{_clock(start_ms)} --> {_clock(end_ms)}\n{_text(named(spot))}\n")
    return "\n".join(cues)


def _clock(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"


def _text(text: str) -> str:
    return escape(text, quote=False)
