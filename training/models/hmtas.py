"""HMTAS: a hierarchical multimodal transformer for action spotting, model and loss.

Source: Xarles, "Action Spotting in Football Videos Using Multimodal Transformers" (the thesis), sections 4.1–4.2:
each modality stream goes through a position-wise projection, a transformer encoder over the window and a pooling over
time; the streams' tokens go through a second encoder, a max over the streams and a linear layer. Every stream also
has an output of its own (intermediate supervision).

What differs, each by a setting:
- `readout="row"` takes the token of the row that the score is for, where the thesis takes the maximum over time
  ("max"). With a window that reaches seconds back, a maximum says that something happened, not when.
- learned positions are added to the rows; the thesis has none (without them attention cannot tell before from after).
- `max_displacement_s` > 0 adds an output that says by how much the action is off the row's middle.

Attention runs over the window and over the streams, as the thesis describes; the original code ran it over the batch.

Shapes: B windows, L rows, D width of a stream's rows, E streams, C labels (column 0 of the outputs is background).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS

CLASS_WEIGHTS: Mapping[str, float] = {
    label: {"Penalty": 20.0, "Substitution": 15.0, "Red card": 30.0, "Yellow->red card": 30.0}.get(label, 10.0)
    for label in SOCCERNET_LABELS
}
"""Weights of the positive term of each label; background has 1. Source: thesis, section 4.2.1; `loss.py`."""

MIX_SHARE = 0.7
"""Share of the loss on the final output; the streams' outputs share the rest. Source: `train.py`."""


@dataclass(frozen=True, slots=True)
class HmtasConfig:
    """What an HMTAS is made of; the defaults of the sizes are the thesis's."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 3
    """Window length L."""
    look_ahead: int = 1
    """How many of the rows lie after the one the score is for."""
    d_model: int = 512
    heads: int = 8
    layers: int = 2
    feed_forward: int = 2048
    dropout: float = 0.4
    readout: str = "max"
    positions: bool = False
    max_displacement_s: float = 0.0
    labels: tuple[str, ...] = field(default=SOCCERNET_LABELS)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if not 0 <= self.look_ahead < self.rows:
            raise ValueError(
                f"look_ahead is {self.look_ahead}; a window of {self.rows} rows allows 0 to {self.rows - 1}"
            )
        if self.readout not in ("max", "row"):
            raise ValueError(f"readout is {self.readout!r}; accepted: 'max', 'row'")


class _Stream(nn.Module):
    """One modality stream: rows (B, L, D) → token (B, d) and its own scores (B, 1 + C)."""

    def __init__(self, width: int, config: HmtasConfig) -> None:
        super().__init__()
        d = config.d_model
        self.project = nn.Conv1d(width, d, 1, bias=False)
        self.norm = nn.BatchNorm1d(d)
        self.dropout = nn.Dropout(config.dropout)
        self.positions = nn.Parameter(torch.zeros(config.rows, d)) if config.positions else None
        self.encoder = _encoder(config)
        self.row = config.rows - 1 - config.look_ahead if config.readout == "row" else None
        self.own = nn.Linear(d, 1 + len(config.labels))

    def forward(self, rows_BLD: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.norm(self.project(rows_BLD.transpose(1, 2)))).transpose(1, 2)  # (B, L, d)
        x = self.dropout(x)
        if self.positions is not None:
            x = x + self.positions
        x = self.encoder(x)
        token = x.amax(1) if self.row is None else x[:, self.row]
        return token, torch.sigmoid(self.own(self.dropout(token)))


class Hmtas(nn.Module):
    """The whole network; see the module's head for what differs from the thesis."""

    def __init__(self, config: HmtasConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict({name: _Stream(width, config) for name, width in config.widths.items()})
        self.dropout = nn.Dropout(config.dropout)
        self.mix = _encoder(config)
        self.out = nn.Linear(config.d_model, 1 + len(config.labels))
        self.displacement = nn.Linear(config.d_model, len(config.labels))
        self._init_weights()

    def _init_weights(self) -> None:
        """Background is common and actions are rare: start the outputs there. Positions start small."""
        for stream in self.streams.values():
            assert isinstance(stream, _Stream)
            if stream.positions is not None:
                nn.init.normal_(stream.positions, std=0.02)
        nn.init.zeros_(self.displacement.weight)
        nn.init.zeros_(self.displacement.bias)

    def forward(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return scores (B, 1 + C), displacement (B, C) in seconds, and each stream's own scores.

        Args:
            rows: modality stream → float32 (B, L, D); missing rows are zeros.
        """
        tokens, own = [], {}
        for name, stream in self.streams.items():
            token, own[name] = stream(rows[name])
            tokens.append(token)
        x = self.mix(self.dropout(torch.stack(tokens, 1)))  # (B, E, d)
        x = self.dropout(x.amax(1))  # (B, d)
        shift = torch.tanh(self.displacement(x)) * self.config.max_displacement_s
        return torch.sigmoid(self.out(x)), shift, own


def _encoder(config: HmtasConfig) -> nn.TransformerEncoder:
    """Return post-norm layers, each with its own initial weights (nn.TransformerEncoder copies one)."""

    def layer() -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(
            config.d_model, config.heads, config.feed_forward, dropout=0.1, batch_first=True
        )

    encoder = nn.TransformerEncoder(layer(), config.layers, enable_nested_tensor=False)
    encoder.layers = nn.ModuleList([layer() for _ in range(config.layers)])
    return encoder


def weighted_nll(scores_BC: Tensor, targets_BC: Tensor, weights_C: Tensor) -> Tensor:
    """Return the thesis's class-weighted loss: weights on the positive term only, mean over windows and columns.

    Source: thesis, equation 4.1 (whose minus sign is missing); `loss.py: NLLLoss_weights`. Differs: scores are kept
    off 0 and 1 by 1e-6, where the original gives infinity.
    """
    p = scores_BC.clamp(1e-6, 1 - 1e-6)
    return -(weights_C * targets_BC * torch.log(p) + (1 - targets_BC) * torch.log(1 - p)).mean()


def hmtas_loss(scores: Tensor, own: Mapping[str, Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    """Return 0.7 × the final output's loss + 0.3 × the mean of the streams' (thesis, section 4.2.1)."""
    side = torch.stack([weighted_nll(s, targets, weights) for s in own.values()]).mean()
    return MIX_SHARE * weighted_nll(scores, targets, weights) + (1 - MIX_SHARE) * side


def displacement_loss(shift_BC: Tensor, true_shift_BC: Tensor, positive_BC: Tensor) -> Tensor:
    """Return the smooth L1 error of the displacement, seconds, over the rows that hold an action."""
    error = F.smooth_l1_loss(shift_BC, true_shift_BC, reduction="none", beta=0.25)
    return (error * positive_BC).sum() / positive_BC.sum().clamp(min=1)
