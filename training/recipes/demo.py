"""The recipe of the shipped bundle: small front ends and HMTAS, trained together on simulated matches.

A recipe is a complete configuration; a variant is `dataclasses.replace` over another.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from engines.actions import Action
from engines.bundle import Bundle, Manifest, open_bundle, write_manifest
from engines.errors import UsageError
from engines.frontend import Embeddings
from engines.labels import SOCCERNET_LABELS
from streamer.sources.base import PictureSpec
from training.data.clips import Batch, ClipSampler
from training.data.soccernet import Half, find_video, halves_of, load_half, read_split
from training.data.splits import match_folder
from training.export import write_bundle
from training.fit import Training
from training.measure import embed, measured, record
from training.models.spotter import DemoNet, score
from training.progress import progress_bar
from training.recipes.base import Options
from training.scoring import measure
from training.tune import choose, decide

SPLITS = ("train", "valid", "test")
_RADII = dict.fromkeys(SOCCERNET_LABELS, 2.0)
"""NMS radius while training; the bundle's is chosen afterwards."""


@dataclass(frozen=True, slots=True)
class DemoRecipe:
    """Everything that decides what a training run gives."""

    name: str
    pictures: PictureSpec
    visual_channels: tuple[int, ...] = (16, 32, 64, 128, 192)
    visual_width: int = 256
    audio_width: int = 128
    look_behind_rows: int = 8
    look_ahead_rows: int = 4
    d_model: int = 128
    heads: int = 4
    layers: int = 2
    feed_forward: int = 256
    dropout: float = 0.1
    row_dropout: float = 0.1
    readout: str = "row"
    max_displacement_s: float = 1.25
    target_reach_s: float = 1.0
    """A row is positive for an action whose time is less than this from the row's middle."""
    displacement_share: float = 0.3
    """Weight of the displacement loss beside the thesis's loss."""
    guess_share: float = 0.5
    """Weight of the loss of each row's own guess, which supervises the front ends directly."""

    seed: int = 1
    threads: int = 2
    steps: int = 1300
    clips: int = 6
    clip_s: int = 24
    learning_rate: float = 3e-3
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warm_up: float = 0.05
    ema_decay: float = 0.995
    clip_norm: float = 1.0
    audio_dropped: float = 0.1
    video_dropped: float = 0.03
    validate_every: int = 200
    """Steps of an epoch; each ends with a validation."""

    @property
    def summary(self) -> str:
        """One line on what it is."""
        return "small front ends and HMTAS on videos: the shipped bundle, for two processor cores"

    @property
    def rows(self) -> int:
        """Window length L."""
        return self.look_behind_rows + 1 + self.look_ahead_rows

    @property
    def training(self) -> Training:
        """How it is trained."""
        return Training(
            steps=self.steps,
            seed=self.seed,
            keep="last",
            ema_decay=self.ema_decay,
            clip_norm=self.clip_norm,
            threads=self.threads,
        )

    def prepare(self, data: Path, cache: Path, console: Console, options: Options) -> "DemoTask":
        """Return the task, after decoding what is not cached yet."""
        if options.front_ends is not None or options.decide_as is not None:
            raise UsageError(
                "The recipe demo trains front ends and chooses for itself: leave --front-ends and --decide-as out."
            )
        splits = {split: self._load(data, split, cache, console) for split in SPLITS}
        return DemoTask(self, options.applied(self.training), splits, data, console)

    def _load(self, data: Path, split: str, cache: Path, console: Console) -> list[Half]:
        wanted = halves_of(data, read_split(data, split))
        with progress_bar(console) as progress:
            return [
                load_half(data, match, half, self.pictures, cache)
                for match, half in progress.track(wanted, description=f"decoding {split}")
            ]

    def write(self, task: "DemoTask", net: nn.Module, out: Path, provenance: Mapping[str, object]) -> Manifest:
        """Export, choose on the valid split, by the bundle's own scores, how it decides, and measure."""
        own = {
            "configuration": json.loads(json.dumps(asdict(self))),
            "data": {split: data_digest(halves) for split, halves in task.splits.items()},
        }
        manifest = write_bundle(cast(DemoNet, net), out, {**provenance, **own})
        bundle = open_bundle(out)
        with progress_bar(task.console) as progress:
            unseen = {
                split: [
                    _embedded(bundle, task.data, half)
                    for half in progress.track(task.splits[split], description=f"scoring {split}")
                ]
                for split in SPLITS[1:]
            }
        manifest = decide(out, manifest, choose(manifest, [record(bundle, *half) for half in unseen["valid"]]))
        bundle = open_bundle(out)
        recorded = {split: [record(bundle, *half) for half in halves] for split, halves in unseen.items()}
        found = {split: measured(manifest, halves) for split, halves in recorded.items()}
        manifest = manifest.model_copy(update={"measured": found})
        write_manifest(out, manifest)
        return manifest


