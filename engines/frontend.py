"""A Second in, its embedding rows out: one per modality stream."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from engines.backends.base import Array, Engine
from engines.bundle import Bundle, Manifest, ModalityStream
from engines.second import FLOAT32, Second


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """What the front ends saw in one second.

    Attributes:
        rows: modality stream → float32 (R, D), R rows a second; zeros where the second holds no such media. The last
            second of a features file may have fewer.
        has_picture: whether the second holds any picture; without one nothing is spotted in it.
    """

    epoch: int
    index: int
    rows: Mapping[str, FLOAT32]
    has_picture: bool
    flags: frozenset[str]


def embeddings_of(rows: Mapping[str, FLOAT32], manifest: Manifest) -> Iterator[Embeddings]:
    """Yield the rows of a features file second by second, as front ends would have given them.

    A second holds a picture unless the rows of every visual stream (of every stream, if none is visual) are all zero.

    Args:
        rows: modality stream → float32 (N, D), all of one length.
        manifest: of the bundle that will see them; it tells their rate, and which streams are visual.
    """
    visual = [s.name for s in manifest.streams if s.modality == "visual"] or list(rows)
    count, rate = len(next(iter(rows.values()))), manifest.rate
    for index in range(-(-count // rate)):
        cut = {name: x[index * rate : (index + 1) * rate] for name, x in rows.items()}
        yield Embeddings(0, index, cut, any(cut[name].any() for name in visual), frozenset())


class FrontEnds:
    """All front ends of a bundle. A stateful graph's state starts at zero in each epoch."""

    def __init__(self, bundle: Bundle) -> None:
        self._streams = [(s, bundle.front_ends[s.name]) for s in bundle.manifest.streams if s.file]
        self._states: dict[str, dict[str, Array]] = {}
        self._epoch = -1

    def push(self, second: Second) -> list[Embeddings]:
        """Return the second's embeddings."""
        if second.epoch != self._epoch:
            self._epoch, self._states = second.epoch, {}
        rows = {stream.name: self._row(stream, engine, second) for stream, engine in self._streams}
        return [Embeddings(second.epoch, second.index, rows, second.has_video, second.flags)]

    def _row(self, stream: ModalityStream, engine: Engine, second: Second) -> FLOAT32:
        if stream.modality == "visual":
            present, name, media = second.has_video, "pictures", cast(Array, second.pictures_NHWC[None])
        else:
            present, name, media = second.has_audio, "samples", cast(Array, second.samples_S[None])
        if not present:
            return np.zeros((1, stream.width), np.float32)
        state = self._states.get(stream.name) or {s.name: np.zeros(s.shape, np.float32) for s in stream.states}
        out = engine.run({name: media, **state})
        self._states[stream.name] = {key: out[f"next_{key}"] for key in state}
        rows: FLOAT32 = out["row"]
        return rows
