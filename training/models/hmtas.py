"""HMTAS, a hierarchical multimodal transformer for action spotting, with the models it grew from: networks and loss.

Source: Xarles, "Action Spotting in Football Videos Using Multimodal Transformers" (the thesis), chapter 4 and section
5.4; its code is `Model/model.py` and `loss.py`. Each modality stream goes through a position-wise projection, a
transformer encoder over the window and a maximum over time; the streams' tokens go through a second encoder, a maximum
over the streams, dropout and a linear layer. Every stream can have an output of its own (intermediate supervision).
The rows M0 to M7 of the thesis's Table 5.2 are `thesis_model("m0", …)` to `thesis_model("m7", …)`.

Where code and thesis disagree, and what is here:
- attention: the thesis's runs over the window and over the streams, so it is the default; the code's runs over the
  batch (see `HmtasConfig.attention`).
- projection: "linear, ReLU, linear" in section 3.4; "batch normalisation and ReLU" in 4.1.1; in the code, and here, one
  linear map without bias, batch normalisation, ReLU.
- dropout of 0.4: before the linear layers alone in the thesis; in the code, and here, also before both encoders.
- audio: 512 wide in the thesis (Table 4.1), 128 in the code's last versions; any width goes here.
- loss: equation 4.1 has no minus sign; the code has it.

What is new here, each by a setting that is off by default:
- `readout="row"` takes the token of the row that the score is for, where the thesis takes the maximum over time
  ("max"). With a window that reaches seconds back, a maximum says that something happened, not when.
- `positions`: learned ones, added to the rows; the thesis has none (without them attention cannot tell before from
  after).
- `max_displacement_s` > 0 adds an output that says by how much the action is off the row's middle.
- `look_aheads`: one network for several look-aheads. It takes windows of as many rows as a look-ahead leaves it, and a
  learned vector for each tells it which that is; 0 means that the row the score is for is the last one seen.

Shapes: B windows, L rows, D width of a stream's rows, d width of a token, E streams, C labels (column 0 of the scores
is background).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.windows import look_ahead_rows

CLASS_WEIGHTS: Mapping[str, float] = {
    label: {"Penalty": 20.0, "Substitution": 15.0, "Red card": 30.0, "Yellow->red card": 30.0}.get(label, 10.0)
    for label in SOCCERNET_LABELS
}
"""Weights of the positive term of each label; background has 1. Source: thesis, section 4.2.1; `loss.py`."""

MIX_SHARE = 0.7
"""Share of the loss on the final output; the streams' outputs share the rest. Source: `train.py`."""

ONE_STREAM = "all"
"""Name of the stream that holds all others side by side, where there is no hierarchy."""


@dataclass(frozen=True, slots=True)
class HmtasConfig:
    """What an HMTAS is made of; the defaults of the sizes are the thesis's."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows."""
    rows: int = 3
    """Window length L."""
    look_ahead: int = 1
    """How many of the rows lie after the one the score is for."""
    look_aheads: tuple[int, ...] = ()
    """Every look-ahead that the network is for, rising, the last one being `look_ahead`; empty: that one alone."""
    d_model: int = 512
    heads: int = 8
    layers: int = 2
    """Layers of each encoder; 0 = none, no projection either: the maximum of the rows themselves (M0, M1)."""
    feed_forward: int = 2048
    dropout: float = 0.4
    hierarchy: bool = True
    """A stream per modality and an encoder over the streams (M4 to M7), or all rows side by side as one stream."""
    intermediate: bool = True
    """Whether each stream of the hierarchy has an output of its own, which the loss supervises (M7)."""
    attention: str = "window"
    """What attention runs over: "window", the rows of a window and its streams, or "batch".

    "batch" reproduces the original code, whose encoders take the batch for the sequence: each row attends to the same
    row of the batch's other windows, so a score depends on what else is in the batch, and a window alone attends to
    itself. It serves to check weights that the original trained, and nothing else.
    """
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
        if self.look_aheads and self.look_aheads != tuple(sorted({*self.look_aheads, self.look_ahead})):
            raise ValueError(f"look_aheads are {self.look_aheads}; they must rise to look_ahead, {self.look_ahead}")
        if len(self.look_aheads) > 1 and self.readout != "row":
            raise ValueError("several look-aheads need readout 'row'")
        for name, value, accepted in (
            ("readout", self.readout, ("max", "row")),
            ("attention", self.attention, ("window", "batch")),
        ):
            if value not in accepted:
                raise ValueError(f"{name} is {value!r}; accepted: {', '.join(map(repr, accepted))}")
        if self.layers < 0:
            raise ValueError(f"layers is {self.layers}; at least 0 is needed")
        if self.layers == 0 and (self.hierarchy or self.positions):
            raise ValueError("a hierarchy of streams, or positions, without an encoder layer means nothing")
        if self.intermediate and not self.hierarchy:
            raise ValueError("intermediate supervision needs a hierarchy of streams")

    @property
    def look_behind(self) -> int:
        """How many of the rows lie before the one the score is for."""
        return self.rows - 1 - self.look_ahead


