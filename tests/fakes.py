"""Stand-ins with real behaviour: pictures without a decoder, engines without a runtime, a bundle of them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Array, Shape
from engines.bundle import Bundle, Decision, HeadSpec, Manifest, ModalityStream, Pictures
from engines.decider import Spot
from engines.second import FLOAT32, UINT8, Second
from streamer.sources.base import Frame, PictureSpec, Wall

BASE = Fraction(1, 90_000)
LABELS = ("Goal", "Foul")


class FlatPicture:
    """A picture of one grey level."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.conversions = 0

    def rgb(self, spec: PictureSpec) -> UINT8:
        self.conversions += 1
        return np.full((spec.height, spec.width, 3), self.level, np.uint8)


def picture(at_s: float | None, level: int = 0, corrupt: bool = False, wall: Wall | None = None) -> Frame:
    pts = None if at_s is None else round(at_s * 90_000)
    return Frame(pts, BASE, FlatPicture(level), corrupt=corrupt, wall=wall)


def sound(at_s: float, samples: FLOAT32 | int) -> Frame:
    block = np.full(samples, 0.5, np.float32) if isinstance(samples, int) else samples
    return Frame(round(at_s * 90_000), BASE, samples=block)


def broadcast(seconds: float, fps: float = 25.0, start_s: float = 0.0) -> Iterator[Frame]:
    """Pictures whose grey level is their second, with a block of sound after each."""
    for i in range(round(seconds * fps)):
        at = i / fps
        yield picture(start_s + at, int(at) % 256)
        yield sound(start_s + at, round(16_000 / fps))


class RememberingScreen:
    """A screen that remembers what it was shown."""

    def __init__(self) -> None:
        self.words: list[Spot] = []
        self.media_s = 0.0

    def opened(self, half: int, info: object) -> None:
        pass

    def advanced(self, media_s: float, factor: float) -> None:
        self.media_s = media_s

    def said(self, spot: Spot, said: datetime) -> None:
        self.words.append(spot)


class FunctionEngine:
    """An engine that is a Python function."""

    def __init__(self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], function: object) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.metadata: Mapping[str, str] = {}
        self._function = function

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        out: dict[str, Array] = self._function(feeds)  # type: ignore[operator]
        return out


def fake_manifest(
    rows: int = 4, look_ahead: int = 1, radius_s: float = 2.0, reach_s: float = 0.0, **head: Any
) -> Manifest:
    return Manifest(
        format_version=1,
        name="fake",
        labels=LABELS,
        streams=(
            ModalityStream(
                name="visual",
                modality="visual",
                file="visual.onnx",
                width=1,
                pictures=Pictures(rate=2, width=16, height=8, resize_filter="area"),
            ),
            ModalityStream(name="audio", modality="audio", file="audio.onnx", width=1),
        ),
        head=HeadSpec(
            file="head.onnx",
            kind="fake",
            rows=rows,
            look_ahead_s=look_ahead,
            max_displacement_s=reach_s,
            **head,
        ),
        decision={label: Decision(threshold=0.5, radius_s=radius_s) for label in LABELS},
        sha256={},
    )


def fake_bundle(manifest: Manifest | None = None) -> Bundle:
    """Rows are the mean brightness and loudness; a second's score of every label is its brightness."""
    manifest = manifest or fake_manifest()
    rows, ahead = manifest.head.rows, round(manifest.head.look_ahead_s)
    c = len(manifest.labels)

    def see(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"row": np.array([[feeds["pictures"].mean() / 255]], np.float32)}

    def hear(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"row": np.array([[np.abs(feeds["samples"]).mean()]], np.float32)}

    def head(feeds: Mapping[str, Array]) -> dict[str, Array]:
        score = feeds["visual"][0, rows - 1 - ahead, 0]
        return {"scores": np.full((1, c), score, np.float32), "displacement": np.zeros((1, c), np.float32)}

    return Bundle(
        path=Path("fake"),
        manifest=manifest,
        digest="fake",
        front_ends={
            "visual": FunctionEngine({"pictures": (1, 2, 8, 16, 3)}, {"row": (1, 1)}, see),
            "audio": FunctionEngine({"samples": (1, 16_000)}, {"row": (1, 1)}, hear),
        },
        head=FunctionEngine({}, {}, head),
    )


def second(index: int, level: int = 0, epoch: int = 0, **changes: object) -> Second:
    fields: dict[str, object] = {
        "epoch": epoch,
        "index": index,
        "pictures_NHWC": np.full((2, 8, 16, 3), level, np.uint8),
        "samples_S": np.zeros(16_000, np.float32),
    }
    return Second(**{**fields, **changes})  # type: ignore[arg-type]
