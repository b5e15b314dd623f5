"""HMTAS trained to decide live, on feature files: windows around a row, seen at several look-aheads.

Promises and batches of halves are those of `training.tasks`; dropout draws from torch's generator, whose state a
checkpoint keeps. A window is the one that the live path forms around its row, with zeros beyond both ends of a half.
A step sees its windows whole, at the largest look-ahead, and cut after a smaller one, so that one network learns what
to say at each; the largest one's scores, which know more, also teach the smaller.

Shapes: B windows, L their rows, T rows of a half, D width of a stream's rows, C labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from engines.second import FLOAT32
from training.data.clips import row_targets
from training.data.features import INT, LoadedHalf, blocks, gather
from training.fit import Training
from training.models.hmtas import Hmtas, displacement_loss, hmtas_loss
from training.scoring import Scored, measure
from training.tasks import SCORING_BATCH, FeatureTask, Rows

VALIDATION_RADIUS_S = 1.5
"""NMS radius of the scores that training watches; what the bundle decides with is chosen afterwards."""


class RowBatch(NamedTuple):
    """Windows of a step, and what is true of the row that each is for.

    Attributes:
        rows: each stream's rows (B, L, D), for the largest look-ahead.
        targets: (B, 1 + C), background first.
        shift: (B, C), seconds from the row's middle to the action.
        look_aheads: those that the step trains, rows, the largest first.
    """

    rows: dict[str, Tensor]
    targets: Tensor
    shift: Tensor
    look_aheads: tuple[int, ...]


def windows_around(
    block: Sequence[LoadedHalf], which_B: INT, row_B: INT, look_behind: int, look_ahead: int
) -> dict[str, FLOAT32]:
    """Return each stream's rows (B, L, D) around some rows, with zeros beyond the ends, as the live path has them.

    Args:
        block: loaded halves with the same streams.
        which_B: of each window, its half's place in the block.
        row_B: the row that it is for.
        look_behind: how many rows come before that.
        look_ahead: how many come after it.
    """
    index_BL = row_B[:, None] + np.arange(-look_behind, look_ahead + 1)
    last_B1 = np.array([half.length - 1 for half in block])[which_B][:, None]
    windows = gather(block, which_B, np.clip(index_BL, 0, last_B1))
    for x in windows.values():
        x[(index_BL < 0) | (index_BL > last_B1)] = 0
    return windows


def half_targets(half: LoadedHalf, labels: Sequence[str], reach_s: float) -> tuple[FLOAT32, FLOAT32]:
    """Return a half's targets (T, 1 + C) and shifts (T, C) in seconds; see `row_targets`, which has a row a second."""
    in_rows = [replace(action, time_s=action.time_s * half.rate) for action in half.actions]
    targets, shift = row_targets(in_rows, labels, 0.0, half.length, reach_s * half.rate)
    return targets, (shift / half.rate).astype(np.float32)


