"""The whole demo network: front ends and HMTAS, as one trainable module.

Shapes: B clips, T seconds, N pictures, H W picture, S samples, L window rows, D width, C labels.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.labels import SOCCERNET_LABELS
from training.data.clips import Batch, cut
from training.data.soccernet import Half
from training.models.frontends import AudioFrontEnd, VisualFrontEnd
from training.models.hmtas import CLASS_WEIGHTS, Hmtas, HmtasConfig, displacement_loss, hmtas_loss, weighted_nll
from training.scoring import Scored

if TYPE_CHECKING:
    from training.recipes.demo import DemoRecipe

VISUAL, AUDIO = "visual", "audio"


class DemoNet(nn.Module):
    """Front ends over each second, HMTAS over each window of rows."""

    def __init__(self, recipe: "DemoRecipe") -> None:
        super().__init__()
        p = recipe.pictures
        self.recipe = recipe
        self.visual = VisualFrontEnd(
            p.rate,
            p.height,
            p.width,
            recipe.visual_channels,
            d_out=recipe.visual_width,
            dropout=recipe.row_dropout,
        )
        self.audio = AudioFrontEnd(d_out=recipe.audio_width, dropout=recipe.row_dropout)
        self.head = Hmtas(
            HmtasConfig(
                widths={VISUAL: recipe.visual_width, AUDIO: recipe.audio_width},
                rows=recipe.rows,
                look_ahead=recipe.look_ahead_rows,
                d_model=recipe.d_model,
                heads=recipe.heads,
                layers=recipe.layers,
                feed_forward=recipe.feed_forward,
                dropout=recipe.dropout,
                readout=recipe.readout,
                positions=True,
                max_displacement_s=recipe.max_displacement_s,
            )
        )
        # each row's own guess, for training alone: it teaches the front ends before the head has learned to listen
        self.guess = nn.ModuleDict(
            {name: nn.Linear(width, 1 + len(SOCCERNET_LABELS)) for name, width in self.head.config.widths.items()}
        )
        self.register_buffer("weights", torch.tensor([1.0, *(CLASS_WEIGHTS[label] for label in SOCCERNET_LABELS)]))

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """Return each stream's rows (B, T, D); rows without media are zeros, as they are live."""
        b, t = batch.video_valid.shape
        visual = self.visual(batch.pictures.flatten(0, 1)).view(b, t, -1)
        audio = self.audio(batch.samples.flatten(0, 1)).view(b, t, -1)
        return {VISUAL: visual * batch.video_valid[..., None], AUDIO: audio * batch.audio_valid[..., None]}

    def windows(self, rows_BTD: Tensor) -> Tensor:
        """Return the window (B·T, L, D) of every row; rows before and after the clip are zeros."""
        padded = F.pad(rows_BTD, (0, 0, self.recipe.look_behind_rows, self.recipe.look_ahead_rows))
        return padded.unfold(1, self.recipe.rows, 1).transpose(2, 3).flatten(0, 1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the training loss over the rows whose look-ahead lies within the clip, and its parts."""
        rows = self.rows(batch)
        seen = batch.video_valid.clone()
        seen[:, seen.shape[1] - self.recipe.look_ahead_rows :] = 0
        keep = seen.flatten() > 0
        scores, shift, own = self.head({name: self.windows(x)[keep] for name, x in rows.items()})
        targets, true_shift = batch.targets.flatten(0, 1)[keep], batch.shift.flatten(0, 1)[keep]
        spotting = hmtas_loss(scores, own, targets, self.get_buffer("weights"))
        placing = displacement_loss(shift, true_shift, targets[:, 1:])
        weights = self.get_buffer("weights")
        guesses = [torch.sigmoid(self.guess[name](x.flatten(0, 1)[keep])) for name, x in rows.items()]
        guessing = torch.stack([weighted_nll(g, targets, weights) for g in guesses]).mean()
        total = spotting + self.recipe.guess_share * guessing + self.recipe.displacement_share * placing
        return total, {"spotting": spotting.item(), "guess": guessing.item(), "displacement": placing.item()}

    @torch.no_grad()
    def scores_of(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return scores (T, C) and displacement (T, C) of one half's rows (T, D)."""
        windows = {name: self.windows(x[None]) for name, x in rows.items()}
        scores, shift, _ = self.head(windows)
        return scores[:, 1:], shift


_BLOCK_S = 32


@torch.no_grad()
def rows_of(net: DemoNet, half: Half) -> dict[str, torch.Tensor]:
    """Return each stream's rows (T, D) on the grid of whole seconds."""
    net.eval()
    blocks: list[dict[str, torch.Tensor]] = []
    rate = half.spec.rate
    for first in range(0, half.seconds, _BLOCK_S):
        t = min(_BLOCK_S, half.seconds - first)
        pictures, samples, valid = cut(half, first * rate, t)
        ones = torch.from_numpy(valid.astype(np.float32))[None]
        nothing = torch.zeros(0)
        batch = Batch(torch.from_numpy(pictures)[None], torch.from_numpy(samples)[None], ones, ones, nothing, nothing)
        blocks.append({name: rows[0] for name, rows in net.rows(batch).items()})
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


@torch.no_grad()
def score(net: DemoNet, half: Half, rows: Mapping[str, torch.Tensor] | None = None) -> Scored:
    """Return a half's scores; from `rows` if given, else from its pictures and sound."""
    net.eval()
    scores, shift = net.scores_of(dict(rows) if rows is not None else rows_of(net, half))
    middles = (np.arange(len(scores)) * 1_000_000 + 500_000)[:, None]
    times = np.maximum(middles + np.round(shift.numpy().astype(np.float64) * 1000).astype(np.int64) * 1000, 0)
    return Scored(half.actions, scores.numpy(), times)
