"""The training loop on tasks of a few numbers: what it keeps, when it stops, and that it goes on where it was."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from engines.errors import DataError, UsageError
from training.checkpoint import read_checkpoint, write_checkpoint
from training.fabric import FabricOptions
from training.fit import BEST, LAST, Fitted, NotFiniteError, Training, fit, prepare_torch
from training.recipes import RECIPES, Options
from training.train import resumed

STEPS = 5
CPU = FabricOptions(accelerator="cpu")


class Stopped(BaseException):
    """What kills a run in these tests, without a chance to tidy up."""


class Line:
    """A small network with dropout and batch statistics learns a line; batches come from one long draw."""

    def __init__(self, schedule: str = "", scores: tuple[float, ...] = (), stop_at: int = -1) -> None:
        self.net: nn.Module = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)
        )
        self._schedule, self._scores, self._stop_at = schedule, scores, stop_at
        self._rng = np.random.default_rng(0)
        self._validations = self._losses = 0
        self.dtypes: set[torch.dtype] = set()

    def batches(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        for _ in range(STEPS):
            x = torch.from_numpy(self._rng.standard_normal((4, 3), np.float32))
            yield {"x": x, "y": x.sum(1, keepdim=True)}

    def loss(self, net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        if self._losses == self._stop_at:
            raise Stopped
        self._losses += 1
        self.dtypes |= {batch["x"].dtype, batch["y"].dtype}
        error = (net(batch["x"]).float() - batch["y"]).square().mean()
        return error, {"error": error.item()}

    def optimizer(self, net: nn.Module) -> Optimizer:
        return torch.optim.AdamW(net.parameters(), lr=0.01)

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        if self._schedule == "cycle":
            return OneCycleLR(optimizer, 0.05, total_steps=4 * STEPS)
        return ReduceLROnPlateau(optimizer, patience=1) if self._schedule == "plateau" else None

    def validate(self, net: nn.Module) -> dict[str, float]:
        assert not net.training
        self._validations += 1
        error = net(torch.ones(2, 3)).mean().item()
        scores = self._scores
        return {"score": scores[self._validations - 1] if scores else error, "loss": abs(error) + np.random.rand()}

    def state(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "validations": self._validations}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._validations = state["validations"]


def train(folder: Path, training: Training, resume: bool = False, **task: Any) -> Fitted:
    prepare_torch(training)
    np.random.seed(0)
    return fit(Line(**task), training, folder, fabric_options=CPU, resume=resume)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("schedule", ["", "cycle", "plateau"])
@pytest.mark.parametrize("keep", ["best", "last"])
@settings(max_examples=4)
@given(stop_at=st.integers(STEPS, 4 * STEPS - 1), average=st.booleans())
def test_a_run_killed_at_any_step_and_resumed_gives_the_same_weights(
    tmp_path_factory: pytest.TempPathFactory, schedule: str, keep: Any, stop_at: int, average: bool
) -> None:
    training = Training(epochs=4, keep=keep, ema_decay=0.9 if average else None, clip_norm=1.0, threads=1)
    folder = tmp_path_factory.mktemp("fit")
    straight = train(folder / "straight", training, schedule=schedule)
    with pytest.raises(Stopped):
        train(folder / "killed", training, schedule=schedule, stop_at=stop_at)
    after = train(folder / "killed", training, resume=True, schedule=schedule)
    assert same(straight.net, after.net)
    assert straight.history == after.history


def test_a_finished_run_resumed_gives_its_network_again(tmp_path: Path) -> None:
    training = Training(epochs=2, threads=1)
    assert same(train(tmp_path, training).net, train(tmp_path, training, resume=True).net)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (train(tmp_path / str(seed), Training(epochs=1, seed=seed, threads=1)) for seed in (1, 2))
    assert not same(one.net, other.net)


def test_the_weights_of_the_best_validation_are_returned(tmp_path: Path) -> None:
    best = train(tmp_path / "best", Training(epochs=4, threads=1), scores=(0.1, 0.4, 0.3, 0.4))
    after_two = train(tmp_path / "two", Training(epochs=2, keep="last", threads=1), scores=(0.1, 0.4))
    last = train(tmp_path / "last", Training(epochs=4, keep="last", threads=1), scores=(0.1, 0.4, 0.3, 0.4))
    assert same(best.net, after_two.net)
    assert not same(best.net, last.net)


def test_training_stops_after_so_many_validations_without_a_better_one(tmp_path: Path) -> None:
    scores = (0.1, 0.4, 0.3, 0.4, 0.9)
    assert len(train(tmp_path, Training(epochs=5, patience=2, threads=1), scores=scores).history) == 4


def test_a_smaller_loss_is_better_where_the_loss_is_monitored(tmp_path: Path) -> None:
    fitted = train(tmp_path, Training(epochs=4, monitor="loss", threads=1))
    losses = [entry["valid_loss"] for entry in fitted.history]
    assert read_checkpoint(tmp_path / BEST)["epoch"] == 1 + losses.index(min(losses))


def test_without_a_monitored_value_the_last_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "validate", lambda self, net: {})
    best, last = (train(tmp_path / keep, Training(epochs=2, keep=keep, threads=1)) for keep in ("best", "last"))
    assert same(best.net, last.net)


def test_validations_come_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    fitted = train(tmp_path, Training(epochs=5, validate_every=2, threads=1))
    assert [entry["epoch"] for entry in fitted.history if "valid_score" in entry] == [2, 4, 5]


def test_a_training_of_steps_ends_within_an_epoch(tmp_path: Path) -> None:
    fitted = train(tmp_path, Training(steps=STEPS + 2, threads=1))
    assert [entry["step"] for entry in fitted.history] == [STEPS, STEPS + 2]
    assert "valid_score" in fitted.history[-1]


def test_a_plateau_that_can_reduce_no_further_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is the best; each rate has two epochs to better it, the smallest as many as the patience, one."""
    monkeypatch.setattr(Line, "schedule", lambda self, optimizer: ReduceLROnPlateau(optimizer, factor=1e-4, patience=1))
    monkeypatch.setattr(Line, "validate", lambda self, net: {"score": 0.0, "loss": 1.0})
    rates = [entry["learning_rate"] for entry in train(tmp_path, Training(epochs=50, threads=1)).history]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-6, 1e-6, 1e-10])


