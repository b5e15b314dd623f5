"""Temporal pooling of a window, from max pooling to NetVLAD++: rows in, one vector, scores out.

Source: Giancola and Ghanem, "Temporally-Aware Feature Pooling for Action Spotting" (NetVLAD++), and its code,
`TemporallyAwarePooling/src/model.py` and `netvlad.py`; the same pools, without "++", are SoccerNet's baselines.

A pool takes the rows as a set: without "++" their order does not matter. "++" pools the rows before the scored one and
the rest apart, each half with half the clusters, so that what leads up to an action and what follows it stay apart.
The score of a window is for its row `rows // 2`; the rows after that one are the look-ahead.

What differs from the original: several streams are concatenated on their width; max++ and avg++ take a window of an
odd number of rows, at which the original crashes (its second half is one row longer than its pooling kernel).

Shapes: B windows, L rows, D width, K clusters, C labels (column 0 of the scores is background).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS
from training.models.hmtas import weighted_nll

POOLS = ("max", "max++", "avg", "avg++", "netvlad", "netvlad++", "netrvlad", "netrvlad++")
"""Every pool, as the original names them but in small letters."""


@dataclass(frozen=True, slots=True)
class PoolingConfig:
    """What a pooling network is made of; the defaults are the published NetVLAD++'s (15 s at 2 rows a second)."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 30
    """Window length L."""
    pool: str = "netvlad++"
    clusters: int = 64
    """K of the VLAD pools, both halves together."""
    d_model: int = 512
    """Width that the rows are brought to by a linear layer, where they do not have it."""
    dropout: float = 0.4
    labels: tuple[str, ...] = SOCCERNET_LABELS

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}; accepted: {', '.join(POOLS)}")
        if self.pool.endswith("++") and (self.rows < 2 or self.clusters % 2):
            raise ValueError(
                f"{self.pool} needs at least 2 rows and an even number of clusters, not {self.rows} and {self.clusters}"
            )


def aggregate(rows_BLD: Tensor, shares_BLK: Tensor, centres_DK: Tensor | None, eps: float = 1e-12) -> Tensor:
    """Return what the rows add up to in each cluster, (B, D·K), width-major and of length 1.

    Args:
        rows_BLD: the window's rows.
        shares_BLK: how much of each row belongs to each cluster.
        centres_DK: subtracted from every row (NetVLAD); None leaves the rows as they are (NetRVLAD).
        eps: smallest length that is divided by.

    Source: Arandjelović et al., "NetVLAD", equations 4 and 5.
    """
    sums = rows_BLD.transpose(1, 2) @ shares_BLK  # (B, D, K)
    if centres_DK is not None:
        sums = sums - shares_BLK.sum(1, keepdim=True) * centres_DK
    return F.normalize(F.normalize(sums, dim=1, eps=eps).flatten(1), dim=1, eps=eps)


class Vlad(nn.Module):
    """NetVLAD, or NetRVLAD without centres: rows (B, L, D) → (B, D·K).

    Rows are scaled to length 1 first: that is what the original's `add_batch_norm` does.
    """

    def __init__(self, width: int, clusters: int, residual: bool) -> None:
        super().__init__()
        scale = 1 / math.sqrt(width)
        self.assign = nn.Parameter(torch.randn(width, clusters) * scale)
        self.centres = nn.Parameter(torch.randn(width, clusters) * scale) if residual else None

    def forward(self, rows_BLD: Tensor) -> Tensor:
        """Return the pooled vector (B, D·K)."""
        x = F.normalize(rows_BLD, dim=2)
        return aggregate(x, torch.softmax(x @ self.assign, 2), self.centres)


class WindowPool(nn.Module):
    """Any of POOLS: rows (B, L, D) → one vector (B, `width`)."""

    def __init__(self, pool: str, rows: int, width: int, clusters: int) -> None:
        super().__init__()
        self.kind = pool.removesuffix("++")
        parts = 2 if pool.endswith("++") else 1
        self.before = rows // 2 if parts == 2 else 0
        vlad = self.kind not in ("max", "avg")
        self.layers = nn.ModuleList(
            Vlad(width, clusters // parts, residual=self.kind == "netvlad") for _ in range(parts if vlad else 0)
        )
        self.width = width * (clusters if vlad else parts)

    def forward(self, rows_BLD: Tensor) -> Tensor:
        """Return the pooled vector."""
        if not self.before:
            return self._pool(0, rows_BLD)
        return torch.cat([self._pool(0, rows_BLD[:, : self.before]), self._pool(1, rows_BLD[:, self.before :])], 1)

    def _pool(self, part: int, rows_BLD: Tensor) -> Tensor:
        if self.kind == "max":
            return rows_BLD.amax(1)
        if self.kind == "avg":
            return rows_BLD.mean(1)
        vector: Tensor = self.layers[part](rows_BLD)
        return vector


class Pooling(nn.Module):
    """Pooling of a window, then one linear layer."""

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.config = config
        width = sum(config.widths.values())
        self.project = nn.Linear(width, config.d_model) if width != config.d_model else nn.Identity()
        self.pool = WindowPool(config.pool, config.rows, config.d_model, config.clusters)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(self.pool.width, 1 + len(config.labels))

    def pooled(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return each window's pooled vector, before the dropout."""
        vector: Tensor = self.pool(self.project(torch.cat([rows[name] for name in self.config.widths], 2)))
        return vector

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return the scores before the sigmoid, (B, 1 + C)."""
        logits: Tensor = self.out(self.dropout(self.pooled(rows)))
        return logits

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, 1 + C) in [0, 1].

        Args:
            rows: modality stream → float32 (B, L, D).
        """
        return torch.sigmoid(self.logits(rows))


def nll(scores_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Return the mean negative log-likelihood over windows and columns, background included.

    Source: `TemporallyAwarePooling/src/loss.py: NLLLoss`. Differs: scores are kept off 0 and 1 (see `weighted_nll`).
    """
    return weighted_nll(scores_BC, targets_BC, torch.ones_like(scores_BC[0]))
