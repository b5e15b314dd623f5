"""Bundles: manifests and graphs that somebody has damaged, or that never made sense.

What opens must also be able to say what it promises, and to spot on a few seconds.
"""

import hashlib
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engines.bundle import open_bundle
from engines.second import Second
from engines.spotter import Spotter
from fuzzing import tiny
from fuzzing.kinds import Case
from fuzzing.mutations import as_json, mutated_bytes, mutated_json, mutated_tree
from streamer.decision import decided, promise
from streamer.payload import spot_to_json
from streamer.sources.base import PictureSpec

_SECONDS = 8


class Bundles:
    """Bundles, opened and run for a few seconds."""

    def __init__(self) -> None:
        self._graphs = tiny.graphs()
        self._manifest = tiny.manifest()

    def prepare(self, folder: Path) -> None:
        """Load ONNX Runtime, by opening a bundle that is whole."""
        for name, data in tiny.bundle(self._manifest, self._graphs).items():
            (folder / name).write_bytes(data)
        open_bundle(folder)

    def case(self, rng: random.Random) -> Case:
        """Return a bundle with a changed manifest, or changed graphs with right digests or with wrong ones."""
        whole = tiny.bundle(self._manifest, self._graphs)
        deadline_s = rng.choice((None, None, 3, 5, 600))
        way = rng.random()
        if way < 0.7:
            changed = {"manifest.json": mutated_json(json.loads(whole["manifest.json"]), rng)}
            return Case("a changed manifest", whole | changed, {"deadline_s": deadline_s})
        name = rng.choice(sorted(self._graphs))
        graphs = self._graphs | {name: mutated_bytes(self._graphs[name], rng, 3)}
        if way < 0.8:
            return Case(f"a changed {name}", whole | graphs, {"deadline_s": deadline_s})
        manifest = self._manifest if rng.random() < 0.8 else mutated_tree(self._manifest, rng, 1)
        if not isinstance(manifest, dict):
            manifest = self._manifest
        return Case(f"a changed {name} with its digest", _sealed(manifest, graphs), {"deadline_s": deadline_s})

    def feed(self, case: Case) -> None:
        """Open it; spot with it if it opens."""
        bundle = open_bundle(Path())
        deadline_s = case.feed["deadline_s"]
        manifest = decided(bundle.manifest, deadlines_s={} if deadline_s is None else {"*": deadline_s})
        promise(manifest)
        pictures = PictureSpec.of(manifest.pictures)
        spotter = Spotter(bundle, "fuzz")
        said = []
        for index in range(_SECONDS):
            shape = (pictures.rate, pictures.height, pictures.width, 3)
            light = np.full(shape, 30 * index, np.uint8)
            said += spotter.push(Second(0, index, light, np.full(16_000, 0.1, np.float32)))
        said += spotter.expire(_SECONDS + 5.0)
        said += spotter.flush()
        for spot in said:
            spot_to_json(spot, datetime.now(UTC))


def _sealed(manifest: dict[str, object], graphs: dict[str, bytes]) -> dict[str, bytes]:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in graphs.items()}
    return graphs | {"manifest.json": as_json(manifest | {"sha256": digests})}
