"""Lightning Fabric as the training loop uses it: what it runs on, and how a task's loss passes through it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor, nn

from engines.errors import UsageError
from training.task import Task


@dataclass(frozen=True, slots=True)
class FabricOptions:
    """On what a training runs; the words are Lightning Fabric's."""

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"


def open_fabric(options: FabricOptions, folder: Path, first_step: int) -> Fabric:
    """Return Fabric with TensorBoard's curves in the folder; what was plotted after `first_step` is dropped.

    Raises:
        UsageError: there is no such device or precision here, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: the run's folder cannot be made: {error.strerror}.") from error
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            precision=options.precision,  # type: ignore[arg-type]  # Fabric checks it
            loggers=[TensorBoardLogger(folder, name="", version="", purge_step=first_step + 1)],
        )
    except (RuntimeError, ValueError) as error:
        wanted = f"{options.devices} × {options.accelerator} at {options.precision}"
        raise UsageError(f"training cannot run on {wanted}: {str(error).splitlines()[0]}") from error


class Whole:
    """A batch that Fabric leaves alone: it would round times and targets to the precision of the network."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class LossModule(nn.Module):
    """The task's loss as a module's `forward`: the one call that Fabric runs distributed and in mixed precision."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net = task.net
        self._task = task

    def forward(self, whole: Whole) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its parts."""
        return self._task.loss(self.net, whole.batch)
