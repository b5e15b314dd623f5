"""A training's progress on a terminal: epochs or steps gone, and the steps of this epoch with their smoothed loss."""

from rich.console import Console

from training.progress import progress_bar


class Bars:
    """Two bars while it is entered; nothing where they are not shown."""

    def __init__(self, console: Console, epochs: int | None, steps: int | None, shown: bool) -> None:
        self._progress = progress_bar(console)
        self._progress.disable = not shown
        self._in_steps = epochs is None
        self._whole = self._progress.add_task("steps" if self._in_steps else "epochs", total=epochs or steps)
        self._steps = self._progress.add_task("training", total=None)
        self._smooth, self._count, self._in_epoch = 0.0, 0, 0

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, epoch: int, step: int, steps: int | None) -> None:
        """Begin an epoch, counted from 1, after `step` steps; without a length it is taken to be the last one's."""
        self._progress.update(self._whole, completed=step if self._in_steps else epoch - 1)
        self._progress.reset(self._steps, total=steps or self._in_epoch or None)
        self._in_epoch = 0

    def step(self, loss: float) -> None:
        """Count a step."""
        self._count += 1
        self._in_epoch += 1
        self._smooth += (loss - self._smooth) * max(0.02, 1 / self._count)
        self._progress.update(self._whole, advance=1 if self._in_steps else 0)
        self._progress.update(self._steps, advance=1, description=f"training, loss {self._smooth:.4f}")