def test_the_average_of_weights_is_validated_and_returned(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", Training(epochs=2, keep="last", threads=1))
    averaged = train(tmp_path / "average", Training(epochs=2, keep="last", ema_decay=0.99, threads=1))
    state = read_checkpoint(tmp_path / "average" / LAST)
    assert all(torch.equal(value, state["net"][key]) for key, value in plain.net.state_dict().items())
    assert all(torch.equal(value, state["average"][key]) for key, value in averaged.net.state_dict().items())
    assert not same(plain.net, averaged.net)


def test_the_gradient_s_norm_is_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "optimizer", lambda self, net: torch.optim.SGD(net.parameters(), lr=1.0))
    prepare_torch(training := Training(steps=1, clip_norm=1e-3, keep="last"))
    task = Line()
    before = torch.cat([p.detach().flatten().clone() for p in task.net.parameters()])
    fitted = fit(task, training, tmp_path, fabric_options=CPU)
    moved = torch.cat([p.detach().flatten() for p in fitted.net.parameters()]) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_are_harmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Line.loss

    def loss(self: Line, net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        error, parts = whole(self, net, batch)
        return error * (np.nan if self._losses > STEPS + 2 else 1), parts

    monkeypatch.setattr(Line, "loss", loss)
    with pytest.raises(NotFiniteError, match="not finite at step 8"):
        train(tmp_path, Training(epochs=3, threads=1))
    state = read_checkpoint(tmp_path / LAST)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["net"].values())


def test_a_gradient_that_is_infinite_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Line, net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return (net(batch["x"]) * 0).square().sum().sqrt(), {}  # 0, with the slope 0 · ∞

    monkeypatch.setattr(Line, "loss", loss)
    with pytest.raises(NotFiniteError, match=r"loss 0\.0"):
        train(tmp_path, Training(epochs=1, threads=1))
    assert not (tmp_path / LAST).exists()


def test_in_mixed_precision_a_batch_stays_as_exact_as_the_task_made_it(tmp_path: Path) -> None:
    training = Training(epochs=1, threads=1)
    prepare_torch(training)
    task = Line()
    fitted = fit(task, training, tmp_path, fabric_options=replace(CPU, precision="bf16-mixed"))
    assert task.dtypes == {torch.float32}
    assert not same(fitted.net, train(tmp_path / "full", training).net)  # it did run in the lower precision
    assert {value.dtype for value in fitted.net.parameters()} == {torch.float32}


