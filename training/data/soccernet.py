"""Labelled matches in SoccerNet's folder layout, read through the live path's own sampler.

In: `<root>/<league>/<season>/<match>/{1.mp4, 2.mp4, Labels-v2.json}` (or `1_224p.mkv`, `1_720p.mkv`, …) and a list of
matches (`train.txt`, …). Out: Half objects with the very pictures and samples the live path would see, cached on disk.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engines.actions import Action, read_actions
from engines.errors import DataError
from engines.second import SAMPLE_RATE_HZ, UINT8
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import PictureSpec
from streamer.sources.libav import LibavSource
from training.data.splits import match_folder
from training.data.splits import read_split as read_split  # to be had from here too

CACHE_VERSION = 2
_VIDEO_NAMES = ("{half}.mp4", "{half}.mkv", "{half}.ts", "{half}_224p.mkv", "{half}_720p.mkv", "{half}_HQ.mkv")


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """One half of a match, T seconds long.

    Attributes:
        match: folder relative to the data root.
        half: 1 or 2.
        pictures_THWC: uint8 RGB, `spec.rate` a second, contiguous in time (memory-mapped).
        samples_S: int16 mono at 16 kHz, contiguous in time (memory-mapped).
        actions: its labelled actions.
    """

    match: str
    half: int
    spec: PictureSpec
    pictures_THWC: UINT8
    samples_S: np.ndarray
    actions: tuple[Action, ...]

    @property
    def seconds(self) -> int:
        """Whole seconds of media."""
        return len(self.pictures_THWC) // self.spec.rate


def find_video(match: Path, half: int) -> Path:
    """Return the file that holds a half."""
    for name in _VIDEO_NAMES:
        path = match / name.format(half=half)
        if path.is_file():
            return path
    raise DataError(f"{match}: no video of half {half} (looked for {', '.join(_VIDEO_NAMES)}).")


def load_half(root: Path, match: str, half: int, spec: PictureSpec, cache: Path) -> Half:
    """Return a half, decoding it on first use.

    Args:
        root: the data's root folder.
        match: folder of the match, relative to `root`.
        half: 1 or 2.
        spec: how pictures are sampled; another spec is another cache entry.
        cache: folder for decoded pictures and samples.

    Raises:
        DataError: labels or video are missing.
        SourceError: the video cannot be decoded.
    """
    folder = match_folder(root, match)
    video = find_video(folder, half)
    actions = tuple(a for a in read_actions(folder / "Labels-v2.json") if a.half == half)
    key = json.dumps([CACHE_VERSION, match, half, video.stat().st_size, asdict(spec)], sort_keys=True)
    stem = cache / hashlib.sha256(key.encode()).hexdigest()[:24]
    pictures_path, samples_path = stem.with_suffix(".pictures.npy"), stem.with_suffix(".samples.npy")
    if not (pictures_path.exists() and samples_path.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        pictures, samples = _decode(video, spec)
        for path, array in ((pictures_path, pictures), (samples_path, samples)):
            part = path.with_suffix(".part.npy")
            np.save(part, array)
            part.replace(path)
    return Half(match, half, spec, np.load(pictures_path, "r"), np.load(samples_path, "r"), actions)


def _decode(video: Path, spec: PictureSpec) -> tuple[UINT8, np.ndarray]:
    source = LibavSource(str(video), threads=2)
    try:
        seconds = list(seconds_of(source.frames(), Sampler(spec)))
    finally:
        source.close()
    samples = np.concatenate([s.samples_S for s in seconds])
    return np.concatenate([s.pictures_NHWC for s in seconds]), np.round(samples * 32767).astype(np.int16)


def halves_of(root: Path, matches: Sequence[str]) -> list[tuple[str, int]]:
    """Return (match, half) for every half of the matches, in order."""
    return [(match, half) for match in matches for half in (1, 2)]


def samples_per_picture(spec: PictureSpec) -> int:
    """Return how many samples of sound lie between two pictures."""
    return SAMPLE_RATE_HZ // spec.rate
