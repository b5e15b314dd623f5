"""The recipe of RMS-Net, a head that says of a clip what happens in it, and where."""

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import nn
from torch.optim import SGD, Optimizer

from engines.bundle import HeadSpec
from training.clip_task import ClipTask
from training.data.features import FeatureHalf
from training.export import OffsetHead
from training.models.rmsnet import RmsNet, RmsNetConfig
from training.recipes.base import Options
from training.recipes.heads import FEATURES, HeadRecipe, Widths
from training.windows import look_ahead_rows


@dataclass(frozen=True, slots=True)
class ClipRecipe(HeadRecipe):
    """RMS-Net.

    Attributes:
        rows: clip length L.
        channels, hidden: of RmsNetConfig.
        clips: of each label, and of background, in an epoch.
        momentum: of SGD; None: Adam.
    """

    rows: int = 41
    channels: tuple[int, int] = (512, 256)
    hidden: int = 128
    clips: int = 1000
    momentum: float | None = 0.9

    def config(self, widths: Widths) -> RmsNetConfig:
        """Return what the network is made of."""
        return RmsNetConfig(widths, rows=self.rows, channels=self.channels, hidden=self.hidden, labels=self.labels)

    def prepare(self, data: Path, cache: Path, console: Console, options: Options) -> ClipTask:
        """Return the task; the learning rate falls over as many epochs as the options say."""
        recipe = replace(self, training=options.applied(self.training))
        task = HeadRecipe.prepare(recipe, data, cache, console, options)
        assert isinstance(task, ClipTask)
        return task

    def task(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> ClipTask:
        """Return the task on given halves."""
        return ClipTask(
            batch=self.batch,
            clips=self.clips,
            training=self.training,
            net=RmsNet(self.config(train[0].widths)),
            train=train,
            valid=valid,
            labels=self.labels,
            seed=seed,
            optimizer=self.optimizer,
        )

    def optimizer(self, net: nn.Module) -> Optimizer:
        """Return the recipe's optimizer."""
        if self.momentum is None:
            return self.adam(net)
        return SGD(net.parameters(), self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def head(self, net: nn.Module) -> OffsetHead:
        """Return the head as it is exported."""
        assert isinstance(net, RmsNet)
        return OffsetHead(net, FEATURES[self.features].rate)

    def spec(self) -> HeadSpec:
        """Return how the live path feeds the head: a clip slides by a row, and may point anywhere within itself."""
        rate = FEATURES[self.features].rate
        return HeadSpec(
            file="head.onnx",
            kind="rmsnet",
            rows=self.rows,
            look_ahead_s=look_ahead_rows(self.rows) / rate,
            edges="repeat",
            row_time_s=0.5 / rate,
            max_displacement_s=(self.rows // 2 + 0.5) / rate,
        )
