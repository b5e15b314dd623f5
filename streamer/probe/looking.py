"""A look at a stream, in a process of its own: opened and read as the live path does, for a few seconds.

In: a URL. Out, on a pipe: what was found so far, again and again, so that what a stream shows before it blocks or
breaks off is known too. The process may be killed at any moment.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np

from engines.errors import TouchlineError
from engines.second import UINT8, Second
from streamer.ingest import child
from streamer.ingest.child import PassedFd
from streamer.ingest.messages import Ended, Listening
from streamer.sampler import Sampler
from streamer.sources.base import Frame, PictureSpec, Source, SourceFault, StreamInfo
from streamer.sources.examine import PacketMeter, PacketsSeen, StreamSeen, streams_of, turned
from streamer.sources.opening import open_source
from streamer.timeline import LONGEST_HOLE_US, to_us

_SAY_EVERY_S = 0.25
_EVEN_SHARE = 0.25
"""A step from picture to picture that differs by more from the usual one is uneven."""
UNEVEN = 0.05
"""If there are more of them, the rate varies."""
_LONGEST_STILL_LEVELS = 0.3
"""Pictures that differ by less, on average, of 255, show the same."""


@dataclass(frozen=True, slots=True)
class Look:
    """What to look at.

    Attributes:
        url: where.
        options: passed to FFmpeg.
        seconds: how much media is enough.
        spec: how the bundle wants its pictures.
        stdin: our standard input, if the URL names it.
    """

    url: str
    options: Mapping[str, str]
    seconds: float
    spec: PictureSpec
    stdin: PassedFd | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found so far.

    Attributes:
        info: what the source says of itself.
        streams: of its container.
        packets: what they have shown.
        opening_s: how long opening took.
        wall_s: how long it was read, by our clock.
        media_s: how much of it there was, from the first picture on.
        first_picture_s: from opening to the first picture; None before it.
        cpu_s: processor time that reading, decoding and resizing took.
        pictures: decoded.
        corrupt: those of them that are damaged.
        decode_errors: packets, pictures and blocks of sound that could not be decoded.
        fps: pictures a second, by their timestamps; None if there are too few.
        uneven: share of the steps between pictures that are unlike the others.
        sizes: all that pictures had, in order.
        rotation: degrees that pictures lie on their side, anticlockwise.
        clocks: who says when pictures were taken.
        age_s: how old the newest picture was by that clock when it came; None if there is none.
        repairs: of timestamps, by cause.
        epochs: unbroken stretches.
        seconds: whole seconds of media.
        heard: for how much of the time there was sound, 0 to 1.
        loudest: the loudest sample of sound, 0 to 1.
        brightest: the mean of the brightest picture, 0 to 255.
        still_s: how long the picture did not change, at the most.
        ended: the stream was over before enough was seen.
    """

    info: StreamInfo
    streams: tuple[StreamSeen, ...]
    packets: PacketsSeen
    opening_s: float = 0.0
    wall_s: float = 0.0
    media_s: float = 0.0
    first_picture_s: float | None = None
    cpu_s: float = 0.0
    pictures: int = 0
    corrupt: int = 0
    decode_errors: int = 0
    fps: float | None = None
    uneven: float = 0.0
    sizes: tuple[tuple[int, int], ...] = ()
    rotation: int = 0
    clocks: tuple[str, ...] = ()
    age_s: float | None = None
    repairs: Mapping[str, int] = field(default_factory=dict)
    epochs: int = 1
    seconds: int = 0
    heard: float = 0.0
    loudest: float = 0.0
    brightest: float = 0.0
    still_s: float = 0.0
    ended: bool = False


Said = Listening | Seen | Ended | TouchlineError


def main(sender: Connection, look: Look) -> None:
    """Look, and say what was found; the process's whole life."""
    child.begin()
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            sender.send(Ended(look_at(look, sender.send)))
        except SourceFault as fault:
            sender.send(Ended(fault))
        except TouchlineError as error:
            sender.send(error)
    os._exit(0)  # without waiting for threads that may be inside FFmpeg


def look_at(look: Look, say: Callable[[Said], None]) -> SourceFault | None:
    """Read a source and say what was found, again and again; return why it broke off before enough was seen.

    Raises:
        TouchlineError: it cannot be opened.
    """
    return _Looker(look, say).run()


