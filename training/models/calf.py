"""CALF: spotting with a context-aware loss; the model, its published variants, and both of its losses.

Source: Cioppa et al., "A Context-Aware Loss Function for Action Spotting in Soccer Videos" (CVPR 2020), as SoccerNet's
development kit has it (SoccerNetv2-DevKit, `Task1-ActionSpotting/CALF/src/{model,loss}.py`), and Swapno's
modifications of it. CALF sees a chunk of L rows at once and answers twice: with a segmentation (a value for every row
and label) and with A anchors (confidence, time within the chunk, and label of a spot each).

What differs: rows of several modality streams are joined to one; convolutions along time are one-dimensional, which
computes the same; the loss is clamped where the original's is not a number.

Two releases of the loss give the segmentation opposite meanings, see `Sign`.

What is new here: `max_displacement_s` > 0 adds an output that says of every row and label by how much the action is off
the row's middle, and a loss for it. It moves the spot that an anchor puts into a row; anchors, and what they are told,
stay CALF's.

Shapes: B chunks, L rows, D width of a stream's rows, C labels, A anchors, S = 2 + C values of an anchor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS
from training.chunks import ChunkLayout
from training.models.hmtas import displacement_loss

SEGMENTATION_WEIGHT = 0.000367
"""Weight of the segmentation loss beside the spotting loss (the Keras original: 0.002). Source: `main.py`."""

TIME_WEIGHT = 5.0
EMPTY_WEIGHT = 0.5
"""Weights of an anchor's error in time and of an empty anchor's confidence. Source: `main.py` (its lambdas)."""

MARGIN = 0.9
"""An output this close to its goal costs nothing. Source: `loss.py` (1 - hit_radius and miss_radius)."""

_SMALLEST = 2.0**-24  # below it the original's 1 - (1 - output) is 0 in float32, and its loss no longer a number

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "CALF": {},
    "Pool": {"pooling": "avg"},
    "Seg+Pool": {"pooling": "avg", "segmentation_kernels": (3, 3)},
    "Base+Pool": {"pooling": "avg", "base_layers": 6},
    "Base+Seg+Pool": {"pooling": "avg", "base_layers": 6, "segmentation_kernels": (3, 3)},
}
"""Fields of `CalfConfig` that make the models of Swapno's Table I; `CalfConfig(widths, **VARIANTS["Pool"])`."""


class Sign(StrEnum):
    """Which end of its range the segmentation output is trained towards at an action.

    The first release of the loss trains it towards 0, its later version towards 1; each also has ramps of its own
    after the action. The network itself was written for the first and never changed: it hands 1 - segmentation to its
    anchors whichever loss trained it. Nothing in a file of weights says which one it was: weights from before November
    2021, among them all that were published with CALF, are ACTION_LOW.
    """

    ACTION_HIGH = "action_high"
    """1 at the action: `loss.py` of SoccerNetv2-DevKit since 2021-11-03 (fb07891)."""
    ACTION_LOW = "action_low"
    """0 at the action: the Keras code, SoccerNetv2-DevKit's first release (59219da), CALF_Calibration."""


