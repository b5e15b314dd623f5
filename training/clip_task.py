"""RMS-Net trained on feature files: which clips an epoch has, and how good the head is on the valid split.

Promises and batches of halves are those of `training.tasks`. A clip is a window whose answer may lie anywhere in it:
it is drawn with the place that its action has, and what is said of it is moved to that place.

Shapes: B clips of a batch, N of some halves, L rows of a clip, T rows of a half, C labels.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from engines.second import FLOAT32
from training.data.features import FeatureHalf, LoadedHalf, action_rows, blocks, gather
from training.fit import Training
from training.models.rmsnet import FLOATS, INTS, RmsNet, background_clips, hidden_rows, rmsnet_loss, shifted_clips
from training.scoring import Scored
from training.tasks import SCORING_BATCH, FeatureTask, Rows
from training.windows import scoring_windows


class ClipBatch(NamedTuple):
    """Clips: each stream's rows (B, L, D), the right columns (B,), 0 being background, and the offsets (B,)."""

    rows: dict[str, Tensor]
    columns: Tensor
    offsets: Tensor


class Clips(NamedTuple):
    """What can be drawn: of each clip its half, its first row, the right column and its action's offset."""

    which_N: INTS
    starts_N: INTS
    columns_N: INTS
    offsets_N: FLOATS

    def at(self, chosen: INTS) -> "Clips":
        """Return some of them."""
        return Clips(self.which_N[chosen], self.starts_N[chosen], self.columns_N[chosen], self.offsets_N[chosen])


