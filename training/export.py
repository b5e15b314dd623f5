"""A trained network in, a bundle out: its graphs, each with its preprocessing inside, checked against the network.

Parity is part of the export: a graph that differs from the checkpoint by more than TOLERANCE is not written.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from engines.backends.ort import OrtEngine
from engines.bundle import (
    FORMAT_VERSION,
    Bundle,
    Decision,
    HeadSpec,
    Manifest,
    ModalityStream,
    Pictures,
    read_manifest,
    write_manifest,
)
from engines.errors import TouchlineError
from engines.second import SAMPLE_RATE_HZ
from training.calibrate import Calibration, calibrate_graph
from training.clip_task import answers
from training.models.calf import Calf
from training.models.hmtas import Hmtas
from training.models.rmsnet import RmsNet
from training.models.spotter import AUDIO, VISUAL, DemoNet

Rows = Mapping[str, Tensor]

OPSET = 18
TOLERANCE = 1e-4
"""Largest accepted difference between graph and checkpoint; rows are about 1 in size, scores in [0, 1]."""

log = logging.getLogger("touchline.training")


class ParityError(TouchlineError):
    """An exported graph does not give the checkpoint's numbers."""


class _Head(nn.Module):
    """The head as it is exported: one tensor a stream in, no background column out."""

    def __init__(self, head: Hmtas) -> None:
        super().__init__()
        self.head = head

    def forward(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        scores, shift, _ = self.head(dict(zip(self.head.streams, rows, strict=True)))
        return scores[:, 1:], shift


def write_bundle(
    net: DemoNet,
    path: Path,
    provenance: Mapping[str, object],
) -> Manifest:
    """Write a bundle and return its manifest; nothing is chosen or measured yet.

    Raises:
        ParityError: a graph differs from the network by more than TOLERANCE.
    """
    net = net.eval().cpu()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter cannot follow it
    path.mkdir(parents=True, exist_ok=True)
    recipe, labels = net.recipe, list(net.head.config.labels)
    p = recipe.pictures
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (1, p.rate, p.height, p.width, 3), np.uint8))
    samples = torch.from_numpy(rng.uniform(-0.5, 0.5, (1, SAMPLE_RATE_HZ)).astype(np.float32))
    widths = net.head.config.widths
    windows = [torch.from_numpy(rng.standard_normal((1, recipe.rows, w), np.float32)) for w in widths.values()]
    worst = max(
        export_graph(net.visual, path / "visual.onnx", {"pictures": pictures}, ["row"], {}),
        export_graph(net.audio, path / "audio.onnx", {"samples": samples}, ["row"], {}),
        export_graph(
            _Head(net.head),
            path / "head.onnx",
            dict(zip(widths, windows, strict=True)),
            ["scores", "displacement"],
            {"labels": json.dumps(labels)},
        ),
    )
    manifest = _manifest(net, {**provenance, "export_difference": worst})
    write_manifest(path, manifest)
    return manifest


class WindowHead(nn.Module):
    """A window model as it is exported: one tensor a stream in, scores (1, C) without the background column out."""

    def __init__(self, net: nn.Module, streams: Sequence[str], scores: Callable[[nn.Module, Rows], Tensor]) -> None:
        super().__init__()
        self.net, self.streams, self._scores = net, tuple(streams), scores

    def forward(self, *rows: Tensor) -> Tensor:
        """Return scores (1, C)."""
        return self._scores(self.net, dict(zip(self.streams, rows, strict=True)))[:, 1:]


