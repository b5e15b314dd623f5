"""RMS-Net: what happened in a window and how far into it, by temporal convolutions; loss, targets and decoding.

Source: Tomei et al., "RMS-Net: Regression and Masking for Soccer Event Spotting", and its code (`models/resnet.py`,
`train.py`, `data/load_data_utils.py`). Windows are 41 frames at 2 a second; the code fine-tunes a ResNet-50 on them.

What differs from the original code:
- background is column 0 here, the last one there;
- an offset decodes to the row it was made from. There, frames are numbered from 1 and the window's length is
  multiplied without taking the half row off again, so a perfect offset comes out 0.75 s late;
- masking is in the paper and not in the code ("not tested" on 17 labels). What is known of it is that frames before
  the action are hidden at training; that all of them are, with one probability a window, and that a hidden row is
  zeros, is our reading.

Shapes: B windows, L rows, D width, C labels (column 0 is background).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS

OFFSET_WEIGHT = 10.0
"""Weight of the offset's squared error against the cross-entropy. Source: `train.py`, `--lam`."""

INTS = NDArray[np.int64]
FLOATS = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RmsNetConfig:
    """What an RMS-Net is made of; the defaults are the published ones."""

    widths: Mapping[str, int]
    """Modality stream → width of its rows (of what the backbone makes of them, where there is one)."""
    rows: int = 41
    """Window length L."""
    channels: tuple[int, int] = (512, 256)
    """Of the two temporal convolutions."""
    hidden: int = 128
    dropout: float = 0.1
    labels: tuple[str, ...] = SOCCERNET_LABELS


class RmsNet(nn.Module):
    """Two temporal convolutions, the maximum over time, one hidden layer; label and offset from the same features.

    Args:
        config: sizes.
        backbone: module that takes frames (B·L, …) to embeddings (B·L, D), shared by all streams and trained along
            with its batch norms frozen; None when rows are embeddings already.
    """

    def __init__(self, config: RmsNetConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        first, second = config.channels
        self.temporal_1 = nn.Conv1d(sum(config.widths.values()), first, 9, padding=4)
        self.temporal_2 = nn.Conv1d(first, second, 9, padding=4)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(second, config.hidden)
        self.out = nn.Linear(config.hidden, 1 + len(config.labels))
        self.offset = nn.Linear(config.hidden, 1)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the backbone's batch norms stay as they were trained."""
        super().train(mode)
        for module in self.backbone.modules() if self.backbone is not None else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def logits_and_offset(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the scores before the softmax (B, 1 + C), and how far into the window the action is, (B,) in [0, 1].

        Args:
            rows: modality stream → float32 (B, L, D), or frames (B, L, …) where there is a backbone.
        """
        x = torch.cat([self._embed(rows[name]) for name in self.config.widths], 2).transpose(1, 2)  # (B, D, L)
        x = F.relu(self.temporal_2(F.relu(self.temporal_1(x))))
        x = F.relu(self.hidden(self.dropout(x).amax(2)))
        return self.out(x), torch.sigmoid(self.offset(x))[:, 0]

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, 1 + C) in [0, 1]; they add up to 1."""
        return torch.softmax(self.logits_and_offset(rows)[0], 1)

    def _embed(self, rows: Tensor) -> Tensor:
        if self.backbone is None:
            return rows
        embedded: Tensor = self.backbone(rows.flatten(0, 1))
        return embedded.view(*rows.shape[:2], -1)


def rmsnet_loss(logits_BC: Tensor, offset_B: Tensor, columns_B: Tensor, true_offset_B: Tensor) -> Tensor:
    """Return the cross-entropy plus ten times the offset's squared error over the windows that hold an action.

    Args:
        logits_BC: scores before the softmax.
        offset_B: offset in [0, 1].
        columns_B: int64, the right column; 0 is background.
        true_offset_B: as `shifted_clips` gives it; not read where the column is 0.

    Source: `train.py`. Without an action in the batch the second term is 0.
    """
    holds = (columns_B != 0).to(offset_B.dtype)
    error = ((offset_B - true_offset_B) ** 2 * holds).sum() / holds.sum().clamp(min=1)
    return F.cross_entropy(logits_BC, columns_B) + OFFSET_WEIGHT * error


def shifted_clips(
    action_rows: Sequence[int] | INTS, labels: Sequence[int] | INTS, rows: int
) -> tuple[INTS, INTS, FLOATS]:
    """Return every clip that holds each action, one for each place it can have in the clip.

    Args:
        action_rows: row of the half that each action is in.
        labels: label of each action, 0 to C − 1.
        rows: clip length L.

    Returns:
        For each clip, L an action: its first row (before the half's start or past its end where the action is near
        them), its column (label + 1), and the action's offset, (place + ½) / L; for odd L that is the original's
        0.5 − shift / L with shifts of −(L−1)/2 to (L−1)/2.

    Source: `data/load_data_utils.py: augment_training`.
    """
    place = np.arange(rows)
    starts = np.asarray(action_rows, np.int64)[:, None] - place
    columns = np.repeat(np.asarray(labels, np.int64) + 1, rows)
    offsets = np.tile(((place + 0.5) / rows).astype(np.float32), len(starts))
    return starts.ravel(), columns, offsets


def background_clips(action_rows: Sequence[int] | INTS, half_rows: int, rows: int) -> INTS:
    """Return the first rows of clips side by side that stay more than `rows` rows away from every action.

    Source: `data/load_data_utils.py: load_background_train`. Differs: clips begin at the half's first row and may
    end at its last; there, 21 rows at the start and 41 at the end are left out.
    """
    edges = [-(rows + 1), *sorted(int(row) for row in action_rows), half_rows + rows]
    stretches = [
        np.arange(before + rows + 1, after - 2 * rows + 1, rows) for before, after in itertools.pairwise(edges)
    ]
    return np.concatenate(stretches).astype(np.int64)


def hidden_rows(
    offsets_B: FLOATS, columns_B: INTS, rows: int, rng: np.random.Generator, probability: float = 0.5
) -> NDArray[np.bool_]:
    """Return which rows of a training batch to set to zero, bool (B, L): in some windows, all before the action's.

    Args:
        offsets_B: the actions' offsets.
        columns_B: the right columns; a background window (0) keeps all its rows.
        rows: window length L.
        rng: draws the windows.
        probability: how likely a window that holds an action is masked.

    Source: the paper's masking, in our reading (see the module's head); 0.5 is ours too.
    """
    place = np.floor(offsets_B * rows).astype(np.int64)
    chosen = (rng.random(len(offsets_B)) < probability) & (columns_B != 0)
    hidden: NDArray[np.bool_] = (np.arange(rows) < place[:, None]) & chosen[:, None]
    return hidden


def decode(scores_BC: FLOATS, offsets_B: FLOATS, rows: int) -> list[tuple[float, int, float] | None]:
    """Return what each window holds: (row, label, score), or None for background.

    Args:
        scores_BC: scores, background first.
        offsets_B: offsets in [0, 1].
        rows: window length L.

    Returns:
        The row is counted from the window's first and need not be whole; whole numbers are the rows' middles. The
        label is 0 to C − 1.

    Source: `train.py: validate` (windows there do not overlap). Differs: the row, see the module's head.
    """
    best = scores_BC.argmax(1)
    places = offsets_B.astype(float) * rows - 0.5
    return [
        (float(place), int(column) - 1, float(scores[column])) if column else None
        for place, column, scores in zip(places, best, scores_BC, strict=True)
    ]