@dataclass(frozen=True, slots=True)
class CalfConfig:
    """What a CALF is made of; the defaults are those for SoccerNet-v2."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 240
    """Chunk length L; the weights are tied to it."""
    receptive_field: int = 80
    """Rows that the widest temporal kernel spans; half of it is the chunk's border."""
    anchors: int = 15
    """Spots that a chunk can hold; 5 in the Keras original."""
    capsules: int = 16
    """Values for each row and label whose distance from 0.5 is the segmentation."""
    base_layers: int = 2
    """2, or 6: Swapno's "Base"."""
    segmentation_kernels: tuple[int, ...] = (3,)
    """Kernel of the segmentation's convolution; with several, each makes its share of the capsules: Swapno's "Seg"."""
    pooling: str = "max"
    """"max", or "avg": Swapno's "Pool"."""
    max_displacement_s: float = 0.0
    """How far a row may place its actions from its middle; 0: there is no such output."""
    labels: tuple[str, ...] = field(default=SOCCERNET_LABELS)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.rows < 15:
            raise ValueError(f"rows is {self.rows}; three poolings need at least 15")
        if self.pooling not in ("max", "avg"):
            raise ValueError(f"pooling is {self.pooling!r}; accepted: 'max', 'avg'")
        if self.base_layers not in (2, 6):
            raise ValueError(f"base_layers is {self.base_layers}; accepted: 2, 6")
        if not self.segmentation_kernels or self.capsules % len(self.segmentation_kernels):
            raise ValueError(
                f"{len(self.segmentation_kernels)} segmentation_kernels cannot share {self.capsules} capsules equally"
            )
        if self.receptive_field % 2 or not 0 < self.receptive_field < self.rows:
            raise ValueError(f"receptive_field is {self.receptive_field}; accepted: even, 2 to {self.rows - 1}")

    @property
    def layout(self) -> ChunkLayout:
        """How the model's chunks lie over a half."""
        return ChunkLayout(self.rows, self.receptive_field // 2)


class _Rows(nn.Conv1d):
    """A convolution with an output for every row; where its kernel is even, the longer side looks ahead."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel)
        self.sides = ((kernel - 1) // 2, kernel // 2)

    def forward(self, x_BXL: Tensor) -> Tensor:
        return super().forward(F.pad(x_BXL, self.sides))


class _Wide(nn.Conv2d):
    """A 3×3 convolution over rows that are one wide: (B, X, L) → (B, X, L).

    Only the kernel's middle column ever meets a row; the other two never matter and get no gradient. They are kept
    because the published model has them, and left out of the work.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x_BXL: Tensor) -> Tensor:
        return F.conv1d(x_BXL, self.weight[..., 1], self.bias, padding=1)


def _displacement(channels: int, labels: int) -> nn.Sequential:
    """Return layers that see one row's features alone, and so no more than the receptive field; at first they say 0."""
    last = nn.Conv1d(64, labels, 1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Conv1d(channels, 64, 1), nn.ReLU(), last)