class _Looker:
    def __init__(self, look: Look, say: Callable[[Said], None]) -> None:
        self._look, self._tell = look, say
        self._meter = PacketMeter()
        self._sampler = Sampler(look.spec)
        self._pictures, self._content = _Pictures(), _Content()
        self._streams: tuple[StreamSeen, ...] = ()
        self._lock = threading.Lock()  # of what is measured

    def run(self) -> SourceFault | None:
        began = time.monotonic()
        source = open_source(
            self._look.url,
            options=self._look.options,
            threads=1,
            listening=lambda address: self._tell(Listening(address)),
            tap=self._meter.take,
            stdin_fd=self._look.stdin.fd if self._look.stdin is not None else None,
        )
        self._opened_mono_s, self._cpu_s = time.monotonic(), time.process_time()
        self._opening_s = self._opened_mono_s - began
        over, fault, ended = threading.Event(), None, True
        self._streams = streams_of(source)
        teller = threading.Thread(target=self._keep_telling, args=(source, over), name="teller", daemon=True)
        teller.start()
        try:
            ended = self._read(source)
        except SourceFault as broken:
            fault = broken
        finally:
            over.set()
            teller.join()
            self._streams = streams_of(source)
            self._tell(self._seen(source, ended))
            source.close()
        return fault

    def _keep_telling(self, source: Source, over: threading.Event) -> None:
        """Tell what was seen so far, even while the stream gives nothing."""
        with suppress(BrokenPipeError, ConnectionResetError):
            while not over.is_set():
                with self._lock:
                    seen = self._seen(source)
                self._tell(seen)
                over.wait(_SAY_EVERY_S)

    def _read(self, source: Source) -> bool:
        """Take frames until there are enough; return whether the stream was over before."""
        for frame in source.frames():
            with self._lock:
                for second in self._sampler.push(frame):
                    self._content.take(second)
                if frame.picture is not None:
                    self._pictures.take(frame, source)
            if self._enough(source):
                return False
        for second in self._sampler.flush():
            self._content.take(second)
        return True

    @property
    def _media_s(self) -> float:
        return self._sampler.timeline.newest.seconds if self._pictures.count else 0.0

    def _enough(self, source: Source) -> bool:
        """Return whether there was enough media; of a live stream, so much time is enough as well."""
        if self._media_s >= self._look.seconds:
            return True
        waited_s = time.monotonic() - self._opened_mono_s
        return not source.info.recording and self._pictures.count > 0 and waited_s >= self._look.seconds

    def _seen(self, source: Source, ended: bool = False) -> Seen:
        pictures, content = self._pictures, self._content
        fps, uneven = pictures.rate(self._media_s)
        covered_s = self._media_s if ended else content.seconds  # the last second is a part of one, then
        first_s = pictures.first_mono_s - self._opened_mono_s if pictures.count else None
        return Seen(
            info=source.info,
            streams=self._streams,
            packets=self._meter.seen(),
            opening_s=self._opening_s,
            wall_s=time.monotonic() - self._opened_mono_s,
            media_s=self._media_s,
            first_picture_s=first_s,
            cpu_s=time.process_time() - self._cpu_s,
            pictures=pictures.count,
            corrupt=pictures.corrupt,
            decode_errors=source.decode_errors,
            fps=fps,
            uneven=uneven,
            sizes=tuple(pictures.sizes),
            rotation=pictures.rotation,
            clocks=tuple(pictures.clocks),
            age_s=pictures.age_s,
            repairs=dict(self._sampler.timeline.repairs),
            epochs=content.epochs or 1,
            seconds=content.seconds,
            heard=min(1.0, content.heard / covered_s) if covered_s else 0.0,
            loudest=content.loudest,
            brightest=content.brightest,
            still_s=content.longest_still / self._look.spec.rate,
            ended=ended,
        )


class _Pictures:
    """Measures pictures as they are decoded."""

    def __init__(self) -> None:
        self.count = self.corrupt = self.rotation = 0
        self.first_mono_s = 0.0
        self.sizes: dict[tuple[int, int], None] = {}
        self.clocks: dict[str, None] = {}
        self.age_s: float | None = None
        self._steps_us: list[int] = []
        self._last_us: int | None = None

    def take(self, frame: Frame, source: Source) -> None:
        """Look at a picture."""
        if self.count == 0:
            self.first_mono_s = time.monotonic()
            self.rotation = turned(frame)
        self.count += 1
        self.corrupt += frame.corrupt
        video = getattr(source, "video_stream", None)
        self.sizes[(video.width, video.height) if video is not None else (source.info.width, source.info.height)] = None
        if frame.wall is not None:
            self.clocks[frame.wall.clock] = None
            self.age_s = time.time() - frame.wall.utc_us / 1e6
        if frame.pts is not None:
            at_us = to_us(frame.pts, frame.time_base)
            step_us = at_us - self._last_us if self._last_us is not None else 0
            if 0 < step_us < LONGEST_HOLE_US:
                self._steps_us.append(step_us)
            self._last_us = at_us

    def rate(self, media_s: float) -> tuple[float | None, float]:
        """Return pictures a second, and the share of steps that are unlike the others."""
        fps = (self.count - 1) / media_s if self.count > 2 and media_s > 0 else None
        if len(self._steps_us) < 3:
            return fps, 0.0
        steps_us = np.asarray(self._steps_us)
        usual_us = float(np.median(steps_us))
        even = np.abs(steps_us - usual_us) <= _EVEN_SHARE * usual_us
        uneven = 1.0 - float(even.mean())
        return (fps if uneven > UNEVEN else 1e6 / float(steps_us[even].mean())), uneven


class _Content:
    """Measures what pictures show and sound says, second by second."""

    def __init__(self) -> None:
        self.seconds = self.epochs = self.longest_still = 0
        self.heard = self.loudest = self.brightest = 0.0
        self._still = 0
        self._epoch = -1
        self._last: UINT8 | None = None

    def take(self, second: Second) -> None:
        """Look at a second."""
        self.seconds += 1
        self.epochs += second.epoch != self._epoch
        self._epoch = second.epoch
        self.heard += second.audio_filled
        self.loudest = max(self.loudest, float(np.abs(second.samples_S).max()))
        for picture in second.pictures_NHWC:
            self.brightest = max(self.brightest, float(picture.mean()))
            same = self._last is not None and _differ(picture, self._last) < _LONGEST_STILL_LEVELS
            self._still = self._still + 1 if same else 0
            self.longest_still = max(self.longest_still, self._still)
            self._last = picture


def _differ(one: UINT8, other: UINT8) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())