class DemoTask:
    """The demo network on augmented clips of decoded matches; larger tight Average-mAP is better."""

    def __init__(
        self, recipe: DemoRecipe, training: Training, splits: Mapping[str, Sequence[Half]], data: Path, console: Console
    ) -> None:
        self.recipe, self.splits, self.data, self.console = recipe, splits, data, console
        net = DemoNet(recipe)
        net.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from the stubs
        self.net: nn.Module = net
        self._steps = training.steps or (training.epochs or 0) * recipe.validate_every
        self._clips = ClipSampler(
            splits["train"],
            SOCCERNET_LABELS,
            clips=recipe.clips,
            clip_s=recipe.clip_s,
            reach_s=recipe.target_reach_s,
            audio_dropped=recipe.audio_dropped,
            video_dropped=recipe.video_dropped,
            seed=training.seed,
        )

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the next batches of one long draw: with `state` restored, the same again."""
        for _ in range(self.recipe.validate_every):
            yield self._clips.batch()

    def loss(self, net: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the training loss and its parts."""
        return cast(DemoNet, net).loss(batch)

    def optimizer(self, net: nn.Module) -> torch.optim.AdamW:
        """Return AdamW: the transformer learns more slowly than the convolutions, and only matrices decay."""
        recipe, groups = self.recipe, []
        for in_head, rate in ((False, recipe.learning_rate), (True, recipe.head_learning_rate)):
            own = [p for name, p in net.named_parameters() if name.startswith("head.") == in_head]
            groups.append({"params": [p for p in own if p.ndim > 1], "lr": rate, "weight_decay": recipe.weight_decay})
            groups.append({"params": [p for p in own if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
        return torch.optim.AdamW(groups)

    def schedule(self, optimizer: torch.optim.Optimizer) -> OneCycleLR:
        """Return one cycle over the whole training."""
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=self._steps, pct_start=self.recipe.warm_up)

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Return tight Average-mAP on the valid split, over all labels."""
        if next(net.parameters()).device.type != "cpu":
            net = deepcopy(net).cpu()  # scoring runs there
        scored = [score(cast(DemoNet, net), half) for half in self.splits["valid"]]
        return {"score": measure(scored, SOCCERNET_LABELS, _RADII).overall.mean}

    def state(self) -> dict[str, Any]:
        """Return where the draws of clips are."""
        return self._clips.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on drawing clips from there."""
        self._clips.restore(state)


def _embedded(bundle: Bundle, data: Path, half: Half) -> tuple[list[Embeddings], tuple[Action, ...]]:
    """Return a half's embeddings, through the live path's own source and sampler, and its actions."""
    return embed(bundle, find_video(match_folder(data, half.match), half.half)), half.actions


def data_digest(halves: Sequence[Half]) -> str:
    """Return a digest of what a split held: matches, lengths and actions."""
    content = [[h.match, h.half, h.seconds, [asdict(a) for a in h.actions]] for h in halves]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def demo() -> DemoRecipe:
    """Return the recipe that made `bundles/demo`."""
    return DemoRecipe(name="demo", pictures=PictureSpec(rate=4, width=160, height=90, resize_filter="area"))
