"""Published weights: what is read, and what is refused without being run."""

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.errors import DataError
from training.importers.weights import read_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}


class Malicious:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def assert_same(read: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(read) == list(wanted)
    for name, tensor in wanted.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
        assert not read[name].requires_grad


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message
    return message


def write_safetensors(path: Path, header: dict[str, Any] | bytes, values: bytes) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + values)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pth.tar", "W.PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_gives_its_tensors(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(tmp_path / name), WEIGHTS)


@pytest.mark.parametrize(
    "nest",
    [
        lambda w: {"epoch": 3, "best_loss": 0.5, "state_dict": w, "optimizer": {"lr": 1e-3}},
        lambda w: {"model_state_dict": w},
        lambda w: {"model": {"state_dict": w}},
    ],
)
def test_weights_are_found_inside_a_training_checkpoint(tmp_path: Path, nest: Any) -> None:
    torch.save(nest(WEIGHTS), tmp_path / "w.pth.tar")
    assert_same(read_weights(tmp_path / "w.pth.tar"), WEIGHTS)


def test_the_prefix_of_data_parallel_goes_only_where_every_name_has_it(tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / "a.pt")
    assert_same(read_weights(tmp_path / "a.pt"), WEIGHTS)
    mixed = {"module.fc": torch.ones(1), "n_averaged": torch.tensor(3)}
    torch.save(mixed, tmp_path / "b.pt")
    assert_same(read_weights(tmp_path / "b.pt"), mixed)


@pytest.mark.parametrize("kind", ["zipped", "old", "bare pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path, made = tmp_path / "w.pth", tmp_path / "made"
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps({"state_dict": Malicious(made)}))
    else:
        holding = {"state_dict": {**WEIGHTS, "x": Malicious(made)}}
        torch.save(holding, path, _use_new_zipfile_serialization=kind == "zipped")
    assert "can run code" in refusal(path)
    assert not made.exists()


def test_the_refusal_names_what_a_checkpoint_wants_beside_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "best": np.float64(1)}, tmp_path / "w.pth")
    assert "numpy._core.multiarray.scalar" in refusal(tmp_path / "w.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "module.pth")


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], {"epoch": 3}, {1: torch.ones(1)}, {"a": torch.ones(1), "b": 2}]
)
def test_a_checkpoint_of_something_else_is_one_sentence(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "weights" in refusal(tmp_path / "w.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")


def test_an_archive_of_arrays_gives_tensors_and_keeps_scalars(tmp_path: Path) -> None:
    big_endian = np.arange(4, dtype=">f4").reshape(2, 2)
    arrays: dict[str, Any] = {"module.w": big_endian, "module.n": np.int64(7)}
    np.savez(tmp_path / "w.npz", **arrays)
    assert_same(
        read_weights(tmp_path / "w.npz"),
        {"w": torch.arange(4.0).reshape(2, 2), "n": torch.tensor(7, dtype=torch.int64)},
    )


def test_an_archive_with_pickled_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    np.savez(tmp_path / "w.npz", w=np.array([Malicious(made)], object))
    refusal(tmp_path / "w.npz")
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Malicious(made)))
    refusal(tmp_path / "p.npz")
    assert not made.exists()


@pytest.mark.parametrize(
    ("dtype", "tensor"),
    [
        ("F32", torch.tensor([[1.5, -2.0]])),
        ("F64", torch.tensor(3.25, dtype=torch.float64)),
        ("F16", torch.tensor([0.5], dtype=torch.float16)),
        ("BF16", torch.tensor([0.5, 2.0], dtype=torch.bfloat16)),
        ("I64", torch.tensor([[-1], [2**40]])),
        ("U8", torch.tensor([255], dtype=torch.uint8)),
        ("BOOL", torch.tensor([True, False])),
        ("F32", torch.empty(0, 4)),
    ],
)
def test_safetensors_are_read_value_for_value(tmp_path: Path, dtype: str, tensor: Tensor) -> None:
    values = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    entry = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [1, 1 + len(values)]}
    path = write_safetensors(tmp_path / "w.safetensors", {"__metadata__": {"a": "b"}, "w": entry}, b"\0" + values)
    assert_same(read_weights(path), {"w": tensor})


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F7"},
        {"shape": [3]},
        {"data_offsets": [0, 9]},
        {"data_offsets": [4, 0]},
        {"data_offsets": [-8, 8]},
        {"x": 1},
    ],
)
def test_damaged_safetensors_are_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change
    refusal(write_safetensors(tmp_path / "w.safetensors", {"w": entry}, bytes(8)))


def test_what_is_not_there_and_what_is_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    for name in ("absent.pth", "absent.npz", "absent.safetensors"):
        assert "No such file" in refusal(tmp_path / name)
    (tmp_path / "w.h5").write_bytes(b"")
    assert ".safetensors" in refusal(tmp_path / "w.h5")
    (tmp_path / "folder.pt").mkdir()
    assert "directory" in refusal(tmp_path / "folder.pt")


@pytest.mark.parametrize("kind", [".pth", ".old.pth", ".npz", ".safetensors"])
@given(cut=st.integers(0, 700), flips=st.lists(st.tuples(st.integers(0, 699), st.integers(1, 255)), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_one_sentence(
    tmp_path: Path, kind: str, cut: int, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path / f"w{kind}"
    if kind == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
        np.savez(path, **arrays)
    elif kind == ".safetensors":
        write_safetensors(path, {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == ".pth")
    data = bytearray(path.read_bytes())
    for place, bits in flips:
        data[place % len(data)] ^= bits
    path.write_bytes(data[: len(data) if cut == 700 else cut])
    with suppress(DataError):
        assert all(isinstance(tensor, Tensor) for tensor in read_weights(path).values())
