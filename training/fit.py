"""The one training loop: a task in, a network out, with everything a long run needs to be watched, stopped and resumed.

On Lightning Fabric, so the same loop runs on a CPU, on GPUs and in mixed precision. On one CPU it is deterministic: the
same task, training and number of threads give the same weights, also when the run is stopped and resumed on the way.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from engines.errors import DataError, TouchlineError, UsageError
from training.bars import Bars
from training.checkpoint import load_weights, random_state, read_checkpoint, restore_random_state, write_checkpoint
from training.fabric import FabricOptions, LossModule, Whole, open_fabric
from training.memory import keep_freed_memory
from training.sampling import moving_average
from training.task import Task

LAST, BEST = "last.ckpt", "best.ckpt"

log = logging.getLogger("touchline.training")


class NotFiniteError(TouchlineError):
    """The loss or its gradient is infinite or not a number; the weights before that step are kept."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a task is trained.

    Attributes:
        epochs: how many epochs, or
        steps: how many steps; the last epoch may be shorter for it.
        seed: of every draw.
        monitor: which value of the validation says what is best.
        keep: which weights are returned: those of the best validation, or the last.
        patience: stop after so many validations in a row without a better one.
        ema_decay: keep a moving average of the weights and validate that.
        clip_norm: largest norm of a step's gradient.
        validate_every: epochs between validations; the last epoch always has one.
        threads: torch's threads on the CPU; the number decides the last bits of a sum.
    """

    epochs: int | None = None
    steps: int | None = None
    seed: int = 1
    monitor: Literal["score", "loss"] = "score"
    keep: Literal["best", "last"] = "best"
    patience: int | None = None
    ema_decay: float | None = None
    clip_norm: float | None = None
    validate_every: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("a training lasts so many epochs or so many steps: give one of the two")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A trained network, in eval mode on the CPU, and how it came about.

    Attributes:
        net: with the best or the last weights, averaged where the training says so.
        history: of each epoch its number, steps so far, mean loss and parts, learning rate, and "valid_…".
        rank: which of the training's processes this is; 0 is the one that goes on.
    """

    net: nn.Module
    history: list[dict[str, float]]
    rank: int = 0


def prepare_torch(training: Training) -> None:
    """Make what follows repeatable, and quick on few cores; call it before the task makes its network."""
    keep_freed_memory()
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a third
    torch.manual_seed(training.seed)


def fit(
    task: Task,
    training: Training,
    folder: Path,
    *,
    fabric_options: FabricOptions = FabricOptions(),  # noqa: B008  # frozen
    resume: bool = False,
    console: Console | None = None,
    about: Mapping[str, Any] | None = None,
) -> Fitted:
    """Return the task's network after training.

    Args:
        task: what is trained; call `prepare_torch` before making it.
        training: how.
        folder: where checkpoints and TensorBoard's curves go.
        fabric_options: on what.
        resume: go on from the folder's last checkpoint; with the same task and training the result is the same.
        console: where progress is shown, if it is a terminal.
        about: plain values to keep in the checkpoints.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, or none and it is; or there is no such device.
        DataError: the checkpoint is damaged or of another network.
        NotFiniteError: the loss is no number.
    """
    checkpoint = _checkpoint_of(folder, resume)
    fabric = open_fabric(fabric_options, folder, first_step=checkpoint["step"] if checkpoint else 0)
    fabric.launch()
    # what CUDA would refuse to do in a fixed order it shall do as it can: there nothing is promised to the last bit
    torch.use_deterministic_algorithms(fabric.device.type == "cpu")
    run = _Run(task, training, folder, fabric, about or {})
    if checkpoint:
        run.load(checkpoint)
    try:
        run.train(console or Console(stderr=True))
    except KeyboardInterrupt:
        if fabric.is_global_zero:
            log.warning("%s", run.farewell())
        raise
    finally:
        fabric.logger.finalize("done")
    return run.result()


