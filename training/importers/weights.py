"""Weights as they are published, read without running anything that a file brings along.

In: `.pth`, `.pt`, `.tar` (torch's checkpoints), `.npz`, `.safetensors`. Out: tensors on the CPU, by name. Promise: a
pickle that wants more than tensors and plain values is refused, and what is wrong with a file is a DataError of one
sentence.
"""

import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from engines.errors import DataError

_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights
_PARALLEL = "module."  # what DataParallel puts before every name
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, by name.

    A checkpoint's weights are looked for under "state_dict", "model_state_dict" and "model"; "module." is taken off
    where every name begins with it.

    Raises:
        DataError: the file cannot be read, is of an unknown kind, or holds something else than tensors.
    """
    readers: dict[str, Callable[[Path], object]] = {
        **dict.fromkeys((".pth", ".pt", ".tar"), _read_checkpoint),
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: weights are read from {', '.join(readers)}; its name ends otherwise.")
    try:
        state = _weights_in(reader(path))
    except OSError as error:
        raise DataError(f"{path}: the weights cannot be read: {error.strerror or error}.") from error
    except _UnreadableError as error:
        raise DataError(f"{path}: {error}.") from error
    parallel = all(name.startswith(_PARALLEL) for name in state)
    return {name.removeprefix(_PARALLEL) if parallel else name: tensor for name, tensor in state.items()}


class _UnreadableError(Exception):
    """Why a file's content is refused: a sentence without its subject and full stop."""


def _weights_in(found: object) -> dict[str, Tensor]:
    """Return the mapping of names to tensors that a checkpoint is or holds."""
    for _ in _NESTED:  # bounded, since a pickle can hold itself
        if isinstance(found, Mapping):
            found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not found:
        raise _UnreadableError(f"holds no weights by name, neither at the top nor under {', '.join(_NESTED)}")
    for name, tensor in found.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise _UnreadableError(f"holds something else than weights: {name!r} is a {type(tensor).__name__}")
    return {name: tensor.detach() for name, tensor in found.items()}


def _read_checkpoint(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's age
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"wants {wanted[1]}" if wanted else "is no plain checkpoint"
        raise _UnreadableError(
            f"{what} and is refused, because a pickle of more than tensors can run code; save its state_dict alone"
        ) from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise _UnreadableError(
            f"is damaged or no checkpoint of torch.save ({type(error).__name__}); save its state_dict again"
        ) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: _tensor_of(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, AttributeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _UnreadableError(f"is damaged or holds more than arrays of numbers ({_first_line(error)})") from error


def _tensor_of(array: np.ndarray) -> Tensor:
    """Return a copy of an array, in this machine's byte order; a scalar stays one."""
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file: 8 bytes of header length, a JSON header, raw little-endian values.

    Source: the format's description in github.com/huggingface/safetensors, README.
    """
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), _HEADER_LIMIT):
        raise _UnreadableError("is cut off or no .safetensors file")
    try:
        header = json.loads(data[8:start])
        return {name: _raw_tensor(data, start, **entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise _UnreadableError(f"is damaged or no .safetensors file ({_first_line(error)})") from error


def _raw_tensor(data: bytearray, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    """Return one tensor of a .safetensors file whose values begin at `start`."""
    first, last = data_offsets
    values = data[start + first : start + last]
    if not 0 <= first <= last <= len(data) - start:
        raise ValueError("values lie beyond its end")
    kind = _DTYPES[dtype]
    flat = torch.frombuffer(values, dtype=kind) if values else torch.empty(0, dtype=kind)
    return flat.reshape(shape)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
