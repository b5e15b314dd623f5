"""Heads trained on feature files: which windows or chunks an epoch has, and how good the head is on the valid split.

In: a network, halves of features, a seed. Out: the batches, loss and validation that `training.fit` asks for. Promise:
an epoch is drawn from (seed, epoch) alone; of the training data only two blocks are in memory at a time.

Shapes: B windows or chunks, L their rows, T rows of a half, D width of a stream's rows, C labels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from engines.second import FLOAT32
from training.chunks import (
    ChunkLayout,
    ChunkSampler,
    chunk_starts,
    chunk_targets,
    find_places,
    stitch,
    take_chunks,
)
from training.data.features import BLOCK_BYTES, FeatureHalf, LoadedHalf, action_rows, blocks, gather
from training.encodings import FLOAT64, decode_spotting, time_shifts
from training.models.calf import Calf
from training.sampling import balanced_indices, mix, mixing_shares
from training.scoring import Scored, measure
from training.windows import (
    scoring_windows,
    training_targets,
    training_windows,
    validation_targets,
    validation_windows,
)

VALIDATION_RADIUS_S = 3.0
"""NMS radius of the score that training watches; what the bundle decides with is chosen afterwards."""
SCORING_BATCH = 256

Halves = Sequence[FeatureHalf | LoadedHalf]
Rows = Mapping[str, Tensor]


def row_place(length: int) -> float:
    """Return where in its row the score of a window of so many rows belongs, from 0 (start) to 1.

    Windows of odd length are centred on the middle of the row they are for, those of even length on its start.
    """
    return 0.5 * (length % 2)


class WindowBatch(NamedTuple):
    """Windows: each stream's rows (B, L, D), and targets (B, 1 + C), background first."""

    rows: dict[str, Tensor]
    targets: Tensor


class ChunkBatch(NamedTuple):
    """Chunks: each stream's rows (B, L, D), time shifts (B, L, C) and what the anchors should say (B, A, 2 + C).

    The displacement (B, L, C) is in seconds from the row's middle to the label's nearest action, infinite where there
    is none or the row is not learned.
    """

    rows: dict[str, Tensor]
    shifts: Tensor
    anchors: Tensor
    displacement: Tensor


