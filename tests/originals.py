"""Numbers that the original code gave, from `../shared/fixtures` or from the smaller copies in `tests/originals/`.

Weights and inputs are not stored: `weights` and `inputs` draw them again, by the recipe in the fixtures' README.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COPIES = Path(__file__).parent / "originals"

FLOAT32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Originals:
    """A folder of fixtures; `whole` says whether it is the full set or the repository's smaller copies."""

    folder: Path
    whole: bool

    def arrays(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Return the arrays of `<name>.npz`."""
        with np.load(self.folder / f"{name}.npz") as file:
            return dict(file)

    def json(self, name: str) -> Any:
        """Return the content of `<name>.json`."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


def weight(seed: int, name: str, shape: Sequence[int]) -> FLOAT32:
    """Return the weight tensor that the fixtures were made with; `name` is the original's state-dict key."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    z = rng.standard_normal(tuple(shape))
    leaf = name.split(".")[-1]
    if leaf == "running_var":
        z = 0.75 + 0.5 * rng.random(tuple(shape))
    elif leaf == "running_mean":
        z = 0.1 * z
    elif "bias" in leaf:
        z = 0.05 * z
    elif len(shape) == 1:
        z = 1 + 0.1 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return z.astype(np.float32)


def inputs(seed: int, shape: Sequence[int]) -> FLOAT32:
    """Return the input that the fixtures were made with."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)
