"""Faults inside a stream: what is said away from them is what is said of the stream without them."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from fakes import RememberingScreen

from engines.decider import Spot
from streamer.config import IngestConfig, RunConfig
from streamer.pipeline import Pipeline

SECONDS = 60
FAULT_S = 27.0
WINDOW_S = 13.0
"""Of the shipped bundle: what a score can see, before and after its row."""
WRAP = 2**33
SURE = 0.6


def replay(path: Path) -> tuple[list[Spot], float]:
    """Return the final words, and how long the stream was."""
    screen = RememberingScreen()
    bundle = Path(__file__).parents[2] / "bundles" / "demo"
    config = RunConfig(bundle, "main", IngestConfig((str(path),), live=False), threshold=0.2, provisional=False)
    asyncio.run(Pipeline(config, screen).run())
    return screen.words, screen.media_s


Shift = Callable[[float], float]


def remux(
    source: Path,
    target: Path,
    shift: Shift = lambda at_s: 0.0,
    keep: Callable[[str, float], bool] = lambda kind, at_s: True,
    part: tuple[float, float] = (0.0, 1e9),
) -> Path:
    """Write a stream again, its packets moved in time, or left out; times count from its first picture."""
    given: Any = av.open(str(source))
    out: Any = av.open(str(target), "w", format="mpegts")
    with given, out:
        first_s = float(given.streams.video[0].start_time * given.streams.video[0].time_base)
        out_streams = {s.index: out.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is None or packet.pts is None:
                continue
            at_s = float(packet.dts * packet.time_base) - first_s
            if not part[0] <= at_s < part[1] or not keep(packet.stream.type, at_s):
                continue
            moved = round(shift(at_s) / packet.time_base)
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            packet.stream = out_streams[packet.stream.index]
            out.mux_one(packet)
    return target


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of the sample, smaller, so that decoding it often is cheap; a key frame every second."""
    return encode(tmp_path_factory.mktemp("damaged") / "stream.ts", (0.0, float(SECONDS)), (320, 180), 25)