def test_the_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    train(tmp_path, Training(epochs=2, threads=1))
    (curves,) = tmp_path.glob("events.out.tfevents.*")
    for name in (b"train/loss", b"train/error", b"learning_rate", b"valid/score"):
        assert name in curves.read_bytes()


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(globals(), "Stopped", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Training(epochs=3, threads=1), stop_at=2 * STEPS + 1)
    assert "holds 2 epochs: go on with --resume" in caplog.text
    assert read_checkpoint(tmp_path / LAST)["epoch"] == 2


def test_a_run_is_never_begun_over_another(tmp_path: Path) -> None:
    train(tmp_path, Training(epochs=1, threads=1))
    with pytest.raises(UsageError, match="holds a run already"):
        train(tmp_path, Training(epochs=1, threads=1))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        train(tmp_path / "file" / "run", Training(epochs=1, threads=1))


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        train(tmp_path, Training(epochs=1, threads=1), resume=True)


def test_data_without_a_whole_batch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "batches", lambda self, epoch: [])
    with pytest.raises(DataError, match="single batch"):
        train(tmp_path, Training(epochs=1, threads=1))


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UsageError, match=f"cannot run on 1 × {absent}"):
        fit(Line(), Training(epochs=1), tmp_path, fabric_options=FabricOptions(accelerator=absent))


@pytest.mark.parametrize("cut", [0, 1, 100, 2000])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, cut: int) -> None:
    train(tmp_path, Training(epochs=1, threads=1))
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: len(whole) - cut] if cut > 1 else b"no checkpoint"[: 20 * cut])
    with pytest.raises(DataError, match="damaged"):
        train(tmp_path, Training(epochs=1, threads=1), resume=True)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 1, "what": Line()}, tmp_path / LAST)
    with pytest.raises(DataError, match="damaged, or not one"):
        read_checkpoint(tmp_path / LAST)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, Training(epochs=2, threads=1))
    task = Line()
    task.net = nn.Linear(3, 1)
    with pytest.raises(DataError, match="does not fit this recipe"):
        fit(task, Training(epochs=2), tmp_path, fabric_options=CPU, resume=True)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / LAST, state := {"epoch": 1})
    before = (tmp_path / LAST).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(DataError, match="No space left"):
        write_checkpoint(tmp_path / LAST, state)
    assert (tmp_path / LAST).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['task'\]\['best'\] is a float64"):
        write_checkpoint(tmp_path / LAST, {"task": {"best": np.float64(1)}})


def test_a_training_has_one_length() -> None:
    with pytest.raises(ValueError, match="one of the two"):
        Training()
    with pytest.raises(ValueError, match="one of the two"):
        Training(epochs=1, steps=1)
    training = Training(steps=100, seed=3)
    assert Options(epochs=2).applied(training) == Training(epochs=2, seed=3)
    assert Options(steps=7, seed=4).applied(training) == Training(steps=7, seed=4)
    assert Options().applied(training) == training


def test_a_run_is_resumed_as_the_recipe_and_with_the_options_it_began_with(tmp_path: Path) -> None:
    begun = Options(steps=7, front_ends=Path("bundles/demo"))
    about = {"recipe": "demo", "options": begun.plain()}
    fit(Line(), Training(epochs=1), tmp_path, fabric_options=CPU, about=about)
    assert resumed(tmp_path / LAST, "demo", Options()) == begun
    assert resumed(tmp_path / LAST, "demo", Options(steps=7)) == begun
    other = Options(front_ends=Path("moved"))
    assert resumed(tmp_path / LAST, "demo", other) == replace(begun, front_ends=other.front_ends)
    with pytest.raises(UsageError, match="a run of the recipe demo, not of hmtas"):
        resumed(tmp_path / LAST, "hmtas", Options())
    with pytest.raises(UsageError, match="began with --steps 7"):
        resumed(tmp_path / LAST, "demo", Options(steps=8))
    with pytest.raises(UsageError, match="began with no --seed"):
        resumed(tmp_path / LAST, "demo", Options(seed=2))


def test_every_recipe_names_and_describes_itself() -> None:
    for name, recipe in RECIPES.items():
        assert recipe().name == name
        assert 0 < len(recipe().summary) <= 100
