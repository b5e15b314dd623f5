"""What a recipe may do against rare labels and noisy steps: balanced draws, mixed batches, averaged weights.

Each is off unless a recipe uses it. Shapes: N windows, B batch, C labels; targets have the background in column 0.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

Tensors = tuple[Tensor, ...] | list[Tensor]


def balanced_indices(targets_NC: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return windows drawn so that each label is as likely as any other, the background too.

    A label is drawn first, of those that occur, then one of its windows; a window of two labels counts for both.

    Args:
        targets_NC: (N, 1 + C), larger than 0 where the window holds the label.
        count: how many to draw, with replacement.
        rng: the generator.

    Returns:
        int64 (count,), indices into the windows.

    Raises:
        ValueError: no window holds anything.
    """
    windows_of = [found for column in np.asarray(targets_NC).T if len(found := np.flatnonzero(column > 0))]
    if not windows_of:
        raise ValueError("no window holds a label or background")
    labels = rng.integers(len(windows_of), size=count)
    return np.array([rng.choice(windows_of[label]) for label in labels], np.int64)


def mixing_shares(count: int, alpha: float, rng: np.random.Generator) -> Tensor:
    """Return the share (count,) of the first batch in each mixed item, float32: 1 − Beta(alpha, 1).

    The smaller alpha, the more of the first: it lends 1/11 of its place on average at alpha 0.1, 1/6 at 0.2.

    Source: Galdran et al., Balanced-MixUp, 2021. Differs: a share for each item, not one for the batch.
    """
    return torch.from_numpy((1 - rng.beta(alpha, 1, count)).astype(np.float32))


def mix(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share_B: Tensor, united: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return two batches mixed item by item: rows and targets alike, by each item's share.

    With a second batch drawn by `balanced_indices` this is balanced mix-up: the common windows stay, and each lends
    some of its place to a rarer label.

    Args:
        first: float tensors (B, …) by name.
        second: the same names and shapes.
        share_B: share of the first, in [0, 1].
        united: names of targets that take the larger of the two values instead, as what is heard under another sound
            is heard still.

    Source: HMTAS thesis, section 5.4 (M5), where mix-up was tried and brought "a marginal improvement"; how the targets
    were mixed is not said. Galdran et al. mix them by the share.
    """

    def mixed(name: str) -> Tensor:
        if name in united:
            return torch.maximum(first[name], second[name])
        share = share_B.to(first[name]).view(-1, *[1] * (first[name].ndim - 1))
        return share * first[name] + (1 - share) * second[name]

    return {name: mixed(name) for name in first}


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update of an exponential moving average that forgets the first steps quickly.

    It is the `multi_avg_fn` of torch's `AveragedModel`: after n updates the average keeps min(decay, (1+n) / (10+n)).
    What is not floating point (counters of batches) is copied.
    """

    @torch.no_grad()
    def update(averages: Tensors, currents: Tensors, updates: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for mean, current in zip(averages, currents, strict=True):
            if mean.is_floating_point():
                mean.lerp_(current, share)
            else:
                mean.copy_(current)

    return update