def _checkpoint_of(folder: Path, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint to go on from, if any; a run that is there is never begun anew over itself."""
    if resume:
        return read_checkpoint(folder / LAST)
    if (folder / LAST).exists():
        raise UsageError(f"{folder} holds a run already: go on with it (--resume), or give another folder (--run).")
    return None


class _Run:
    """A training under way; between epochs all of it is in `state`."""

    def __init__(self, task: Task, training: Training, folder: Path, fabric: Fabric, about: Mapping[str, Any]) -> None:
        self._task, self._training, self._folder, self._fabric, self._about = task, training, folder, fabric, about
        if fabric.global_rank:
            torch.manual_seed(training.seed + fabric.global_rank)  # dropout of its own
        self._net = task.net
        self._optimizer = task.optimizer(self._net)
        self._schedule = task.schedule(self._optimizer)
        self._loss, self._stepper = fabric.setup(LossModule(task), self._optimizer)
        self._average = None
        if training.ema_decay is not None:
            self._average = AveragedModel(self._net, multi_avg_fn=moving_average(training.ema_decay), use_buffers=True)
        self._epoch = self._step = self._waited = self._saved = 0
        self._best: float | None = None
        self._history: list[dict[str, float]] = []

    @property
    def _used(self) -> nn.Module:
        """The network that is validated and returned."""
        return self._net if self._average is None else self._average.module

    @property
    def _at_its_end(self) -> bool:
        epochs, steps = self._training.epochs, self._training.steps
        return (epochs is not None and self._epoch >= epochs) or (steps is not None and self._step >= steps)

    @property
    def _done(self) -> bool:
        patience = self._training.patience
        return self._at_its_end or (patience is not None and self._waited >= patience) or _spent(self._schedule)

    def train(self, console: Console) -> None:
        """Train until the end of the training or of patience."""
        shown = self._fabric.is_global_zero and console.is_terminal
        with Bars(console, self._training.epochs, self._training.steps, shown) as bars:
            while not self._done:
                entry = self._train_epoch(bars)
                better = False
                if self._epoch % self._training.validate_every == 0 or self._at_its_end:
                    better = self._validate(entry)
                self._history.append(entry)
                self._save(better)
                if self._fabric.is_global_zero:
                    values = ", ".join(f"{k} {v:.4g}" for k, v in entry.items() if k not in ("epoch", "step"))
                    log.info("epoch %d, step %d: %s", self._epoch, self._step, values)

    def _train_epoch(self, bars: Bars) -> dict[str, float]:
        """Take the steps of the next epoch; return its line of the history."""
        self._epoch += 1
        self._loss.train()
        sums: dict[str, float] = defaultdict(float)
        before, rate = self._step, 0.0
        for batch in self._batches(bars):
            rate = self._optimizer.param_groups[0]["lr"]
            values = self._update(batch)
            for key, value in values.items():
                sums[key] += value
            self._fabric.log_dict({**{f"train/{k}": v for k, v in values.items()}, "learning_rate": rate}, self._step)
            bars.step(values["loss"])
        steps = self._step - before
        if not steps:
            raise DataError("the training data does not fill a single batch; give more of it.")
        means = {key: value / steps for key, value in sums.items()}
        return {"epoch": self._epoch, "step": self._step, **means, "learning_rate": rate}

    def _batches(self, bars: Bars) -> Iterator[Any]:
        """Yield this process's batches of the epoch: of every group of as many as there are processes, one."""
        steps, size = self._training.steps, self._fabric.world_size
        batches = self._task.batches(self._epoch)
        left = None if steps is None else (steps - self._step) * size
        bars.begin(self._epoch, self._step, len(batches) // size if isinstance(batches, Sized) else None)
        group = []
        for batch in islice(batches, left):
            group.append(batch)
            if len(group) == size:
                yield group[self._fabric.global_rank]
                group = []

    def _update(self, batch: Any) -> dict[str, float]:
        """Take one step; return the loss and its parts."""
        loss, parts = self._loss(Whole(self._fabric.to_device(batch)))
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        self._clip(value := loss.item())
        self._stepper.step()
        if self._schedule is not None and not isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._net)
        self._step += 1
        return {"loss": value, **parts}

    def _clip(self, loss: float) -> None:
        """Keep the gradient's norm within bounds, and the weights from what is not finite."""
        precision = self._fabric.strategy.precision
        precision.unscale_gradients(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._net.parameters(), self._training.clip_norm or math.inf).item()
        skips = getattr(precision, "scaler", None) is not None  # float16's scaler leaves such a step out by itself
        if not math.isfinite(loss) or not (math.isfinite(norm) or skips):
            raise NotFiniteError(
                f"the loss or its gradient is not finite at step {self._step + 1} (loss {loss}, gradient's norm "
                f"{norm}): lower the learning rate, or look for such values in the data."
            )

    def _validate(self, entry: dict[str, float]) -> bool:
        """Add the validation to the epoch's line; return whether it is the best so far."""
        result: dict[str, float] = {}
        if self._fabric.is_global_zero:
            self._used.eval()
            with torch.no_grad():
                result = {key: float(value) for key, value in self._task.validate(self._used).items()}
        result = self._fabric.broadcast(result)
        if not result:
            return False
        self._fabric.log_dict({f"valid/{key}": value for key, value in result.items()}, self._step)
        entry.update({f"valid_{key}": value for key, value in result.items()})
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(result["loss"])
        if self._training.monitor not in result:
            return False
        value = result[self._training.monitor] * (1 if self._training.monitor == "score" else -1)
        better = value > (-math.inf if self._best is None else self._best)
        self._best, self._waited = (value, 0) if better else (self._best, self._waited + 1)
        return better

    def _save(self, better: bool) -> None:
        """Write the checkpoints; the best one first, so that the last never speaks of one that is not there."""
        state = self.state()
        if self._fabric.is_global_zero:
            for name in [BEST, LAST] if better else [LAST]:
                write_checkpoint(self._folder / name, state)
        self._fabric.barrier()
        self._saved = self._epoch

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs."""
        mine = random_state(self._fabric.device)
        everyones = [mine] * self._fabric.world_size
        if self._fabric.world_size > 1:
            torch.distributed.all_gather_object(everyones, mine)
        return {
            "about": dict(self._about),
            "epoch": self._epoch,
            "step": self._step,
            "net": self._net.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
            "averaged": 0 if self._average is None else int(self._average.n_averaged),
            "optimizer": self._optimizer.state_dict(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "random": everyones,
            "task": self._task.state(),
            "history": self._history,
            "best": self._best,
            "waited": self._waited,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state.

        Raises:
            DataError: it is of another network, optimizer or task.
        """
        try:
            self._net.load_state_dict(state["net"])
            if self._average is not None:
                self._average.module.load_state_dict(state["average"])
                self._average.n_averaged.fill_(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._schedule is not None:
                self._schedule.load_state_dict(state["schedule"])
            self._fabric.strategy.precision.load_state_dict(state["precision"])
            self._task.restore(state["task"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self._folder / LAST}: the checkpoint does not fit this recipe.") from error
        self._epoch, self._step, self._waited = state["epoch"], state["step"], state["waited"]
        self._best, self._history, self._saved = state["best"], list(state["history"]), state["epoch"]
        if len(state["random"]) == self._fabric.world_size:
            restore_random_state(state["random"][self._fabric.global_rank], self._fabric.device)

    def farewell(self) -> str:
        """Return what to say to who stopped the run."""
        if not self._saved:
            return "stopped before the end of the first epoch: there is nothing to go on from."
        return f"stopped; {self._folder / LAST} holds {self._saved} epochs: go on with --resume."

    def result(self) -> Fitted:
        """Return the network that the training keeps."""
        net = self._used.cpu().eval()
        if self._training.keep == "best" and self._best is not None:
            load_weights(net, read_checkpoint(self._folder / BEST), self._folder / BEST)
        return Fitted(net, self._history, self._fabric.global_rank)


def _spent(schedule: LRScheduler | None) -> bool:
    """Return whether a plateau's schedule has waited out its patience with nothing left to reduce.

    Source: the training loops of CALF and NetVLAD++ stop by this rule.
    """
    if not isinstance(schedule, ReduceLROnPlateau):
        return False
    rate = max(group["lr"] for group in schedule.optimizer.param_groups)
    return rate < 2 * schedule.eps and schedule.num_bad_epochs >= schedule.patience
