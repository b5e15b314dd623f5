"""Multi-stream NetVLAD++: each stream is pooled on its own, the pooled vectors are joined.

Source: Cartas et al., "A Graph-Based Method for Soccer Action Spotting Using Unsupervised Player Classification", and
its code (`models/multistream.py`). The published form has picture (ResNet-152, PCA 512) and sound (VGGish, 512) at
2 rows a second over 10 s, and a vector of the players' graph.

Building the graph (players, teams, pitch positions) and its network is out of scope: a graph comes in as rows, in one
of two ways, as in the original.
- As a pooled stream like any other: rows hold one graph embedding each. (The original pools them at their own width;
  here a stream is brought to `d_model` first, as its other streams are.)
- As a `ready` stream: each row holds a vector that was already pooled over the window around that row, by a network
  trained on the graph alone. Only the scored row, `rows // 2`, is used, after a batch norm.

Shapes: B windows, L rows, D width, C labels (column 0 of the scores is background). The loss is `pooling.nll`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engines.labels import SOCCERNET_LABELS
from training.models.pooling import WindowPool


@dataclass(frozen=True, slots=True)
class CartasConfig:
    """What a multi-stream NetVLAD++ is made of; the defaults are the published ones."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    ready: tuple[str, ...] = ()
    """Streams whose rows are vectors of whole windows already."""
    rows: int = 20
    """Window length L."""
    clusters: int = 64
    d_model: int = 512
    dropout: float = 0.4
    labels: tuple[str, ...] = SOCCERNET_LABELS

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if unknown := set(self.ready) - set(self.widths):
            raise ValueError(f"ready names {sorted(unknown)}; the streams are {sorted(self.widths)}")
        if self.rows < 2 or self.clusters % 2:
            raise ValueError(
                f"NetVLAD++ needs at least 2 rows and an even number of clusters, not {self.rows} and {self.clusters}"
            )


class _Pooled(nn.Module):
    """One stream: rows (B, L, D) → NetVLAD++ → vector (B, d_model)."""

    def __init__(self, width: int, config: CartasConfig) -> None:
        super().__init__()
        d = config.d_model
        self.project = nn.Linear(width, d) if width != d else nn.Identity()
        self.pool = WindowPool("netvlad++", config.rows, d, config.clusters)
        self.dropout = nn.Dropout(config.dropout)
        self.reduce = nn.Linear(self.pool.width, d)

    def forward(self, rows_BLD: Tensor) -> Tensor:
        vector: Tensor = self.reduce(self.dropout(self.pool(self.project(rows_BLD))))
        return vector


class _Ready(nn.Module):
    """One stream of windows' vectors: rows (B, L, D) → batch norm of the scored row (B, D)."""

    def __init__(self, width: int, config: CartasConfig) -> None:
        super().__init__()
        self.row = config.rows // 2
        self.norm = nn.BatchNorm1d(width)

    def forward(self, rows_BLD: Tensor) -> Tensor:
        vector: Tensor = self.norm(rows_BLD[:, self.row])
        return vector


class Cartas(nn.Module):
    """The whole network: a vector a stream, concatenated, one linear layer and a batch norm."""

    def __init__(self, config: CartasConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict(
            {
                name: (_Ready if name in config.ready else _Pooled)(width, config)
                for name, width in config.widths.items()
            }
        )
        joined = sum(width if name in config.ready else config.d_model for name, width in config.widths.items())
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(joined, 1 + len(config.labels))
        self.norm = nn.BatchNorm1d(1 + len(config.labels))

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return the scores before the sigmoid, (B, 1 + C)."""
        vectors = [stream(rows[name]) for name, stream in self.streams.items()]
        logits: Tensor = self.norm(self.out(self.dropout(torch.cat(vectors, 1))))
        return logits

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, 1 + C) in [0, 1].

        Args:
            rows: modality stream → float32 (B, L, D).
        """
        return torch.sigmoid(self.logits(rows))