THESIS_MODELS: Mapping[str, str] = {
    "m0": "linear layer on the maximum of 7 rows, all visual streams side by side",
    "m1": "m0 with 3 rows",
    "m2": "m1 with a projection and 1 transformer layer before the maximum",
    "m3": "m2 with 2 transformer layers",
    "m4": "m3 with a hierarchy of streams",
    "m5": "m4 with class weights",
    "m6": "m5 with audio",
    "m7": "m6 with intermediate supervision: HMTAS",
}
"""The rows of the thesis's Table 5.2. Tight Average-mAP there, on the test split: 39.89, 42.59, 50.02, 50.11, 50.52,
55.05, 56.77, 57.28 %."""


@dataclass(frozen=True, slots=True)
class ThesisModel:
    """A row of the thesis's Table 5.2: the network, and the labels' weights in its loss (None = 1 each)."""

    config: HmtasConfig
    class_weights: Mapping[str, float] | None


def thesis_model(
    name: str, visual: Mapping[str, int], audio: Mapping[str, int], rows: int | None = None
) -> ThesisModel:
    """Return a row of the thesis's Table 5.2; its sizes are changed by `dataclasses.replace` on the config.

    Args:
        name: a key of `THESIS_MODELS`.
        visual: visual stream → width of its rows.
        audio: audio stream → width of its rows; used by m6 and m7.
        rows: window length L; without it the thesis's, 7 for m0 and 3 for the others (its ensemble has 2 to 5).

    Raises:
        UsageError: there is no such row.

    Source: thesis, section 5.4. No code is left of m0 to m5.
    """
    if name not in THESIS_MODELS:
        raise UsageError(f"There is no model {name!r} in the thesis's Table 5.2; accepted: {', '.join(THESIS_MODELS)}.")
    step = int(name[1:])
    if rows is None:
        rows = 7 if step == 0 else 3
    config = HmtasConfig(
        widths={**visual, **audio} if step >= 6 else dict(visual),
        rows=rows,
        look_ahead=look_ahead_rows(rows),
        layers=(0, 0, 1, 2)[min(step, 3)],
        hierarchy=step >= 4,
        intermediate=step >= 7,
    )
    return ThesisModel(config, CLASS_WEIGHTS if step >= 5 else None)


class _Stream(nn.Module):
    """One modality stream: rows (B, L, D) → token (B, d) and, if it has an output, its scores (B, 1 + C)."""

    def __init__(self, width: int, config: HmtasConfig) -> None:
        super().__init__()
        d = config.d_model
        self.dropout = nn.Dropout(config.dropout)
        self.row = config.look_behind if config.readout == "row" else None
        self.look_aheads = config.look_aheads
        self.encoder = None
        if config.layers:
            self.project = nn.Conv1d(width, d, 1, bias=False)
            self.norm = nn.BatchNorm1d(d)
            self.positions = nn.Parameter(torch.zeros(config.rows, d)) if config.positions else None
            several = len(config.look_aheads) > 1
            self.horizons = nn.Parameter(torch.zeros(len(config.look_aheads), d)) if several else None
            self.encoder = post_norm_encoder(d, config.heads, config.feed_forward, config.layers, config.attention)
        self.own = nn.Linear(d, 1 + len(config.labels)) if config.intermediate else None

    def forward(self, rows_BLD: Tensor) -> tuple[Tensor, Tensor | None]:
        x = rows_BLD
        if self.encoder is not None:
            x = F.relu(self.norm(self.project(x.transpose(1, 2)))).transpose(1, 2)  # (B, L, d)
            x = self.dropout(x)
            if self.positions is not None:
                x = x + self.positions[: x.shape[1]]
            if self.horizons is not None and self.row is not None:
                x = x + self.horizons[self.look_aheads.index(x.shape[1] - 1 - self.row)]
            x = self.encoder(x)
        token = x.amax(1) if self.row is None else x[:, self.row]
        return token, None if self.own is None else _sigmoid(self.own(self.dropout(token)))


