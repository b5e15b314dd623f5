"""Recipes of heads on feature files: from data to a task, from a trained network to a bundle. Which: `papers.py`."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from engines.bundle import (
    FORMAT_VERSION,
    Bundle,
    Decision,
    HeadSpec,
    Manifest,
    ModalityStream,
    open_bundle,
    write_manifest,
)
from engines.errors import UsageError
from engines.frontend import embeddings_of
from engines.labels import SOCCERNET_LABELS
from training.data.features import FeatureHalf, FeatureStream, find_halves, report_left_out
from training.data.splits import match_folder, protocol, read_split
from training.encodings import k_rows
from training.export import ChunkHead, WindowHead, write_head_bundle
from training.fit import Training
from training.measure import measured, record
from training.models.calf import Calf, CalfConfig, calf_loss, placing_loss
from training.recipes.base import Options
from training.sampling import balanced_indices
from training.scoring import Recorded
from training.tasks import ChunkBatch, ChunkTask, FeatureTask, Rows, WindowTask, row_place
from training.tune import Choice, choose, decide
from training.windows import look_ahead_rows

Widths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Features:
    """Feature files that belong together: their streams, and the rows a second that they have."""

    streams: tuple[FeatureStream, ...]
    rate: Literal[1, 2]
    audio: tuple[str, ...] = ("audio",)
    """Which of the streams are sound."""


_BAIDU = (("tpn", 0, 2048), ("gta", 2048, 4096), ("vtn", 4096, 4480), ("ircsn", 4480, 6528), ("i3d", 6528, 8576))

FEATURES: Mapping[str, Features] = {
    "baidu": Features(
        (
            *(FeatureStream(name, "baidu_soccer_embeddings", (first, last)) for name, first, last in _BAIDU),
            FeatureStream("audio", "audio", optional=True),
        ),
        rate=1,
    ),
    "resnet": Features(
        (
            FeatureStream("visual", "ResNET_TF2_PCA512"),
            FeatureStream("audio", "audio_2fps", optional=True),
            FeatureStream("graph", "graph", optional=True),
        ),
        rate=2,
    ),
    "resnet2048": Features((FeatureStream("visual", "ResNET_TF2"),), rate=2),
    "demo": Features((FeatureStream("visual", "demo_visual"), FeatureStream("audio", "demo_audio")), rate=1),
}
"""Sets of feature files by name. SoccerNet's own are visual; `{1,2}_audio.npy`, `{1,2}_audio_2fps.npy` and
`{1,2}_graph.npy` are where one's own embeddings of sound and of graphs of players go."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """What window and chunk heads share.

    Attributes:
        name: what `touchline train` calls it.
        summary: one line on what it is.
        features: a key of FEATURES.
        streams: which of its streams the head takes.
        training: how it is trained.
        learning_rate, weight_decay, eps, amsgrad: of Adam.
        plateau: epochs without a better validation loss until the learning rate is divided by ten.
        batch: windows or chunks in a batch.
        labels: order of the scores' columns.
    """

    name: str
    summary: str
    features: str
    streams: tuple[str, ...]
    training: Training
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eps: float = 1e-8
    amsgrad: bool = False
    plateau: int | None = None
    batch: int = 256
    labels: tuple[str, ...] = SOCCERNET_LABELS

    def prepare(self, data: Path, cache: Path, console: Console, options: Options) -> FeatureTask:
        """Return the task; halves without usable files are named and left out.

        Everything that `write` will need is looked at here, before hours of training.
        """
        opened = {
            key: open_bundle(path) if path is not None else None
            for key, path in (("front_ends", options.front_ends), ("decide_as", options.decide_as))
        }
        use = protocol(options.protocol)
        train, valid, _ = ([h for split in use[role] for h in self.halves(data, split)] for role in use)
        task = self.task(train, valid, options.applied(self.training).seed)
        task.about = {"data": data, "use": use, **opened}
        self.modality_streams(train[0].widths, opened["front_ends"])
        if opened["front_ends"] is not None:
            _check_origin(data, train[0], opened["front_ends"])
        if opened["decide_as"] is not None:
            self._chosen_by(opened["decide_as"])
        return task

    def halves(self, data: Path, split: str) -> list[FeatureHalf]:
        """Return the usable halves of a split; what is left out is logged."""
        chosen = FEATURES[self.features]
        streams = [stream for stream in chosen.streams if stream.name in self.streams]
        halves, problems = find_halves(data, read_split(data, split), streams, chosen.rate)
        report_left_out(problems)
        if not halves:
            files = dict.fromkeys(f"{{1,2}}_{stream.file}.npy" for stream in streams)
            raise UsageError(
                f"{data}: the {split} split has no half with {', '.join(files)}; the recipe needs these feature files."
            )
        return halves

    def task(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> FeatureTask:
        """Return the task on given halves."""
        raise NotImplementedError

    def head(self, net: nn.Module) -> nn.Module:
        """Return the head as it is exported."""
        raise NotImplementedError

    def spec(self) -> HeadSpec:
        """Return how the live path feeds the head."""
        raise NotImplementedError

    def write(self, task: FeatureTask, net: nn.Module, out: Path, provenance: Mapping[str, object]) -> Manifest:
        """Export, choose on the valid split, by the bundle's own scores, how it decides, and measure."""
        data, use, other = (task.about[key] for key in ("data", "use", "decide_as"))
        splits = list(dict.fromkeys(split for role in use.values() for split in role))
        halves = {split: self.halves(data, split) for split in splits}
        nothing = Decision(threshold=0.5, radius_s=1.0)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=self.name.replace("+", "p"),
            labels=self.labels,
            streams=self.modality_streams(halves["train"][0].widths, task.about["front_ends"]),
            head=self.spec(),
            decision=dict.fromkeys(self.labels, nothing),
            provenance={
                **provenance,
                "configuration": self.configuration(),
                "data": {split: digest(found) for split, found in halves.items()},
            },
            sha256={},
        )
        manifest = write_head_bundle(out, self.head(net.eval()), manifest, task.about["front_ends"])
        choice = self._chosen_by(other) if other is not None else choose(manifest, _recorded(out, halves["valid"]))
        manifest = decide(out, manifest, choice)
        found = {split: measured(manifest, _recorded(out, halves[split])) for split in (*use["valid"], *use["test"])}
        manifest = manifest.model_copy(update={"measured": found})
        write_manifest(out, manifest)
        return manifest

    def _chosen_by(self, other: Bundle) -> Choice:
        """Return what another bundle has chosen."""
        spec, its = self.spec(), other.manifest.head
        same_time = (spec.early_look_ahead_s, spec.look_ahead_s) == (its.early_look_ahead_s, its.look_ahead_s)
        if other.manifest.labels != self.labels or not same_time:
            raise UsageError(f"{other.path}: has other labels, or other look-aheads; give a bundle of this recipe.")
        return Choice.of(other.manifest)

    def configuration(self) -> dict[str, object]:
        """Return the recipe as plain values, for the bundle's provenance."""
        return {key: value for key, value in json.loads(json.dumps(asdict(self), default=repr)).items()}

    def shared(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> dict[str, Any]:
        """Return what every task takes."""
        return {
            "train": train,
            "valid": valid,
            "labels": self.labels,
            "seed": seed,
            "optimizer": self.adam,
            "plateau": self.plateau,
        }

    def adam(self, net: nn.Module) -> Optimizer:
        """Return the recipe's optimizer."""
        return Adam(
            net.parameters(), self.learning_rate, eps=self.eps, weight_decay=self.weight_decay, amsgrad=self.amsgrad
        )

    def modality_streams(self, widths: Widths, front_ends: Bundle | None) -> tuple[ModalityStream, ...]:
        """Return the manifest's streams: with the front end that made the files, if it is given."""
        made = {}
        if front_ends is not None:
            made = {front_ends.manifest.features_of(s): s for s in front_ends.manifest.streams}
        chosen, streams = FEATURES[self.features], []
        for stream in (s for s in chosen.streams if s.name in self.streams):
            modality = "audio" if stream.name in chosen.audio else "other" if stream.name == "graph" else "visual"
            own = ModalityStream(
                name=stream.name,
                modality=modality,
                file=None,
                features=stream.file,
                columns=stream.columns,
                rate=chosen.rate,
                width=widths[stream.name],
            )
            front_end = made.get(stream.file)
            if front_ends is not None and (front_end is None or stream.columns is not None):
                raise UsageError(f"{front_ends.path}: has no front end that gives {{1,2}}_{stream.file}.npy.")
            streams.append(
                own if front_end is None else front_end.model_copy(update={"name": own.name, "features": own.features})
            )
        return tuple(streams)


def _check_origin(data: Path, half: FeatureHalf, front_ends: Bundle) -> None:
    """Refuse front ends that did not make the feature files, as far as `touchline embed` noted which did."""
    note = match_folder(data, half.match) / f"{half.half}_{front_ends.manifest.name}.json"
    try:
        made_with = json.loads(note.read_text(encoding="utf-8"))["front_ends"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if made_with != front_ends.manifest.front_ends:
        raise UsageError(f"{front_ends.path}: other front ends, of a bundle of this name, made those in {note.parent}.")


def _recorded(path: Path, halves: list[FeatureHalf]) -> list[Recorded]:
    """Return what a bundle scores of some halves."""
    bundle = open_bundle(path)
    return [record(bundle, embeddings_of(half.read(), bundle.manifest), half.actions) for half in halves]


def digest(halves: list[FeatureHalf]) -> str:
    """Return a digest of what a split held: matches, lengths and actions."""
    content = [[h.match, h.half, h.length, [asdict(a) for a in h.actions]] for h in halves]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class WindowRecipe(HeadRecipe):
    """A head that scores windows.

    Attributes:
        rows: window length L.
        every: train on a window from each row on, or on windows side by side.
        build: (widths, rows) → network.
        loss: (net, rows, targets) → loss.
        window_scores: (net, rows) → (B, 1 + C).
        balanced: draw windows so that each label is as likely as any other.
        mixup: balanced mix-up with this alpha.
    """

    rows: int = 3
    every: bool = True
    build: Callable[[Widths, int], nn.Module] = field(kw_only=True, repr=False)
    loss: Callable[[nn.Module, Rows, Tensor], Tensor] = field(kw_only=True, repr=False)
    window_scores: Callable[[nn.Module, Rows], Tensor] = field(kw_only=True, repr=False)
    balanced: bool = False
    mixup: float | None = None

    def task(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> WindowTask:
        """Return the task on given halves."""
        return WindowTask(
            rows=self.rows,
            every=self.every,
            batch=self.batch,
            loss=self.loss,
            window_scores=self.window_scores,
            draw=(lambda rng, t: balanced_indices(t, len(t), rng)) if self.balanced else None,
            mixup=self.mixup,
            net=self.build(train[0].widths, self.rows),
            **self.shared(train, valid, seed),
        )

    def head(self, net: nn.Module) -> WindowHead:
        """Return the head as it is exported."""
        return WindowHead(
            net, [s.name for s in FEATURES[self.features].streams if s.name in self.streams], self.window_scores
        )

    def spec(self) -> HeadSpec:
        """Return how the live path feeds the head: both ends repeat rows, as training does."""
        rate = FEATURES[self.features].rate
        return HeadSpec(
            file="head.onnx",
            kind=self.name,
            rows=self.rows,
            look_ahead_s=look_ahead_rows(self.rows) / rate,
            edges="repeat",
            row_time_s=row_place(self.rows) / rate,
        )


@dataclass(frozen=True, slots=True)
class ChunkRecipe(HeadRecipe):
    """CALF.

    Attributes:
        rows: chunk length L.
        receptive_field: rows that the widest kernel spans.
        context: the published context bounds are multiplied by it.
        chunks: chunks in an epoch.
        hop_s: how far the chunk slides live, and so how long scores wait for it. An anchor counts if it points into
            the last `hop_s` before the look-ahead; with a small one, chunks that point a row off say nothing.
        max_displacement_s: how far a row may place its actions from its middle; 0: it does not.
        displacement_share: weight of the displacement's loss beside CALF's.
        variant: fields of CalfConfig.
    """

    rows: int = 240
    receptive_field: int = 80
    context: float = 1.0
    chunks: int = 18_000
    hop_s: float = 20.0
    max_displacement_s: float = 0.0
    displacement_share: float = 1.0
    variant: Mapping[str, Any] = field(default_factory=dict)

    def config(self, widths: Widths) -> CalfConfig:
        """Return what the network is made of."""
        return CalfConfig(
            widths,
            rows=self.rows,
            receptive_field=self.receptive_field,
            max_displacement_s=self.max_displacement_s,
            labels=self.labels,
            **self.variant,
        )

    def task(self, train: list[FeatureHalf], valid: list[FeatureHalf], seed: int) -> ChunkTask:
        """Return the task on given halves."""
        config = self.config(train[0].widths)
        bounds = k_rows(self.labels, FEATURES[self.features].rate, self.context)
        k_4C = torch.from_numpy(bounds).float()

        def loss(net: nn.Module, batch: ChunkBatch) -> tuple[Tensor, dict[str, float]]:
            assert isinstance(net, Calf)
            segmentation, anchors, shift = net.outputs(batch.rows)
            spotting = calf_loss((segmentation, anchors), (batch.shifts, batch.anchors), k_4C.to(batch.shifts.device))
            if not self.max_displacement_s:
                return spotting, {}
            placing = placing_loss(shift, batch.displacement, self.max_displacement_s)
            parts = {"spotting": spotting.item(), "displacement": placing.item()}
            return spotting + self.displacement_share * placing, parts

        return ChunkTask(
            layout=config.layout,
            k_4C=bounds,
            anchors=config.anchors,
            batch=self.batch,
            chunks=self.chunks,
            loss=loss,
            net=Calf(config),
            **self.shared(train, valid, seed),
        )

    def head(self, net: nn.Module) -> ChunkHead:
        """Return the head as it is exported."""
        assert isinstance(net, Calf)
        return ChunkHead(net, as_original=False)

    def spec(self) -> HeadSpec:
        """Return how the live path feeds the head: a chunk every `hop_s`, half a receptive field of look-ahead."""
        rate = FEATURES[self.features].rate
        return HeadSpec(
            file="head.onnx",
            kind="calf",
            rows=self.rows,
            look_ahead_s=self.receptive_field / 2 / rate,
            outputs="chunk",
            window_stride_rows=max(1, round(self.hop_s * rate)),
            max_displacement_s=self.max_displacement_s,
            edges="repeat",
            row_time_s=0.5 / rate,
        )