def encode(path: Path, part: tuple[float, float], size: tuple[int, int], rate: int) -> Path:
    """Write a part of the sample in another size and rate."""
    sample = Path(__file__).parents[2] / "samples" / "broadcast.ts"
    given: Any = av.open(str(sample))
    out: Any = av.open(str(path), "w", format="mpegts")
    with given, out:
        video = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "20", "g": str(rate)})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        sound = out.add_stream_from_template(given.streams.audio[0])
        first_s, shown = float(given.streams.video[0].start_time * given.streams.video[0].time_base), -1
        for packet in given.demux(given.streams.video[0], given.streams.audio[0]):
            at_s = float(packet.dts * packet.time_base) - first_s if packet.dts is not None else 0.0
            if at_s > part[1] + 1:
                break
            if packet.stream.type == "audio" and packet.size and part[0] <= at_s < part[1]:
                packet.pts = packet.dts = round((at_s - part[0]) / packet.time_base)
                packet.stream = sound
                out.mux(packet)
            for frame in packet.decode() if packet.stream.type == "video" else ():
                number = round((frame.time - first_s) * rate)
                if part[0] * rate <= number < part[1] * rate and number > shown:
                    shown = number
                    small = frame.reformat(*size, format="yuv420p")
                    small.pts, small.time_base = number - round(part[0] * rate), Fraction(1, rate)
                    out.mux(video.encode(small))
        out.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def undamaged(stream: Path) -> tuple[list[Spot], float]:
    return replay(stream)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a stream.

    Attributes:
        make: writes it.
        at_s: between when, in the undamaged stream's media time.
        tolerance_s: how far a spot may move.
        sure: only words of this confidence are asked for; what is coded anew looks a little different.
    """

    make: Callable[[Path, Path], Path]
    at_s: tuple[float, float] = (FAULT_S, FAULT_S)
    tolerance_s: float = 0.05
    sure: float = 0.0


def spliced(before_s: float, after_s: float) -> Callable[[Path, Path], Path]:
    """Let the timestamps be this much later up to the fault, and this much later after it."""

    def make(source: Path, target: Path) -> Path:
        cut_s = FAULT_S
        one = remux(source, target.with_suffix(".1.ts"), lambda at_s: before_s, part=(0.0, cut_s))
        two = remux(source, target.with_suffix(".2.ts"), lambda at_s: after_s, part=(cut_s, 1e9))
        target.write_bytes(one.read_bytes() + two.read_bytes())
        return target

    return make


def wrapped(source: Path, target: Path) -> Path:
    """Let the 33-bit timestamps wrap in the middle."""
    return remux(source, target, lambda at_s: WRAP / 90_000 - FAULT_S)


def damaged(share: float) -> Callable[[Path, Path], Path]:
    """Replace a share of the bytes of four seconds."""

    def make(source: Path, target: Path) -> Path:
        data = bytearray(source.read_bytes())
        chance = random.Random(1)
        first, last = (round(len(data) * s / SECONDS) for s in (FAULT_S, FAULT_S + 4))
        for _ in range(round((last - first) * share)):
            data[chance.randrange(first, last)] = chance.randrange(256)
        target.write_bytes(data)
        return target

    return make


def cut_in_a_gop(source: Path, target: Path) -> Path:
    """Leave out a second and a half, from inside one packet to inside another."""
    data = source.read_bytes()
    first = round(len(data) * (FAULT_S + 0.4) / SECONDS)
    target.write_bytes(data[:first] + data[first + round(len(data) * 1.5 / SECONDS) + 77 :])
    return target


def restarted(source: Path, target: Path) -> Path:
    """Let another encoder go on: another size, another rate, timestamps from zero."""
    first = remux(source, target.with_suffix(".1.ts"), lambda at_s: 5000.0, part=(0.0, FAULT_S))
    second = encode(target.with_suffix(".2.ts"), (FAULT_S, float(SECONDS)), (480, 270), 30)
    target.write_bytes(first.read_bytes() + second.read_bytes())
    return target


def mute_for_a_while(source: Path, target: Path) -> Path:
    return remux(source, target, keep=lambda kind, at_s: kind == "video" or not FAULT_S < at_s < FAULT_S + 6)


FAULTS = {
    "the timestamps wrap": Fault(wrapped, (0.0, 0.0), tolerance_s=0.0),
    "they wrap, jump back, and wrap again": Fault(spliced(WRAP / 90_000 - 20.0, WRAP / 90_000 - 40.0)),
    "a jump back": Fault(spliced(5000.0, 4000.0)),
    "a jump of 26 hours": Fault(spliced(5000.0, 98_600.0)),
    "a cut in the middle of a GOP": Fault(cut_in_a_gop, (FAULT_S, FAULT_S + 3)),
    "a hundredth of the bytes damaged": Fault(damaged(0.01), (FAULT_S, FAULT_S + 5)),
    "a twentieth of the bytes damaged": Fault(damaged(0.05), (FAULT_S, FAULT_S + 5)),
    "sound that goes and comes back": Fault(mute_for_a_while, (FAULT_S, FAULT_S + 7)),
    "another encoder": Fault(restarted, tolerance_s=0.35, sure=SURE),
}


def outside(words: Sequence[Spot], start_s: float, end_s: float) -> list[Spot]:
    return [w for w in words if not start_s - WINDOW_S <= w.media_time <= end_s + WINDOW_S]


@pytest.mark.parametrize("name", list(FAULTS))
def test_what_is_said_away_from_a_fault_is_what_is_said_without_it(
    stream: Path, undamaged: tuple[list[Spot], float], tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    words, length_s = replay(fault.make(stream, tmp_path / "damaged.ts"))
    expected, expected_s = undamaged
    assert abs(length_s - expected_s) <= 3, "nothing hangs, and no empty hours are made up"
    said, wanted = outside(words, *fault.at_s), outside(expected, *fault.at_s)
    if fault.at_s == (0.0, 0.0):
        said, wanted = words, expected
    assert len(wanted) >= 4
    if fault.sure:
        assert all(any(is_same(w, s, fault.tolerance_s) for s in said) for w in wanted if w.confidence > fault.sure)
        return
    assert [w.label for w in said] == [w.label for w in wanted]
    for word, same in zip(said, wanted, strict=True):
        assert is_same(word, same, fault.tolerance_s)
        assert abs(word.confidence - same.confidence) < (1e-6 if fault.tolerance_s == 0 else 0.1)


def is_same(one: Spot, two: Spot, tolerance_s: float) -> bool:
    return one.label == two.label and abs(one.media_time - two.media_time) <= tolerance_s
