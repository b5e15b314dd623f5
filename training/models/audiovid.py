"""AudioVid: one NetVLAD for the picture, one for the sound, joined before the last layer.

Source: Vanderplaetse and Dupont, "Improved Soccer Action Spotting Using Both Audio and Video Streams", and its code
(`networks.py: AudioVideoArchi5`, `loupe.py`; TensorFlow 1). The best published form is NetVLAD with 512 clusters over
20 s at 2 rows a second, ResNet-152 (PCA) and VGGish rows of width 512, and SoccerNet-v1's three labels.

The pool is LOUPE's: rows come in as they are, the assignment goes through a real batch norm, the pooled vector through
a linear layer without bias and a context gate, x · σ(norm(x W)).

What differs from the original: it leaves `is_training` on at test, so that its batch norms use the statistics of the
test batch and a window's scores depend on its neighbours; here evaluation uses the running statistics. Streams may be
any in number and width.

Shapes: B windows, L rows, D width, K clusters, C labels (column 0 of the scores is background).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS
from training.models.pooling import aggregate

NORM_EPS = 1e-3
"""Epsilon of slim's batch norm."""

LENGTH_EPS = 1e-6
"""Smallest length divided by: TensorFlow's `l2_normalize` bounds the square at 1e-12."""


@dataclass(frozen=True, slots=True)
class AudioVidConfig:
    """What an AudioVid is made of; the defaults of the sizes are the best published ones."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 40
    """Window length L."""
    residual: bool = True
    """NetVLAD; False is NetRVLAD."""
    clusters: int = 512
    d_model: int = 512
    """Width of each stream's vector before they are joined."""
    dropout: float = 0.4
    labels: tuple[str, ...] = SOCCERNET_LABELS


class LoupeVlad(nn.Module):
    """LOUPE's NetVLAD or NetRVLAD with its reduction and context gate: rows (B, L, D) → (B, d_model)."""

    def __init__(self, width: int, config: AudioVidConfig) -> None:
        super().__init__()
        clusters, d_out = config.clusters, config.d_model
        self.assign = nn.Linear(width, clusters, bias=False)
        self.assign_norm = nn.BatchNorm1d(clusters, eps=NORM_EPS)
        self.centres = nn.Parameter(torch.randn(width, clusters) / math.sqrt(width)) if config.residual else None
        self.reduce = nn.Linear(width * clusters, d_out, bias=False)
        self.gate = nn.Linear(d_out, d_out, bias=False)
        self.gate_norm = nn.BatchNorm1d(d_out, eps=NORM_EPS)
        nn.init.normal_(self.assign.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.reduce.weight, std=1 / math.sqrt(clusters))
        nn.init.normal_(self.gate.weight, std=1 / math.sqrt(d_out))

    def forward(self, rows_BLD: Tensor) -> Tensor:
        """Return the gated vector (B, d_model)."""
        closeness = self.assign_norm(self.assign(rows_BLD).transpose(1, 2)).transpose(1, 2)
        x = self.reduce(aggregate(rows_BLD, torch.softmax(closeness, 2), self.centres, LENGTH_EPS))
        gated: Tensor = x * torch.sigmoid(self.gate_norm(self.gate(x)))
        return gated


class AudioVid(nn.Module):
    """The whole network: a pool a stream, concatenated, one linear layer."""

    def __init__(self, config: AudioVidConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict({name: LoupeVlad(width, config) for name, width in config.widths.items()})
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(len(config.widths) * config.d_model, 1 + len(config.labels))
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return the scores before the sigmoid, (B, 1 + C)."""
        vectors = [self.dropout(stream(rows[name])) for name, stream in self.streams.items()]
        logits: Tensor = self.out(torch.cat(vectors, 1))
        return logits

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, 1 + C) in [0, 1].

        Args:
            rows: modality stream → float32 (B, L, D).
        """
        return torch.sigmoid(self.logits(rows))


def audiovid_loss(logits_BC: Tensor, targets_BC: Tensor, weights_C: Tensor) -> Tensor:
    """Return the sigmoid cross-entropy, summed over the columns and averaged over the windows.

    Args:
        logits_BC: scores before the sigmoid.
        targets_BC: 0 or 1.
        weights_C: weight of each column's positive term; the original has ones.

    Source: `networks.py`, `weighted_cross_entropy_with_logits`.
    """
    each = F.binary_cross_entropy_with_logits(logits_BC, targets_BC, pos_weight=weights_C, reduction="none")
    return each.sum(1).mean()
