"""Recipes of HMTAS for deciding live: one network for several look-aheads, which says where in its row an action is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn
from torch.optim import AdamW, Optimizer

from engines.bundle import HeadSpec, Manifest
from engines.errors import UsageError
from training.data.features import FeatureHalf
from training.export import RowHead
from training.fit import Training
from training.models.hmtas import CLASS_WEIGHTS, Hmtas, HmtasConfig, column_weights
from training.recipes.base import Options
from training.recipes.heads import FEATURES, HeadRecipe, Widths
from training.row_task import RowTask
from training.tasks import FeatureTask


@dataclass(frozen=True, slots=True)
class RowRecipe(HeadRecipe):
    """HMTAS that scores the row at which it looks, at one look-ahead or several.

    Attributes:
        look_behind_rows: rows of the window before the one that is scored.
        look_aheads: how many come after it, rising; one network learns all of them.
        export_look_aheads: which of them the bundle has; all, if empty. It computes each of them every second.
        d_model, heads, layers, feed_forward, dropout: of HmtasConfig.
        max_displacement_s: how far from its row's middle the network can place an action; 0: there is no displacement.
        placed_within_s: and how far the decider lets it: an action further off is nearer to another row, which speaks
            for it as well, and the promised delay is that much shorter.
        target_reach_s, displacement_share, distil_share, row_dropout, stream_dropped, warm_up: of RowTask.
        clip_norm, ema_decay: see `training`.
    """

    look_behind_rows: int = 8
    look_aheads: tuple[int, ...] = (0, 1, 2, 4, 8)
    export_look_aheads: tuple[int, ...] = ()
    d_model: int = 512
    heads: int = 8
    layers: int = 2
    feed_forward: int = 2048
    dropout: float = 0.1
    max_displacement_s: float = 1.0
    placed_within_s: float = 0.6
    target_reach_s: float = 1.0
    displacement_share: float = 0.3
    distil_share: float = 0.0
    row_dropout: float = 0.1
    stream_dropped: float = 0.08
    warm_up: float = 0.1

    def config(self, widths: Widths) -> HmtasConfig:
        """Return what the network is made of."""
        return HmtasConfig(
            widths={name: widths[name] for name in self.streams},
            rows=self.look_behind_rows + 1 + self.look_aheads[-1],
            look_ahead=self.look_aheads[-1],
            look_aheads=self.look_aheads,
            d_model=self.d_model,
            heads=self.heads,
            layers=self.layers,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            readout="row",
            positions=True,
            max_displacement_s=self.max_displacement_s,
            labels=self.labels,
        )

    def exporting(self, look_aheads_s: tuple[float, ...] | None) -> "RowRecipe":
        """Return the recipe whose bundle has these look-aheads; None: the recipe's own choice.

        Raises:
            UsageError: it is not trained for one of them.
        """
        if look_aheads_s is None:
            return self
        rate = FEATURES[self.features].rate
        trained = {look_ahead / rate: look_ahead for look_ahead in self.look_aheads}
        if unknown := [f"{s:g}" for s in look_aheads_s if s not in trained]:
            raise UsageError(
                f"The recipe {self.name} is not trained to look {', '.join(unknown)} s ahead; it has "
                f"{', '.join(f'{s:g}' for s in trained)} (--look-ahead)."
            )
        return replace(self, export_look_aheads=tuple(sorted({trained[s] for s in look_aheads_s})))

    def prepare(self, data: Path, cache: Path, console: Console, options: Options) -> FeatureTask:
        """Return the task; the learning rate falls over as many epochs or steps as the options say."""
        recipe = replace(self.exporting(options.look_ahead), training=options.applied(self.training))
        task = HeadRecipe.prepare(recipe, data, cache, console, options)
        task.about["look_ahead"] = options.look_ahead
        return task

    def task(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> RowTask:
        """Return the task on given halves."""
        return RowTask(
            net=Hmtas(self.config(train[0].widths)),
            batch=self.batch,
            reach_s=self.target_reach_s,
            weights=column_weights(CLASS_WEIGHTS, self.labels),
            displacement_share=self.displacement_share,
            distil_share=self.distil_share,
            row_dropout=self.row_dropout,
            stream_dropped=self.stream_dropped,
            warm_up=self.warm_up,
            training=self.training,
            train=train,
            valid=valid,
            labels=self.labels,
            seed=seed,
            optimizer=self.adamw,
        )

    def adamw(self, net: nn.Module) -> Optimizer:
        """Return the recipe's optimizer."""
        return AdamW(net.parameters(), self.learning_rate, weight_decay=self.weight_decay)

    def write(self, task: FeatureTask, net: nn.Module, out: Path, provenance: Mapping[str, object]) -> Manifest:
        """Write the bundle as every head's is written, with the look-aheads that were asked for."""
        return HeadRecipe.write(self.exporting(task.about["look_ahead"]), task, net, out, provenance)

    def head(self, net: nn.Module) -> RowHead:
        """Return the head as it is exported."""
        assert isinstance(net, Hmtas)
        return RowHead(net, self._exported)

    def spec(self) -> HeadSpec:
        """Return how the live path feeds the head: windows slide by a row, and are zeros beyond both ends."""
        rate, (*early, largest) = FEATURES[self.features].rate, self._exported
        return HeadSpec(
            file="head.onnx",
            kind="hmtas",
            rows=self.look_behind_rows + 1 + largest,
            look_ahead_s=largest / rate,
            early_look_ahead_s=tuple(look_ahead / rate for look_ahead in early),
            row_time_s=0.5 / rate,
            max_displacement_s=min(self.max_displacement_s, self.placed_within_s),
        )

    @property
    def _exported(self) -> tuple[int, ...]:
        return self.export_look_aheads or self.look_aheads


def hmtas_live(*, small: bool = False, **changes: Any) -> RowRecipe:
    """Return HMTAS for deciding live, of the published sizes on Baidu's features, or small on the demo's."""
    sizes: dict[str, Any] = {"d_model": 128, "heads": 4, "feed_forward": 256} if small else {}
    recipe = RowRecipe(
        name="small-hmtas-live" if small else "hmtas-live",
        summary="HMTAS for deciding live: 0 to 8 s of look-ahead from one network, actions placed to the fraction",
        features="demo" if small else "baidu",
        streams=("visual", "audio") if small else ("tpn", "gta", "vtn", "ircsn", "i3d", "audio"),
        training=Training(steps=900, keep="last", ema_decay=0.99, clip_norm=1.0, validate_every=3)
        if small
        else Training(epochs=20, keep="last", ema_decay=0.99, clip_norm=1.0),
        learning_rate=2e-3 if small else 3e-4,
        weight_decay=0.02,
        batch=64 if small else 256,
        **sizes,
    )
    return replace(recipe, **changes)


def recipes() -> dict[str, Callable[[], RowRecipe]]:
    """Return every recipe of this module by name."""
    return {"hmtas-live": hmtas_live, "small-hmtas-live": partial(hmtas_live, small=True)}
