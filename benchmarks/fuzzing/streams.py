"""Recordings, and playlists, that are damaged: through source, timeline and sampler, and into a clip.

FFmpeg is given no time limits, as in the live path; there a process is killed that hangs, here that is a finding. A
playlist without an end is read but not played: whoever plays it waits for more, and means to.
"""

import io
import random
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from engines.second import Second
from fuzzing.kinds import Case
from fuzzing.media import damaged
from fuzzing.mutations import mutated_text
from streamer.sampler import Sampler
from streamer.sources.base import Frame, PictureSpec, SourceFault
from streamer.sources.hls import HlsSource, read_playlist
from streamer.sources.libav import LibavSource
from streamer.sources.remux import write_clip
from streamer.sources.ring import Ring
from streamer.timeline import Anchor

SPEC = PictureSpec(rate=2, width=32, height=18)
_LARGEST = 500_000
_ELSEWHERE = re.compile(rb"//|^[^#\n]*:|URI=\"[^\"]*:", re.M)
_END = "\n#EXT-X-ENDLIST\n"
_ANYWHERE_US = 2**62
_WAYS = ("path", "path", "path", "threads", "start", "pipe", "clip", "clip")


class Streams:
    """Recordings.

    Args:
        seeds: see media.make_seeds.
        more: a folder whose small files are taken too, if it is there.
    """

    def __init__(self, seeds: Path, more: Path) -> None:
        own = sorted(path for path in seeds.glob("*.*") if path.is_file())
        found = sorted(p for p in more.rglob("*.*") if p.is_file() and 0 < p.stat().st_size <= _LARGEST)
        others = [p for p in found if p.suffix not in (".md", ".m3u8", ".m4s") and p.parent.name in ("made", "real")]
        self._own = [(path.name, path.read_bytes()) for path in own]
        self._others = [(path.name, path.read_bytes()) for path in others]
        self._hls = {path.name: path.read_bytes() for path in sorted((seeds / "hls").iterdir())}

    def prepare(self, folder: Path) -> None:
        """Serve the current folder over HTTP, on loopback."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        self._address = f"http://127.0.0.1:{server.server_port}"

    def case(self, rng: random.Random) -> Case:
        """Return a damaged recording, or a changed playlist."""
        if rng.random() < 0.15:
            return self._playlist(rng)
        name, data = rng.choice(self._others if self._others and rng.random() < 0.3 else self._own)
        way = rng.choice(_WAYS)
        everything = [content for _, content in (*self._own, *self._others)]
        changed = damaged(name, data, everything, rng)
        return Case(f"{name}, damaged, as {way}", {name: changed}, {"name": name, "way": way})

    def _playlist(self, rng: random.Random) -> Case:
        name = rng.choice(("index.m3u8", "index.m3u8", "master.m3u8"))
        text = mutated_text(self._hls[name].decode(), rng, 4)
        if rng.random() < 0.2:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(("#EXTM3U", *lines))
        if rng.random() < 0.9 and name == "index.m3u8":
            text += _END
        changed = {name: text.encode("utf-8", "surrogatepass")}
        return Case(f"a changed {name}", self._hls | changed, {"name": name, "way": rng.choice(("hls", "hls", "path"))})

    def feed(self, case: Case) -> None:
        """Read it to its end."""
        name, way = case.feed["name"], case.feed["way"]
        ring = Ring(60.0) if way == "clip" else None
        name = f"{self._address}/{name}" if way == "hls" else name
        if name.endswith(".m3u8") and not all(map(_may_be_played, case.files.values())):
            read_playlist(f"{self._address}/{case.feed['name']}", {})
            return
        source = _open(name, way, ring)
        try:
            _read(source, 1 if way == "start" else 0, ring)
        finally:
            source.close()
            for thread in threading.enumerate():
                if thread.name == "program-clock":
                    thread.join(5.0)


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _may_be_played(data: bytes) -> bool:
    """Return whether a file is no playlist, or one that has an end and names nothing of another machine."""
    if not data.lstrip().startswith(b"#EXTM3U"):
        return True
    return (b"EXT-X-STREAM-INF" in data or _END.encode() in data) and not _ELSEWHERE.search(data)


def _open(name: str, way: str, ring: Ring | None) -> LibavSource:
    if way == "hls":
        return HlsSource(name, options={}, threads=1)
    if way == "pipe":
        file = _Pipe(Path(name).read_bytes())
        return LibavSource("standard input", recording=True, file=cast(BinaryIO, file), give_up_after=250)
    start_s = 1.0 if way == "start" else None
    threads = 2 if way == "threads" else 1
    return LibavSource(name, threads=threads, start_s=start_s, tap=ring.push if ring is not None else None)


class _Pipe:
    """Bytes that come as they do from a pipe."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 4096))


def _read(source: LibavSource, from_s: int, ring: Ring | None) -> None:
    """Read as the reading process does, and check what comes out."""
    anchor = None
    if from_s and source.first_us is not None:
        anchor = Anchor(epoch=0, media_us=0, stream_us=source.first_us, reach_us=_ANYWHERE_US)
    sampler = Sampler(SPEC, anchor, from_s)
    check = _Check()
    fault = None
    try:
        for frame in source.frames():
            check(sampler.push(frame))
            _place(frame, sampler, ring)
    except SourceFault as error:
        fault = error
    check(sampler.flush())
    if ring is not None and check.last is not None:
        _clip(ring, check.last)
    if fault is not None:
        raise fault


def _place(frame: Frame, sampler: Sampler, ring: Ring | None) -> None:
    at = sampler.timeline.newest
    if ring is not None and frame.picture is not None:
        ring.place(frame.pts, at.epoch, at.us)


def _clip(ring: Ring, last: Second) -> None:
    cut = ring.cut(last.epoch, last.index * 1_000_000 - 1_500_000, last.index * 1_000_000 + 500_000)
    if cut is not None:
        write_clip(cut, Path("clip"))


class _Check:
    """What is promised of seconds."""

    def __init__(self) -> None:
        self.last: Second | None = None

    def __call__(self, seconds: list[Second]) -> None:
        for second in seconds:
            if self.last is not None:
                again = second.epoch == self.last.epoch and second.index != self.last.index + 1
                assert not again, f"second {second.index} follows {self.last.index}"
                assert second.epoch >= self.last.epoch, "an epoch has come back"
                assert second.index >= self.last.index, "media time has fallen"
            assert second.pictures_NHWC.shape == (SPEC.rate, SPEC.height, SPEC.width, 3)
            assert second.samples_S.shape == (16_000,)
            assert bool(np.isfinite(second.samples_S).all())
            assert float(np.abs(second.samples_S).max()) <= 1.0
            assert 0 <= second.video_filled <= 1, second.video_filled
            assert 0 <= second.audio_filled <= 1, second.audio_filled
            self.last = second
