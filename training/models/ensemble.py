"""Ensembles of spotting heads that score the same rows, say HMTAS with windows of 2, 3, 4 and 5 rows.

In: the scores of M models for the same T rows. Out: one score per row and label: a mean, a mean weighted by how good
each model is, or what a small transformer makes of three neighbouring rows (`Fusion`).

Source: HMTAS thesis, section 5.6 and Figure 5.22; `Model/model.py: EnsembleModel`, `train.py: testSpottingEnsemble`,
`loss.py: NLLLoss_weights_ensemble`. None of them beat HMTAS with L = 3 there (57.28 %; mean 56.98, weighted 56.86,
squared 56.87, learned 56.92). Where code and thesis disagree, and what is here:
- the code's weighted mean is the squared one alone; here both are.
- Fusion's attention runs over the three rows, as in the figure; the code's over the batch (`attention="batch"`).
- EnsembleModel has two more linear layers that nothing uses: 2,346 of its 902,571 parameters; left out.
- the code also knows weights per label, and the best model per label; the thesis does not report them; left out.
- the loss is the code's; the thesis says nothing of it. As committed, the code's ensemble cannot run.

Shapes: M models, T rows, B windows, C labels (no background anywhere).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from training.models.hmtas import column_weights, post_norm_encoder, weighted_nll
from training.windows import scoring_windows

FLOAT32 = NDArray[np.float32]

MEANS: Mapping[str, int] = {"mean": 0, "weighted": 1, "squared": 2}
"""Kind of mean → the power of each model's validation score that is its weight."""

FUSION_WEIGHTS: Mapping[str, float] = {
    label: {
        "Penalty": 20.0,
        "Substitution": 15.0,
        "Yellow card": 60.0,
        "Red card": 60.0,
        "Yellow->red card": 60.0,
    }.get(label, 10.0)
    for label in SOCCERNET_LABELS
}
"""Weights of the positive term of each label in Fusion's loss. Source: `loss.py: NLLLoss_weights_ensemble`."""


def mean_scores(scores_MTC: FLOAT32, validation_scores_M: Sequence[float], kind: str = "mean") -> FLOAT32:
    """Return the mean (T, C) of several models' scores.

    Args:
        scores_MTC: float32 (M, T, C) in [0, 1].
        validation_scores_M: how good each model is, say its Average-mAP on the valid split. (The code has 0.541,
            0.5728, 0.5187, 0.5351 for L = 2, 3, 4, 5; the second is what the thesis reports of the test split.)
        kind: "mean", "weighted" by that, or by its square ("squared").

    Raises:
        UsageError: there is no such kind.
        ValueError: there is not one validation score per model, or they cannot serve as weights.
    """
    if kind not in MEANS:
        raise UsageError(f"There is no ensemble {kind!r}; accepted: {', '.join(MEANS)}.")
    weights_M = np.asarray(validation_scores_M, np.float64)
    if weights_M.shape != scores_MTC.shape[:1]:
        raise ValueError(f"{len(scores_MTC)} models, but {weights_M.size} validation scores")
    weights_M = weights_M ** MEANS[kind]
    if (weights_M < 0).any() or not weights_M.sum() > 0:
        raise ValueError("validation scores must be 0 or more, and one of them more than 0")
    return np.average(scores_MTC, axis=0, weights=weights_M).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """What a learned fusion is made of; the defaults are the original's."""

    models: int = 4
    """How many models' scores come in; each has an attention head."""
    rows: int = 3
    """How many neighbouring rows it looks at."""
    layers: int = 3
    feed_forward: int = 2048
    attention: str = "window"
    """"window" or, to check weights that the original trained, "batch"; as `HmtasConfig.attention`."""
    labels: tuple[str, ...] = SOCCERNET_LABELS


class Fusion(nn.Module):
    """Learned fusion: an encoder over neighbouring rows of all models' scores, their maximum, a linear layer."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.models * len(config.labels)
        self.encoder = post_norm_encoder(width, config.models, config.feed_forward, config.layers, config.attention)
        self.out = nn.Linear(width, len(config.labels))

    def forward(self, windows: Tensor) -> Tensor:
        """Return scores (B, C) in [0, 1].

        Args:
            windows: float32 (B, 3, M·C), as `fusion_windows` makes them.
        """
        return torch.sigmoid(self.out(self.encoder(windows).amax(1)).float())


def fusion_windows(scores_MTC: FLOAT32, rows: int = 3) -> FLOAT32:
    """Return Fusion's input (T - 1, 3, M·C): for each row all models' scores of the row before, of it, of the next.

    The last row has no window, and both ends repeat rows: quirks W1 and W2 of `training.windows`, a second time, so
    the original's fused scores end three rows before the half does. The targets are
    `training_targets(actions, T, length=1)[:, 1:]`: positive in the action's own row.
    """
    m, t, c = scores_MTC.shape
    side_by_side = scores_MTC.transpose(1, 0, 2).reshape(t, m * c)
    return side_by_side[scoring_windows(t, rows)]


def fusion_loss(scores_BC: Tensor, targets_BC: Tensor, weights_C: Tensor | None = None) -> Tensor:
    """Return the class-weighted loss of the fused scores.

    Args:
        scores_BC: what `Fusion` returned.
        targets_BC: float32, 1 where the row holds an action of the label.
        weights_C: weights of the positive term; None = `FUSION_WEIGHTS`, for SoccerNet-v2's labels.
    """
    if weights_C is None:
        weights_C = column_weights(FUSION_WEIGHTS)[1:].to(scores_BC)
    return weighted_nll(scores_BC, targets_BC, weights_C)
