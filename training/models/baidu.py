"""The two heads that the Baidu team put on its features: NetVLAD++ and a transformer encoder.

Source: Zhou et al., "Feature Combination Meets Attention: Baidu Soccer Embeddings and Transformer based Temporal
Detection". Their embeddings are 8576 wide, one a second; windows of 7 rows did best.

- NetVLAD++ is `baidu_netvlad`, a setting of the pooling network: 3 rows before, 4 from the scored one on.
- The transformer's size is in no public code. `BaiduTransformer` is an **approximation**: the first imitation in the
  HMTAS thesis's repository (`model.py`, "transformer_2features"; its commit bb8190b), with its 4 heads and
  feed-forward of 64. Numbers of this head are not the published ones.

What differs from that imitation: attention and positions run over the rows; there both ran over the batch.

Shapes: B windows, L rows, D width, E streams, C labels (column 0 of the scores is background).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS
from training.models.pooling import PoolingConfig


def baidu_netvlad(
    widths: Mapping[str, int], rows: int = 7, labels: tuple[str, ...] = SOCCERNET_LABELS
) -> PoolingConfig:
    """Return the setting of NetVLAD++ over Baidu's rows: one linear layer to 512, 32 + 32 clusters."""
    return PoolingConfig(widths=widths, rows=rows, pool="netvlad++", labels=labels)


@dataclass(frozen=True, slots=True)
class BaiduConfig:
    """What the approximated transformer head is made of."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 7
    """Window length L."""
    d_model: int = 512
    heads: int = 4
    layers: int = 3
    feed_forward: int = 64
    dropout: float = 0.4
    """Before the last layer; inside the encoder it is 0.1."""
    labels: tuple[str, ...] = SOCCERNET_LABELS


class _Tokens(nn.Module):
    """Rows of one stream (B, L, D) → tokens (B, L, d): position-wise projection, batch norm, ReLU."""

    def __init__(self, width: int, d_model: int) -> None:
        super().__init__()
        self.project = nn.Conv1d(width, d_model, 1, bias=False)
        self.norm = nn.BatchNorm1d(d_model)

    def forward(self, rows_BLD: Tensor) -> Tensor:
        return F.relu(self.norm(self.project(rows_BLD.transpose(1, 2)))).transpose(1, 2)


class BaiduTransformer(nn.Module):
    """The tokens of all streams in one encoder, the maximum over them, one linear layer."""

    def __init__(self, config: BaiduConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.streams = nn.ModuleDict({name: _Tokens(width, d) for name, width in config.widths.items()})
        self.register_buffer("positions", sinusoids(config.rows, d), persistent=False)
        self.token_dropout = nn.Dropout(0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d, config.heads, config.feed_forward, dropout=0.1, batch_first=True)
            for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(d, 1 + len(config.labels))

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return the scores before the sigmoid, (B, 1 + C)."""
        positions = self.get_buffer("positions")
        # the imitation marks a token's stream by adding the stream's number
        tokens = [stream(rows[name]) + positions + mark for mark, (name, stream) in enumerate(self.streams.items())]
        x = self.token_dropout(torch.cat(tokens, 1))  # (B, E·L, d)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.out(self.dropout(x.amax(1)))
        return logits

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, 1 + C) in [0, 1].

        Args:
            rows: modality stream → float32 (B, L, D).
        """
        return torch.sigmoid(self.logits(rows))


def sinusoids(rows: int, width: int) -> Tensor:
    """Return the positional encoding (rows, width): sines in the even columns, cosines in the odd ones.

    Source: Vaswani et al., "Attention Is All You Need", section 3.5.
    """
    pace = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(rows)[:, None] * pace
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width]