class RowTask(FeatureTask):
    """An HMTAS with readout "row", at one look-ahead or several.

    Args:
        net: the network; its config says how many rows it sees.
        batch: windows in a batch.
        reach_s: a row is positive for an action less than this from its middle.
        weights: of the scores' columns in the loss (1 + C).
        displacement_share: weight of the displacement loss beside the thesis's loss.
        distil_share: share of the largest look-ahead's scores in what the smaller are taught; the rest is the truth.
        row_dropout: dropout of the rows' values.
        stream_dropped: share of windows in which a stream is missing, which live is zeros.
        warm_up: share of the training in which the learning rate rises.
        training: says how long it takes.
        **shared: see FeatureTask.
    """

    def __init__(
        self,
        *,
        net: Hmtas,
        batch: int,
        reach_s: float,
        weights: Tensor,
        displacement_share: float,
        distil_share: float,
        row_dropout: float,
        stream_dropped: float,
        warm_up: float,
        training: Training,
        **shared: Any,
    ) -> None:
        super().__init__(net=net, **shared)
        self.look_behind = net.config.look_behind
        self.look_aheads = net.config.look_aheads or (net.config.look_ahead,)
        self._batch, self._reach_s, self._weights = batch, reach_s, weights
        self._displacement_share = displacement_share if net.displacement is not None else 0.0
        self._distil_share = distil_share
        self._row_dropout, self._stream_dropped = row_dropout, stream_dropped
        self._warm_up, self._training = warm_up, training

    def batches(self, epoch: int) -> Iterator[RowBatch]:
        """Yield the epoch's windows, one around each row, shuffled within each block; a last part of a batch is left.

        What is left out is other rows in each epoch, and all steps weigh the same.
        """
        rng = self.rng(epoch)
        for block in blocks(self.train, self.seed, epoch):
            lengths = [half.length for half in block]
            which, row = np.repeat(np.arange(len(block)), lengths), np.concatenate([np.arange(n) for n in lengths])
            targets, shift = (
                np.concatenate(arrays)
                for arrays in zip(*(half_targets(half, self.labels, self._reach_s) for half in block), strict=True)
            )
            order = rng.permutation(len(row))
            for first in range(0, len(order) - self._batch + 1, self._batch):
                chosen = order[first : first + self._batch]
                windows = windows_around(block, which[chosen], row[chosen], self.look_behind, self.look_aheads[-1])
                for x in windows.values():
                    x[rng.random(self._batch) < self._stream_dropped] = 0
                yield RowBatch(
                    _tensors(windows),
                    torch.from_numpy(targets[chosen]),
                    torch.from_numpy(shift[chosen]),
                    self._some(rng),
                )

    def loss(self, net: nn.Module, batch: RowBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the mean over the step's look-aheads of HMTAS's loss and the displacement's."""
        rows = {name: F.dropout(x, self._row_dropout, net.training) for name, x in batch.rows.items()}
        weights, targets, total = self._weights.to(batch.targets.device), batch.targets, torch.zeros(())
        for look_ahead in batch.look_aheads:
            scores, shift, own = net(self._cut(rows, look_ahead))
            total = total + hmtas_loss(scores, own, targets, weights)
            if self._displacement_share:
                total = total + self._displacement_share * displacement_loss(shift, batch.shift, batch.targets[:, 1:])
            if look_ahead == self.look_aheads[-1]:
                targets = torch.lerp(targets, unweighted(scores.detach(), weights), self._distil_share)
        return total / len(batch.look_aheads), {}

    def schedule(self, optimizer: Optimizer) -> OneCycleLR:
        """Return one cycle over the whole training."""
        epoch = sum(half.length for half in self.train) // self._batch
        steps = self._training.steps or epoch * (self._training.epochs or 0)
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=max(1, steps), pct_start=self._warm_up)

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Return tight Average-mAP at each look-ahead ("score_<rows>"), their mean ("score"), and the mean loss."""
        if not self.valid:
            return {}
        found: dict[int, list[Scored]] = {look_ahead: [] for look_ahead in self.look_aheads}
        losses = []
        for half in self.valid:
            loaded = half.load()
            losses.append(self.half_loss(net, loaded))
            for look_ahead, scored in found.items():
                scored.append(self.score(net, loaded, look_ahead))
        radii = dict.fromkeys(self.labels, VALIDATION_RADIUS_S)
        scores = {f"score_{k}": measure(scored, self.labels, radii).overall.mean for k, scored in found.items()}
        return {"score": float(np.mean(list(scores.values()))), **scores, "loss": float(np.mean(losses))}

    def score(self, net: nn.Module, half: LoadedHalf, look_ahead: int | None = None) -> Scored:
        """Return the scores of every row of a half, each at the time that its displacement says.

        Args:
            net: the network.
            half: the half.
            look_ahead: how many rows after a row are seen; None: the largest.
        """
        ahead = self.look_aheads[-1] if look_ahead is None else look_ahead
        device, parts = next(net.parameters()).device, []
        for first in range(0, half.length, SCORING_BATCH):
            row = np.arange(first, min(half.length, first + SCORING_BATCH))
            windows = windows_around([half], np.zeros_like(row), row, self.look_behind, ahead)
            parts.append(net(_tensors(windows, device))[:2])
        scores_TC, shift_TC = (torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True))
        middles_us = np.round((np.arange(half.length) + self.place) / half.rate * 1e6).astype(np.int64)
        shift_us = np.round(shift_TC.astype(np.float64) * 1000).astype(np.int64) * 1000  # whole ms, as the live path
        return Scored(half.actions, scores_TC[:, 1:], np.maximum(middles_us[:, None] + shift_us, 0))

    def half_loss(self, net: nn.Module, half: LoadedHalf) -> float:
        """Return the loss over all rows of a half at the largest look-ahead."""
        device, row = next(net.parameters()).device, np.arange(half.length)
        targets, shift = (torch.from_numpy(x).to(device) for x in half_targets(half, self.labels, self._reach_s))
        losses = []
        for part in np.array_split(row, -(-half.length // SCORING_BATCH)):
            windows = windows_around([half], np.zeros_like(part), part, self.look_behind, self.look_aheads[-1])
            batch = RowBatch(_tensors(windows, device), targets[part], shift[part], self.look_aheads[-1:])
            losses.append(self.loss(net, batch)[0].item() * len(part))
        return sum(losses) / half.length

    def _some(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Return the look-aheads of a step: the largest, and one of the others, if there are any."""
        *others, largest = self.look_aheads
        return (largest, int(rng.choice(others))) if others else (largest,)

    def _cut(self, rows: Rows, look_ahead: int) -> dict[str, Tensor]:
        """Return windows as they are when so many rows after the one that they are for have come."""
        return {name: x[:, : self.look_behind + 1 + look_ahead] for name, x in rows.items()}


def unweighted(scores_BC: Tensor, weights_C: Tensor) -> Tensor:
    """Return the probabilities of which scores learned under class weights are the best; the loss makes these of them.

    With weight w, `weighted_nll` is least at p = w·q / (w·q + 1 − q) for an action of probability q.
    """
    return scores_BC / (scores_BC + weights_C * (1 - scores_BC))


def _tensors(arrays: Mapping[str, FLOAT32], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
