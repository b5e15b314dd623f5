"""Arrays in `.npy` files: what their headers say, and their rows without reading them whole.

In: `.npy` files of floats, (T, D) or (T, 1, D). Out: `FeatureFile`, and rows (T, D) that are memory-mapped. Promise:
nothing is unpickled, and what is wrong with a file is a DataError of one sentence.
"""

import os
import tokenize
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from engines.errors import DataError

FLOATS = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """What the header of a feature file says."""

    path: Path
    rows: int
    width: int
    dtype: np.dtype[Any]


def read_header(path: Path) -> FeatureFile:
    """Return what a feature file's header says, after checking that the file is as long as it should be.

    Raises:
        DataError: it cannot be read, is damaged, or is not (T, D) or (T, 1, D) of floats.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            size = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise DataError(f"{path}: is not a .npy file ({_first_line(error)}).") from error
    if dtype.hasobject:
        raise DataError(f"{path}: holds pickled objects, which are refused; save a plain array of floats.")
    if dtype.kind != "f":
        raise DataError(f"{path}: holds {dtype}, where floats belong.")
    if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and shape[1] != 1):
        raise DataError(f"{path}: its shape is {shape}, where (rows, width) or (rows, 1, width) belongs.")
    if size < prod(shape) * dtype.itemsize:
        raise DataError(f"{path}: is cut off: {size} bytes of {prod(shape) * dtype.itemsize} are there.")
    return FeatureFile(path, shape[0], shape[-1], dtype)


def map_rows(file: FeatureFile) -> FLOATS:
    """Return a file's rows (T, D), memory-mapped until nothing refers to them any more.

    Raises:
        DataError: the file is no longer what its header said.
    """
    try:
        array: FLOATS = np.load(file.path, "r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file.path}: can no longer be read ({_first_line(error)}).") from error
    rows_TD = array.reshape(-1, array.shape[-1])
    if rows_TD.shape != (file.rows, file.width):
        raise DataError(f"{file.path}: has changed since it was found; start again.")
    return rows_TD


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