class Calf(nn.Module):
    """The whole network.

    `Seg` splits the segmentation's convolution into two that run side by side, each making half of the capsules, and
    joins what they give before the normalisation. With equal kernels that is the original layer: an output channel of
    a convolution depends on its own kernel alone, so two stacks of channels side by side are one stack, weight for
    weight; even the initial weights have the same distribution, since it depends on a kernel's inputs alone. Only
    unequal kernels, such as (3, 7), are another model.
    """

    def __init__(self, config: CalfConfig) -> None:
        super().__init__()
        self.config = config
        width, labels, anchors = sum(config.widths.values()), len(config.labels), config.anchors
        hidden = 128
        first = nn.Conv1d(width, hidden, 1)
        middle = [_Wide(hidden) for _ in range(config.base_layers - 2)]
        self.base = nn.ModuleList([first, *middle, nn.Conv1d(hidden, 32, 1)])
        reach = config.receptive_field
        spans = (-(-reach // 7), -(-reach // 3), -(-reach // 2), reach)
        self.pyramid = nn.ModuleList(
            [_Rows(32, channels, span) for channels, span in zip((8, 16, 32, 64), spans, strict=True)]
        )
        kernels = config.segmentation_kernels
        share = config.capsules // len(kernels) * labels
        self.segment = nn.ModuleList([_Rows(32 + 120, share, kernel) for kernel in kernels])
        # one mean and variance for each row of the chunk: rows are the channels here
        self.segment_norm = nn.BatchNorm2d(config.rows, momentum=0.01, eps=1e-3)
        self.pool = (nn.MaxPool1d if config.pooling == "max" else nn.AvgPool1d)(3, 2)
        self.spot = nn.ModuleList([_Rows((config.capsules + 1) * labels, 32, 3), _Rows(32, 16, 3)])
        pooled = config.rows
        for _ in range(3):
            pooled = (pooled - 3) // 2 + 1
        self.place = nn.Linear(16 * pooled, 2 * anchors)
        self.label = nn.Linear(16 * pooled, labels * anchors)
        self.displacement = _displacement(32 + 120, labels) if config.max_displacement_s > 0 else None

    def forward(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the segmentation (B, L, C) and the anchors (B, A, 2 + C), all in [0, 1].

        An anchor is the confidence that it holds a spot, the spot's time as a share of the chunk, and the labels'
        probabilities. What the segmentation means at an action is told by the loss: `action_scores`.

        Args:
            rows: modality stream → float32 (B, L, D).
        """
        segmentation, anchors, _ = self.outputs(rows)
        return segmentation, anchors

    def outputs(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return segmentation and anchors as `forward` does, and the displacement (B, L, C), seconds.

        Without an output for it, displacement is zeros.
        """
        x = torch.cat([rows[name] for name in self.config.widths], 2).transpose(1, 2)  # (B, D, L)
        for layer in self.base:
            x = F.relu(layer(x))
        x = torch.cat([x, *(F.relu(layer(x)) for layer in self.pyramid)], 1)
        capsules = torch.cat([layer(x) for layer in self.segment], 1)  # channel = capsule · C + label
        segmentation = self._segmentation(capsules)
        anchors = self._anchors(F.relu(torch.cat([capsules, 1 - segmentation.transpose(1, 2)], 1)))
        if self.displacement is None:
            return segmentation, anchors, torch.zeros_like(segmentation)
        shift = torch.tanh(self.displacement(x)).transpose(1, 2) * self.config.max_displacement_s
        return segmentation, anchors, shift

    def _segmentation(self, capsules_BXL: Tensor) -> Tensor:
        """Return how far each row's and label's capsule is from the middle of its range (B, L, C)."""
        count, labels = self.config.capsules, len(self.config.labels)
        x = capsules_BXL.reshape(-1, count, labels, self.config.rows).permute(0, 3, 1, 2)  # (B, L, capsules, C)
        x = torch.sigmoid(self.segment_norm(x))
        distance: Tensor = torch.linalg.vector_norm(x - 0.5, dim=2)
        return distance * float(2 / count**0.5)

    def _anchors(self, x_BXL: Tensor) -> Tensor:
        x = self.pool(x_BXL)
        for layer in self.spot:
            x = self.pool(F.relu(layer(x)))
        x = x.flatten(1)
        place = torch.sigmoid(self.place(x)).reshape(-1, self.config.anchors, 2)
        label = torch.softmax(self.label(x).reshape(-1, self.config.anchors, len(self.config.labels)), 2)
        return torch.cat([place, label], 2)


def action_scores(segmentation: Tensor, sign: Sign) -> Tensor:
    """Return the segmentation as scores that are 1 at an action and 0 far from it.

    Args:
        segmentation: the model's first output, any shape.
        sign: of the loss that it was trained with.
    """
    return segmentation if sign is Sign.ACTION_HIGH else 1 - segmentation


def context_aware_loss(segmentation_BLC: Tensor, shifts_BLC: Tensor, k_4C: Tensor, sign: Sign) -> Tensor:
    """Return the context-aware loss of the segmentation, summed over chunks, rows and labels.

    With x the shift and s the score at the action, -ln of what is allowed, less -ln 0.9, and at least 0:

    - far from an action (x < K1, x >= K4) 1 - s is allowed, shortly before it (K2 <= x < 0) everything;
    - from K1 to K2 and from K3 to K4 what is allowed moves from the one to the other with x, linearly;
    - just after it (0 <= x < K3) s is allowed, and with growing x more and more of everything.

    `Sign.ACTION_LOW` adds the ramp after the action as it is, `Sign.ACTION_HIGH` scales it to what is left up to 1.

    Args:
        segmentation_BLC: the model's first output.
        shifts_BLC: time shifts in rows; -1 costs nothing (`encodings.IGNORED`).
        k_4C: context bounds in rows.
        sign: which loss.

    Source: `loss.py: ContextAwareLoss`. Differs: an output of which nothing is allowed (0 or 1 on the wrong side) costs
    -ln of 2^-24, where the original gives infinity or, by 0 · infinity, no number at all.
    """
    k1, k2, k3, k4 = k_4C
    x, score = shifts_BLC, action_scores(segmentation_BLC, sign)
    before, after = x < 0, (x >= 0) & (x < k3)
    ramp = torch.where(before, (x - k1) / (k2 - k1), (x - k4) / (k3 - k4)).clamp(0, 1)  # 0 far away, 1 near
    ramp = torch.where(after, x / k3, ramp)
    wanted = torch.where(after, score, 1 - score)
    scaled = before | (sign is Sign.ACTION_HIGH)
    allowed = wanted + torch.where(scaled, 1 - wanted, torch.ones_like(wanted)) * ramp
    return (math.log(MARGIN) - allowed.clamp(min=_SMALLEST).log()).clamp(min=0).sum()


def match_anchors(targets_BAS: Tensor, anchors_BAS: Tensor) -> Tensor:
    """Return which of the model's anchors answers for each target, int64 (B, A).

    Targets that hold an action choose first, then the empty ones. In each round every target names the free anchor
    that is nearest in time (of equals the first), and every anchor named takes the nearest that named it. Confidence
    and label play no part. A target left without an anchor, because each free one is a whole chunk away from it, gets
    anchor 0, which then answers twice; so the result need not be a permutation.

    Args:
        targets_BAS: what the anchors should say; an empty one is all 0.
        anchors_BAS: the model's second output.

    Source: `loss.py: SpottingLoss.permute_ypred_for_matching`. Differs: the empty targets, which lie all at time 0,
    are matched in one sort. Where an action lies a whole chunk from every free anchor, the original may also use one
    of the others' anchors again; actions off the chunk's first and last row, as CALF's all are, never do.
    """
    with torch.no_grad():
        count = targets_BAS.shape[1]
        slots = torch.arange(count, device=targets_BAS.device)
        waiting, free = targets_BAS[..., 0] > 0, torch.ones_like(targets_BAS[..., 0], dtype=torch.bool)
        empty = ~waiting
        nearness = 1 - (targets_BAS[:, :, None, 1] - anchors_BAS[:, None, :, 1]).abs()  # (B, target, anchor)
        chosen = torch.zeros_like(waiting, dtype=torch.int64)
        for _ in range(count):
            left = nearness * (waiting[:, :, None] & free[:, None, :])
            names = (left.argmax(2)[..., None] == slots) & waiting[:, :, None]
            takes = ((left * names).argmax(1)[:, None, :] == slots[:, None]) & names
            chosen = torch.where(takes.any(2), left.argmax(2), chosen)
            waiting, free = waiting & ~takes.any(2), free & ~takes.any(1)
        nearest, order = torch.where(free, 1 - anchors_BAS[..., 1], 0).sort(dim=1, descending=True, stable=True)
        turn = (empty.cumsum(1) - 1).clamp(min=0)
        late = torch.where(nearest > 0, order, 0).gather(1, turn)
        return torch.where(empty, late, chosen)


def spotting_loss(anchors_BAS: Tensor, targets_BAS: Tensor) -> Tensor:
    """Return the loss of the anchors, each against the target it answers for, summed over chunks and anchors.

    Source: `loss.py: SpottingLoss`. Labels have a squared error here, no cross-entropy.
    """
    answer = match_anchors(targets_BAS, anchors_BAS)
    anchors = anchors_BAS.gather(1, answer[..., None].expand_as(anchors_BAS))
    error = (targets_BAS - anchors).square()
    holds = targets_BAS[..., 0]
    filled = error[..., 0] + TIME_WEIGHT * error[..., 1] + error[..., 2:].sum(2)
    return (holds * filled + (1 - holds) * EMPTY_WEIGHT * error[..., 0]).sum()


def calf_loss(
    outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], k_4C: Tensor, sign: Sign = Sign.ACTION_HIGH
) -> Tensor:
    """Return the loss of a batch: 0.000367 × the context-aware loss + the spotting loss, summed over the chunks.

    Args:
        outputs: segmentation and anchors, as `Calf` returns them.
        targets: time shifts and what the anchors should say, as `training.chunks.chunk_targets` gives them.
        k_4C: context bounds in rows (`encodings.k_rows`).
        sign: which context-aware loss.
    """
    segmentation = context_aware_loss(outputs[0], targets[0], k_4C, sign)
    return SEGMENTATION_WEIGHT * segmentation + spotting_loss(outputs[1], targets[1])


def placing_loss(displacement_BLC: Tensor, true_BLC: Tensor, reach_s: float) -> Tensor:
    """Return the error of the displacement over the rows that an action is near, times the number of chunks.

    So it grows with the batch as `calf_loss` does, which is summed over the chunks.

    Args:
        displacement_BLC: the model's third output, seconds.
        true_BLC: seconds from the row's middle to the label's nearest action; infinite where nothing is to be learnt.
        reach_s: rows further off than this cost nothing: `CalfConfig.max_displacement_s`.
    """
    near = true_BLC.abs() <= reach_s
    return len(true_BLC) * displacement_loss(displacement_BLC, true_BLC.where(near, 0), near)
