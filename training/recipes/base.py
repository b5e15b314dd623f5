"""What a recipe is: a complete configuration, from data to bundle; and what the command line changes of one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from torch import nn

from engines.bundle import Manifest
from training.fit import Training
from training.task import Task


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line changes of a recipe; None leaves it.

    Attributes:
        epochs: train so many epochs, or
        steps: so many steps.
        seed: of every draw.
        front_ends: the bundle that made the feature files, for a recipe of a head: its front ends go into the new one.
        decide_as: the bundle whose radii, calibration and thresholds the new one takes. It makes the training the
            thesis's protocol P2: on every labelled match, so that none is left to choose on.
        look_ahead: which look-aheads the bundle has, seconds, for a recipe that is trained for several.
    """

    epochs: int | None = None
    steps: int | None = None
    seed: int | None = None
    front_ends: Path | None = None
    decide_as: Path | None = None
    look_ahead: tuple[float, ...] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Options":
        """Return the options that `plain` was taken of.

        Raises:
            TypeError: the values are not.
        """
        paths = {key: Path(values[key]) for key in ("front_ends", "decide_as") if values.get(key) is not None}
        spans = {"look_ahead": tuple(values["look_ahead"])} if values.get("look_ahead") is not None else {}
        return cls(**{**values, **paths, **spans})

    def plain(self) -> dict[str, Any]:
        """Return what is set, as plain values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if v is not None}

    def exported_with(self, front_ends: Path | None, look_ahead: tuple[float, ...] | None) -> "Options":
        """Return the options with these, where they are given: of all, they alone can change after a run has begun."""
        return replace(self, front_ends=front_ends or self.front_ends, look_ahead=look_ahead or self.look_ahead)

    @property
    def protocol(self) -> str:
        """Which of the thesis's protocols the options make (`training.data.splits.protocol`)."""
        return "P1" if self.decide_as is None else "P2"

    def applied(self, training: Training) -> Training:
        """Return the recipe's training as the options want it."""
        if self.epochs is not None or self.steps is not None:
            training = replace(training, epochs=self.epochs, steps=self.steps)
        if self.decide_as is not None:
            training = replace(training, keep="last", patience=None)
        return training if self.seed is None else replace(training, seed=self.seed)


class Recipe(Protocol):
    """A complete configuration, from data to bundle."""

    @property
    def name(self) -> str:
        """What `touchline train` calls it."""
        ...

    @property
    def summary(self) -> str:
        """One line on what it is."""
        ...

    @property
    def training(self) -> Training:
        """How it is trained; every user applies the options to it."""
        ...

    def prepare(self, data: Path, cache: Path, console: Console, options: Options) -> Task:
        """Return the task, with its network at its first weights.

        Args:
            data: folder of matches, with videos or feature files as the recipe needs.
            cache: folder for what is costly to compute from the data.
            console: where progress is shown.
            options: to be applied to `training`.

        Raises:
            DataError: the data is missing or damaged.
        """
        ...

    def write(self, task: Any, net: nn.Module, out: Path, provenance: Mapping[str, object]) -> Manifest:
        """Return the manifest of the bundle that it writes: settings chosen on the valid split, exported, measured.

        Args:
            task: what `prepare` returned.
            net: the trained network.
            out: the bundle's folder.
            provenance: recipe, options, seed, code, torch, history; to which the recipe adds its own.
        """
        ...