class FeatureTask:
    """What window and chunk heads share; see `training.task.Task`.

    Args:
        net: the head.
        train: halves to learn from.
        valid: halves to watch.
        labels: order of the C labels.
        seed: of the epochs' order.
        optimizer: makes the optimizer.
        plateau: epochs without a better validation loss until the learning rate is divided by ten; None: never.
    """

    def __init__(
        self,
        net: nn.Module,
        train: Halves,
        valid: Halves,
        labels: Sequence[str],
        seed: int,
        optimizer: Callable[[nn.Module], Optimizer],
        plateau: int | None = None,
    ) -> None:
        self.net, self.valid, self.labels, self.seed = net, valid, tuple(labels), seed
        fits = sum(half.nbytes for half in train) <= BLOCK_BYTES
        self.train: Halves = [half.load() for half in train] if fits else train
        self._optimizer, self._plateau = optimizer, plateau
        self.place = 0.5
        """Where in its row a score belongs."""
        self.about: dict[str, Any] = {}
        """What the recipe must still know when it writes the bundle."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """Return the epoch's batches."""
        raise NotImplementedError

    def loss(self, net: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and its parts."""
        raise NotImplementedError

    def optimizer(self, net: nn.Module) -> Optimizer:
        """Return the recipe's optimizer."""
        return self._optimizer(net)

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the plateau schedule, if the recipe has one."""
        if self._plateau is None:
            return None
        return ReduceLROnPlateau(optimizer, factor=0.1, patience=self._plateau, eps=1e-8)

    def state(self) -> dict[str, Any]:
        """Return nothing: an epoch depends on seed and epoch alone."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring nothing back."""

    def rng(self, epoch: int) -> np.random.Generator:
        """Return the generator of an epoch's draws."""
        return np.random.default_rng([self.seed, epoch, 1])

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Return tight Average-mAP ("score") and the mean loss on the valid split; nothing if it is empty."""
        if not self.valid:
            return {}
        scored, losses = [], []
        for half in self.valid:
            loaded = half.load()
            scored.append(self.score(net, loaded))
            losses.append(self.half_loss(net, loaded))
        result = measure(scored, self.labels, dict.fromkeys(self.labels, VALIDATION_RADIUS_S))
        known = [loss for loss in losses if loss is not None]
        return {"score": result.overall.mean} | ({"loss": float(np.mean(known))} if known else {})

    def score(self, net: nn.Module, half: LoadedHalf) -> Scored:
        """Return the scores of every row of a half, each at its time."""
        scores_TC = self.scores(net, half)
        times_us = np.round((np.arange(half.length) + self.place) / half.rate * 1e6).astype(np.int64)
        return Scored(half.actions, scores_TC, np.broadcast_to(times_us[:, None], scores_TC.shape))

    def scores(self, net: nn.Module, half: LoadedHalf) -> FLOAT32:
        """Return a half's scores (T, C)."""
        raise NotImplementedError

    def half_loss(self, net: nn.Module, half: LoadedHalf) -> float | None:
        """Return the mean loss on a half; None where there is nothing to learn from in it."""
        raise NotImplementedError


class WindowTask(FeatureTask):
    """A head that scores windows of L rows.

    Args:
        rows: L.
        every: a window from each row on (HMTAS), or windows side by side, shifted anew in each epoch (pooling family;
            its original never shifts them).
        batch: windows in a batch.
        loss: (net, rows, targets) → loss.
        window_scores: (net, rows) → (B, 1 + C).
        draw: (rng, targets) → which windows an epoch's block has, in order; a permutation of all unless given.
        mixup: alpha of balanced mix-up (`training.sampling`); None: no mixing.
        **shared: see FeatureTask.
    """

    def __init__(
        self,
        *,
        rows: int,
        every: bool,
        batch: int,
        loss: Callable[[nn.Module, Rows, Tensor], Tensor],
        window_scores: Callable[[nn.Module, Rows], Tensor],
        draw: Callable[[np.random.Generator, FLOAT32], np.ndarray] | None = None,
        mixup: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.place = row_place(rows)
        self._rows, self._every, self._batch = rows, every, batch
        self._loss, self._window_scores = loss, window_scores
        self._draw = draw or (lambda rng, targets: rng.permutation(len(targets)))
        self._mixup = mixup

    def batches(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield the epoch's windows, shuffled within each block of halves."""
        rng = self.rng(epoch)
        for block in blocks(self.train, self.seed, epoch):
            parts = [self._windows(half, int(rng.integers(self._rows))) for half in block]
            which = np.repeat(np.arange(len(block)), [len(index) for index, _ in parts])
            index, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            order = self._draw(rng, targets)
            for first in range(0, len(order), self._batch):
                chosen = order[first : first + self._batch]
                if len(chosen) == 1:
                    continue  # batch normalisation needs two
                batch = _window_batch(block, which, index, targets, chosen)
                if self._mixup is not None:
                    others = _window_batch(block, which, index, targets, balanced_indices(targets, len(chosen), rng))
                    share = mixing_shares(len(chosen), self._mixup, rng)
                    batch = WindowBatch(
                        mix(batch.rows, others.rows, share),
                        mix({"targets": batch.targets}, {"targets": others.targets}, share)["targets"],
                    )
                yield batch

    def loss(self, net: nn.Module, batch: WindowBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the head's own loss."""
        return self._loss(net, batch.rows, batch.targets), {}

    def scores(self, net: nn.Module, half: LoadedHalf) -> FLOAT32:
        """Return a half's scores (T, C); other than the originals, which leave out the last row, of every row."""
        index = np.minimum(scoring_windows(half.length + 1, self._rows), half.length - 1)
        device = next(net.parameters()).device
        parts = [
            self._window_scores(net, _tensors(half.window(index[first : first + SCORING_BATCH]), device))[:, 1:].cpu()
            for first in range(0, half.length, SCORING_BATCH)
        ]
        scores: FLOAT32 = torch.cat(parts).numpy()
        return scores

    def half_loss(self, net: nn.Module, half: LoadedHalf) -> float:
        """Return the mean loss over windows side by side."""
        index = validation_windows(half.length, self._rows)
        targets = validation_targets(action_rows(half, self.labels), half.length, self._rows, len(self.labels))
        device = next(net.parameters()).device
        return self._loss(net, _tensors(half.window(index), device), _tensor(targets).to(device)).item()

    def _windows(self, half: LoadedHalf, shift: int) -> tuple[np.ndarray, FLOAT32]:
        """Return the windows of a half and their targets."""
        actions = action_rows(half, self.labels)
        if self._every:
            index = training_windows(half.length, self._rows)
            return index, training_targets(actions, half.length, self._rows, len(self.labels))
        length = half.length - max(0, min(shift, half.length - 2))
        first = half.length - length
        later = actions[actions[:, 0] >= first] - [first, 0]
        index = validation_windows(length, self._rows) + first
        return index, validation_targets(later, length, self._rows, len(self.labels))


class ChunkTask(FeatureTask):
    """CALF on chunks of L rows.

    Args:
        layout: length and border of the chunks.
        k_4C: bounds of the labels' contexts, in rows.
        anchors: A, output slots.
        batch: chunks in a batch.
        chunks: chunks in an epoch.
        loss: (net, batch) → loss.
        **shared: see FeatureTask.
    """

    def __init__(
        self,
        *,
        layout: ChunkLayout,
        k_4C: FLOAT64,
        anchors: int,
        batch: int,
        chunks: int,
        loss: Callable[[nn.Module, ChunkBatch], tuple[Tensor, dict[str, float]]],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self._layout, self._k_4C, self._anchors = layout, k_4C, anchors
        self._batch, self._chunks, self._loss = batch, chunks, loss

    def batches(self, epoch: int) -> Iterator[ChunkBatch]:
        """Yield the epoch's chunks, each label as likely as any other."""
        rng, total = self.rng(epoch), len(self.train)
        for block in blocks(self.train, self.seed, epoch):
            shifts = [self._shifts(half) for half in block]
            if not any(len(find_places(half, self._k_4C, self._layout)) for half in shifts):
                continue
            sampler = ChunkSampler(shifts, self._k_4C, self._layout)
            nearest = [self._nearest(half) for half in block]
            for _ in range(max(1, round(self._chunks * len(block) / total / self._batch))):
                yield self._draw(block, shifts, nearest, sampler, rng)

    def loss(self, net: nn.Module, batch: ChunkBatch) -> tuple[Tensor, dict[str, float]]:
        """Return CALF's loss and its parts."""
        return self._loss(net, batch)

    def score(self, net: nn.Module, half: LoadedHalf) -> Scored:
        """Return a half's scores, stitched from its chunks, at the times that displacement gives the rows.

        Scores are zero where no anchor points.
        """
        assert isinstance(net, Calf)
        starts, layout = chunk_starts(half.length, self._layout), self._layout
        device = next(net.parameters()).device
        rows = {name: take_chunks(x, starts, layout) for name, x in half.rows.items()}
        _, anchors, shift = (x.cpu().numpy() for x in net.outputs(_tensors(rows, device)))
        scores_TC = stitch(decode_spotting(anchors, layout.rows, exact=True), half.length, layout)
        shift_TC = stitch(shift, half.length, layout).astype(np.float64)
        middles_us = np.round((np.arange(half.length) + self.place) / half.rate * 1e6).astype(np.int64)
        shift_us = np.round(shift_TC * 1000).astype(np.int64) * 1000  # whole ms, as the live path
        times_TC = np.maximum(middles_us[:, None] + shift_us, 0)
        return Scored(half.actions, np.maximum(scores_TC, 0), times_TC)

    def half_loss(self, net: nn.Module, half: LoadedHalf) -> float | None:
        """Return the loss of a batch of chunks drawn from a half, the same ones every time."""
        device = next(net.parameters()).device
        shifts = [self._shifts(half)]
        if not len(find_places(shifts[0], self._k_4C, self._layout)):
            return None
        sampler = ChunkSampler(shifts, self._k_4C, self._layout)
        batch = self._draw([half], shifts, [self._nearest(half)], sampler, np.random.default_rng(0))
        rows = {name: x.to(device) for name, x in batch.rows.items()}
        return self._loss(net, ChunkBatch(rows, *(x.to(device) for x in batch[1:])))[0].item()

    def _draw(
        self,
        block: Sequence[LoadedHalf],
        shifts: Sequence[FLOAT32],
        nearest: Sequence[FLOAT32],
        sampler: ChunkSampler,
        rng: np.random.Generator,
    ) -> ChunkBatch:
        which, start = sampler.draw(self._batch, rng)
        rows = {
            name: np.concatenate(
                [take_chunks(block[h].rows[name], start[[i]], self._layout) for i, h in enumerate(which)]
            )
            for name in block[0].rows
        }
        targets, anchors = chunk_targets(shifts, which, start, self._anchors, self._layout)
        displacement = self._displacement(nearest, which, start)
        return ChunkBatch(_tensors(rows), _tensor(targets), _tensor(anchors), _tensor(displacement))

    def _displacement(self, nearest: Sequence[FLOAT32], which: np.ndarray, start: np.ndarray) -> FLOAT32:
        """Return chunks of what `_nearest` gave; infinite in the rows that are not learned."""
        chunks = np.concatenate([take_chunks(nearest[h], start[[i]], self._layout) for i, h in enumerate(which)])
        border, rows = self._layout.border, np.arange(self._layout.rows)
        lengths = np.array([len(half) for half in nearest])[which]
        inner = (rows >= border) & (rows < len(rows) - border)
        chunks[~inner | (start[:, None] + rows >= lengths[:, None])] = np.inf
        return chunks

    def _nearest(self, half: LoadedHalf) -> FLOAT32:
        """Return the seconds from each row's middle to each label's nearest action (T, C); infinite if it has none."""
        middles = (np.arange(half.length) + self.place) / half.rate
        nearest = np.full((half.length, len(self.labels)), np.inf)
        for c, label in enumerate(self.labels):
            times = np.array([a.time_s for a in half.actions if a.label == label])
            if len(times):
                away = times - middles[:, None]
                nearest[:, c] = np.take_along_axis(away, np.abs(away).argmin(1)[:, None], 1)[:, 0]
        return nearest.astype(np.float32)

    def _shifts(self, half: LoadedHalf) -> FLOAT32:
        """Return a half's time shifts; actions count by the millisecond, where the original has whole seconds."""
        events = action_rows(half, self.labels)
        events[:, 0] = np.minimum(events[:, 0], half.length - 1)
        return time_shifts(events, half.length, self._k_4C)


def _window_batch(
    block: Sequence[LoadedHalf], which: np.ndarray, index: np.ndarray, targets: FLOAT32, chosen: np.ndarray
) -> WindowBatch:
    return WindowBatch(_tensors(gather(block, which[chosen], index[chosen])), _tensor(targets[chosen]))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _tensors(arrays: Mapping[str, FLOAT32], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {name: _tensor(array).to(device) for name, array in arrays.items()}
