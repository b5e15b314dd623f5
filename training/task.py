"""What the training loop asks of whatever is trained."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Task(Protocol):
    """What is trained: a network, its data, its loss, and how good it is.

    A batch is a tensor, or dicts, tuples, named tuples and lists of them; it is moved to the network's device.
    """

    net: nn.Module

    def batches(self, epoch: int) -> Iterable[Any]:
        """Return the batches of an epoch, the first being 1; the same ones whenever it is asked for again.

        With a `len()` the progress bar knows its end from the start.
        """
        ...

    def loss(self, net: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch, and what it is made of, for the curves.

        In mixed precision this runs under autocast on a batch that is float32 as `batches` made it.
        """
        ...

    def optimizer(self, net: nn.Module) -> Optimizer:
        """Return the optimizer of the network's parameters."""
        ...

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return what moves the learning rate: after every step, or, if `ReduceLROnPlateau`, by each validation."""
        ...

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Return "score" (larger is better), "loss" (smaller is better) or both, and whatever else shall be plotted.

        Nothing, where there is nothing to validate on; `Training.keep` is then "last".

        Without the value that is monitored nothing is best: the last weights are kept, and patience is endless.
        `net` is in eval mode, in full precision, on the device of its parameters; no gradients are kept.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what of the task lives across epochs, as plain values and tensors: say, a generator's state."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring back what `state` returned."""
        ...
