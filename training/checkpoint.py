"""Checkpoints: all that a training run needs to go on, and what it made so far, in one file.

A checkpoint holds tensors and plain values alone (`weights_only`), so opening one runs nobody's code. It is written
beside its place and moved there, so a run that dies while writing leaves the one before.
"""

import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engines.errors import DataError, UsageError

FORMAT = 1
_KEYS = {"format", "about", "net", "average", "epoch", "step", "history", "best", "waited"}


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        TypeError: the state holds something that could not be read again, say a NumPy number.
        DataError: the folder cannot be written.
    """
    check_plain(state, "state")
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        beside.unlink(missing_ok=True)
        raise DataError(f"{path}: the checkpoint cannot be written; is the disk full? ({error})") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, on the CPU.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, or not one of this program's.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: the checkpoint is damaged, or not one of touchline's.") from error
    if not isinstance(state, dict) or not set(state) >= _KEYS or state["format"] != FORMAT:
        raise DataError(f"{path}: this is not a checkpoint of this version of touchline.")
    return state


def load_weights(net: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Give a network the weights a checkpoint would be used with: the moving average where one was kept.

    Raises:
        DataError: they are of another network.
    """
    try:
        net.load_state_dict(state["average"] or state["net"])
    except RuntimeError as error:
        raise DataError(f"{path}: the checkpoint's weights do not fit this recipe's network.") from error


def check_plain(value: object, where: str) -> None:
    """Make sure that `value` can be read again with `weights_only`.

    Raises:
        TypeError: naming the place of what cannot.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(inner, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):  # type: ignore[arg-type]
            check_plain(inner, f"{where}[{i}]")
    elif type(value) not in (int, float, bool, str, type(None)) and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values alone")


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's, NumPy's and Python's own generators, as plain values."""
    name, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Bring the generators back to where `random_state` found them."""
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