def clips_of(halves: Sequence[FeatureHalf | LoadedHalf], labels: Sequence[str], rows: int) -> Clips:
    """Return every clip of some halves: each action at each place of a clip, and background far from all actions.

    Args:
        halves: the halves; their rows are not read.
        labels: order of the C labels.
        rows: clip length L.

    Source: RMS-Net, `data/load_data_utils.py`. Differs: an action is in the row of its millisecond, there in that of
    its whole second.
    """
    parts = []
    for which, half in enumerate(halves):
        actions = action_rows(half, labels)
        actions = actions[actions[:, 0] < half.length]
        starts, columns, offsets = shifted_clips(actions[:, 0], actions[:, 1], rows)
        background = background_clips(actions[:, 0], half.length, rows)
        starts = np.concatenate([starts, background])
        columns = np.concatenate([columns, np.zeros_like(background)])
        offsets = np.concatenate([offsets, np.zeros(len(background), np.float32)])
        parts.append((np.full(len(starts), which, np.int64), starts, columns, offsets))
    return Clips(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def answers(net: RmsNet, rows: Rows, rate: float) -> tuple[Tensor, Tensor]:
    """Return what is said of the row that each clip is for (see `scoring_windows`): scores and displacement (B, C).

    The displacement is in seconds from that row's middle to the action, the same for all labels. For odd L it is
    (offset − 0.5) · L / rate; a place r of the clip, offset (r + 0.5) / L, becomes the middle of its row r.

    Args:
        net: the network.
        rows: modality stream → (B, L, D).
        rate: rows a second.
    """
    logits, offset = net.logits_and_offset(rows)
    length = net.config.rows
    displacement = (offset * length - 0.5 - length // 2) / rate
    scores = torch.softmax(logits, 1)[:, 1:]
    return scores, displacement[:, None].expand_as(scores)


class ClipTask(FeatureTask):
    """RMS-Net on clips of L rows.

    Args:
        batch: clips in a batch.
        clips: of each label, and of background, in an epoch.
        training: says how long the learning rate has to fall.
        **shared: see FeatureTask.
    """

    def __init__(self, *, batch: int, clips: int, training: Training, **shared: Any) -> None:
        super().__init__(**shared)
        self._batch, self._clips, self._training = batch, clips, training
        self._counts = np.bincount(self._clips_of(self.train).columns_N, minlength=1 + len(self.labels))

    def batches(self, epoch: int) -> Iterator[ClipBatch]:
        """Yield the epoch's clips, as many of each label that occurs as of any other, shuffled within each block."""
        rng = self.rng(epoch)
        for block in blocks(self.train, self.seed, epoch):
            clips = self._clips_of(block)
            order = self._drawn(clips.columns_N, rng)
            for first in range(0, len(order), self._batch):
                yield self._taken(block, clips.at(order[first : first + self._batch]), rng)

    def loss(self, net: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """Return RMS-Net's loss."""
        assert isinstance(net, RmsNet)
        return rmsnet_loss(*net.logits_and_offset(batch.rows), batch.columns, batch.offsets), {}

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return a rise over the first epoch, then a cosine to nothing at the training's end.

        Source: `train.py`; by the step here.
        """
        epoch = math.ceil(self._clips * np.count_nonzero(self._counts) / self._batch)
        end = self._training.steps or epoch * (self._training.epochs or 0)

        def factor(step: int) -> float:
            if step < epoch:
                return (step + 1) / epoch
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - epoch) / max(1, end - epoch)))

        return LambdaLR(optimizer, factor)

    def score(self, net: nn.Module, half: LoadedHalf) -> Scored:
        """Return the scores of every row of a half, each at the time that its clip's offset says."""
        assert isinstance(net, RmsNet)
        index = np.minimum(scoring_windows(half.length + 1, net.config.rows), half.length - 1)
        device = next(net.parameters()).device
        parts = [
            answers(net, _tensors(half.window(index[first : first + SCORING_BATCH]), device), half.rate)
            for first in range(0, half.length, SCORING_BATCH)
        ]
        scores_TC, shift_TC = (torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True))
        middles_us = np.round((np.arange(half.length) + 0.5) / half.rate * 1e6).astype(np.int64)
        shift_us = np.round(shift_TC.astype(np.float64) * 1000).astype(np.int64) * 1000  # whole ms, as the live path
        return Scored(half.actions, scores_TC, np.maximum(middles_us[:, None] + shift_us, 0))

    def half_loss(self, net: nn.Module, half: LoadedHalf) -> float:
        """Return the mean loss on clips of a half, the same ones every time; 0 where it has none."""
        clips = self._clips_of([half])
        count = min(len(clips.starts_N), SCORING_BATCH)
        if not count:
            return 0.0
        chosen = np.random.default_rng(0).choice(len(clips.starts_N), count, replace=False)
        batch = self._taken([half], clips.at(chosen))
        device = next(net.parameters()).device
        rows = {name: x.to(device) for name, x in batch.rows.items()}
        return self.loss(net, ClipBatch(rows, batch.columns.to(device), batch.offsets.to(device)))[0].item()

    def _clips_of(self, halves: Sequence[FeatureHalf | LoadedHalf]) -> Clips:
        assert isinstance(self.net, RmsNet)
        return clips_of(halves, self.labels, self.net.config.rows)

    def _drawn(self, columns_N: INTS, rng: np.random.Generator) -> INTS:
        """Return which clips of a block an epoch has: of each column the block's share, in any order."""
        drawn = [np.empty(0, np.int64)]
        for column in np.unique(columns_N):
            found = np.flatnonzero(columns_N == column)
            count = round(self._clips * len(found) / self._counts[column])
            drawn.append(rng.choice(found, count, replace=count > len(found)))
        return rng.permutation(np.concatenate(drawn))

    def _taken(self, block: Sequence[LoadedHalf], clips: Clips, rng: np.random.Generator | None = None) -> ClipBatch:
        """Return a batch of clips; with a generator some are masked. Both ends of a half repeat their row."""
        assert isinstance(self.net, RmsNet)
        length = self.net.config.rows
        last_N = np.array([half.length - 1 for half in block])[clips.which_N]
        index_NL = np.clip(clips.starts_N[:, None] + np.arange(length), 0, last_N[:, None])
        rows = gather(block, clips.which_N, index_NL)
        if rng is not None:
            hidden_NL = hidden_rows(clips.offsets_N, clips.columns_N, length, rng)
            for x in rows.values():
                x[hidden_NL] = 0
        return ClipBatch(_tensors(rows), torch.from_numpy(clips.columns_N), torch.from_numpy(clips.offsets_N))


def _tensors(arrays: Mapping[str, FLOAT32], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