class ChunkHead(nn.Module):
    """CALF as it is exported: one tensor a stream in, scores (1, L, C) out, each anchor's confidence in its place.

    With displacement, (1, L, C) in seconds comes out as well.

    Args:
        net: the network.
        as_original: decode as the original does, where a perfect answer comes out one row early; see
            `encodings.decode_spotting`, which this equals.
    """

    def __init__(self, net: Calf, *, as_original: bool) -> None:
        super().__init__()
        self.net, self.as_original = net, as_original

    def forward(self, *rows: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return scores (1, L, C), 0 where no anchor points, and the displacement (1, L, C) if the network has it."""
        config = self.net.config
        _, anchors, shift = self.net.outputs(dict(zip(config.widths, rows, strict=True)))
        scores = self._placed(anchors[0])
        return (scores, shift) if config.max_displacement_s else scores

    def _placed(self, anchors: Tensor) -> Tensor:
        """Return each anchor's (A, 2 + C) confidence in its row and label (1, L, C)."""
        config, length = self.net.config, self.net.config.rows
        place = torch.floor(anchors[:, 1] * (length - 1)) if self.as_original else torch.round(anchors[:, 1] * length)
        at_row = place.clamp(0, length - 1)[:, None] == torch.arange(length, dtype=torch.float32)  # (A, L)
        of_label = anchors[:, 2:].argmax(1)[:, None] == torch.arange(len(config.labels))  # (A, C)
        scores = torch.zeros(length, len(config.labels))
        for anchor in range(config.anchors):  # in order, so that a later one overwrites
            here = at_row[anchor][:, None] & of_label[anchor][None]
            scores = torch.where(here, anchors[anchor, 0], scores)
        return scores[None]


class OffsetHead(nn.Module):
    """RMS-Net as it is exported: one tensor a stream in, scores (1, C) and displacement (1, C) out.

    Args:
        net: the network.
        rate: rows a second.
    """

    def __init__(self, net: RmsNet, rate: float) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (1, C), and in seconds from the row's middle where the clip's action is (1, C)."""
        return answers(self.net, dict(zip(self.net.config.widths, rows, strict=True)), self.rate)


class RowHead(nn.Module):
    """HMTAS for deciding live as it is exported: one tensor a stream (B, L, D) in, what it says at each look-ahead out.

    Args:
        net: the network.
        look_aheads: rows, rising; L is as many rows as the largest needs. A smaller one is asked about a later row of
            the window, of which it sees the last rows.
    """

    def __init__(self, net: Hmtas, look_aheads: Sequence[int]) -> None:
        super().__init__()
        self.net, self.look_aheads = net, tuple(look_aheads)

    def forward(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return scores (B, C) and any displacement (B, C); of the E smaller look-aheads both as (B, E, C)."""
        said: list[tuple[Tensor, ...]] = []
        for look_ahead in self.look_aheads:
            length = self.net.config.look_behind + 1 + look_ahead
            window = {name: x[:, -length:] for name, x in zip(self.net.config.widths, rows, strict=True)}
            scores, shift, _ = self.net(window)
            said.append((scores[:, 1:], shift) if self.net.displacement is not None else (scores[:, 1:],))
        *early, largest = said
        return (*largest, *(torch.stack(each, 1) for each in zip(*early, strict=True)))


def write_head_bundle(path: Path, head: nn.Module, manifest: Manifest, front_ends: Bundle | None = None) -> Manifest:
    """Write a bundle of a head that was trained on feature files; return its manifest as written.

    Args:
        path: the bundle's folder.
        head: a WindowHead, ChunkHead, OffsetHead or RowHead.
        manifest: everything but the digests; its streams have files where `front_ends` is given.
        front_ends: the bundle whose front ends made the features; their graphs are copied.

    Raises:
        ParityError: the graph differs from the network by more than TOLERANCE.
    """
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter cannot follow it
    path.mkdir(parents=True, exist_ok=True)
    if front_ends is not None:
        for graph in {stream.file for stream in manifest.streams if stream.file}:
            shutil.copyfile(front_ends.path / graph, path / graph)
    rng = np.random.default_rng(0)
    free_batch = manifest.head.outputs == "row"
    windows = {
        s.name: torch.from_numpy(rng.standard_normal((3 if free_batch else 1, manifest.head.rows, s.width), np.float32))
        for s in manifest.streams
    }
    metadata = {"labels": json.dumps(list(manifest.labels))}
    file = path / manifest.head.file
    outputs = ["scores", "displacement"] if manifest.head.max_displacement_s else ["scores"]
    if manifest.head.early_look_ahead_s:
        outputs += [f"early_{kind}" for kind in outputs]
    worst = export_graph(head.cpu(), file, windows, outputs, metadata, free_batch=free_batch)
    if manifest.calibration:
        calibrate_graph(file, [Calibration(**manifest.calibration[label]) for label in manifest.labels])
    provenance = {**manifest.provenance, "export_difference": worst}
    write_manifest(path, manifest.model_copy(update={"provenance": provenance}))
    return read_manifest(path)[0]


def export_graph(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
    *,
    free_batch: bool = False,
) -> float:
    """Write a module as ONNX; return its largest difference from the module on the inputs.

    Args:
        module: what is written.
        path: the file.
        inputs: name → example; shapes are fixed to theirs,
        outputs: their names.
        metadata: text to leave in the graph.
        free_batch: but the first axis of inputs and outputs stays free; the examples must have more than one item.

    Raises:
        ParityError: they differ by more than TOLERANCE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)} if free_batch else None,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    for key, text in metadata.items():
        graph.metadata_props.add(key=key, value=text)
    graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.save(graph, str(path))
    with torch.no_grad():
        wanted = module(*inputs.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = OrtEngine(path).run({name: tensor.numpy() for name, tensor in inputs.items()})
    worst = max(float(np.abs(found[n] - w.numpy()).max()) for n, w in zip(outputs, wanted, strict=True))
    if not worst <= TOLERANCE:
        raise ParityError(
            f"{path.name}: the exported graph differs from the checkpoint by {worst:.2e} (limit {TOLERANCE})."
        )
    log.info("%s: %.2f MB, within %.1e of the checkpoint", path.name, path.stat().st_size / 1e6, worst)
    return worst


def _manifest(net: DemoNet, provenance: Mapping[str, object]) -> Manifest:
    recipe, p = net.recipe, net.recipe.pictures
    pictures = Pictures(rate=p.rate, width=p.width, height=p.height, resize_filter=p.resize_filter)
    labels = net.head.config.labels
    return Manifest(
        format_version=FORMAT_VERSION,
        name=recipe.name,
        labels=labels,
        streams=(
            ModalityStream(
                name=VISUAL, modality="visual", file="visual.onnx", width=recipe.visual_width, pictures=pictures
            ),
            ModalityStream(name=AUDIO, modality="audio", file="audio.onnx", width=recipe.audio_width),
        ),
        head=HeadSpec(
            file="head.onnx",
            kind="hmtas",
            rows=recipe.rows,
            look_ahead_s=recipe.look_ahead_rows,
            max_displacement_s=recipe.max_displacement_s,
        ),
        decision=dict.fromkeys(labels, Decision(threshold=0.5, radius_s=2.0)),
        provenance=provenance,
        sha256={},
    )