class Hmtas(nn.Module):
    """The whole network, or one of the models it grew from; see the module's head for what differs from the thesis."""

    def __init__(self, config: HmtasConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths if config.hierarchy else {ONE_STREAM: sum(config.widths.values())}
        self.streams = nn.ModuleDict({name: _Stream(width, config) for name, width in widths.items()})
        self.dropout = nn.Dropout(config.dropout)
        d, c = config.d_model if config.layers else widths[ONE_STREAM], len(config.labels)
        self.mix = None
        if config.hierarchy:
            self.mix = post_norm_encoder(d, config.heads, config.feed_forward, config.layers, config.attention)
        self.out = nn.Linear(d, 1 + c)
        self.displacement = nn.Linear(d, c) if config.max_displacement_s > 0 else None
        self._init_weights()

    def _init_weights(self) -> None:
        """Start positions small, and displacement at none."""
        for name, parameter in self.streams.named_parameters():
            if name.endswith((".positions", ".horizons")):
                nn.init.normal_(parameter, std=0.02)
        if self.displacement is not None:
            nn.init.zeros_(self.displacement.weight)
            nn.init.zeros_(self.displacement.bias)

    def forward(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return scores (B, 1 + C), displacement (B, C) in seconds, and each stream's own scores.

        Without an output for it, displacement is zeros; without intermediate supervision there are no own scores.

        Args:
            rows: modality stream → float32 (B, L, D); missing rows are zeros. With several look-aheads L may be that
                of any of them: the rows before, the row that the score is for, and so many after it.
        """
        if not self.config.hierarchy:
            rows = {ONE_STREAM: torch.cat([rows[name] for name in self.config.widths], 2)}
        tokens, own = [], {}
        for name, stream in self.streams.items():
            token, scores = stream(rows[name])
            tokens.append(token)
            if scores is not None:
                own[name] = scores
        x = torch.stack(tokens, 1)  # (B, E, d)
        if self.mix is not None:
            x = self.mix(self.dropout(x))
        x = self.dropout(x.amax(1))  # (B, d)
        scores = _sigmoid(self.out(x))
        if self.displacement is None:
            return scores, torch.zeros_like(scores[:, 1:]), own
        return scores, torch.tanh(self.displacement(x)) * self.config.max_displacement_s, own


def _sigmoid(logits: Tensor) -> Tensor:
    """Return scores in float32: in half precision they round to 1, where there is no gradient."""
    return torch.sigmoid(logits.float())


def post_norm_encoder(
    width: int, heads: int, feed_forward: int, layers: int, attention: str = "window"
) -> nn.TransformerEncoder:
    """Return post-norm layers over (B, L, d), each with its own initial weights (nn.TransformerEncoder copies one).

    Args:
        width: d.
        heads: attention heads.
        feed_forward: width between a layer's two linear maps.
        layers: how many.
        attention: "window" to attend over L, "batch" over B (see `HmtasConfig`).
    """

    def layer() -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(width, heads, feed_forward, dropout=0.1, batch_first=attention == "window")

    encoder = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
    encoder.layers = nn.ModuleList([layer() for _ in range(layers)])
    return encoder


def column_weights(weights: Mapping[str, float] | None, labels: Sequence[str] = SOCCERNET_LABELS) -> Tensor:
    """Return the weights (1 + C) of the scores' columns: 1 for background, then each label's.

    Args:
        weights: label → weight; None = 1 each.
        labels: the C labels, in the columns' order.

    Raises:
        ValueError: a label has no weight.
    """
    if weights is None:
        return torch.ones(1 + len(labels))
    if absent := [label for label in labels if label not in weights]:
        raise ValueError(f"no class weight for {', '.join(absent)}")
    return torch.tensor([1.0, *(weights[label] for label in labels)])


def weighted_nll(scores_BC: Tensor, targets_BC: Tensor, weights_C: Tensor) -> Tensor:
    """Return the thesis's class-weighted loss: weights on the positive term only, mean over windows and columns.

    Source: thesis, equation 4.1 (whose minus sign is missing); `loss.py: NLLLoss_weights`. Differs: scores are kept
    off 0 and 1 by 1e-6, where the original gives infinity.
    """
    p = scores_BC.clamp(1e-6, 1 - 1e-6)
    return -(weights_C * targets_BC * torch.log(p) + (1 - targets_BC) * torch.log(1 - p)).mean()


def hmtas_loss(scores: Tensor, own: Mapping[str, Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    """Return 0.7 × the final output's loss + 0.3 × the mean of the streams'; without these the final output's alone.

    Source: thesis, section 4.2.1 (γ and 1 − γ); `train.py`, where the six streams have 0.05 each.
    """
    final = weighted_nll(scores, targets, weights)
    if not own:
        return final
    side = torch.stack([weighted_nll(s, targets, weights) for s in own.values()]).mean()
    return MIX_SHARE * final + (1 - MIX_SHARE) * side


def displacement_loss(shift_BC: Tensor, true_shift_BC: Tensor, positive_BC: Tensor) -> Tensor:
    """Return the smooth L1 error of the displacement, seconds, over the rows that hold an action."""
    error = F.smooth_l1_loss(shift_BC, true_shift_BC, reduction="none", beta=0.25)
    return (error * positive_BC).sum() / positive_BC.sum().clamp(min=1)
