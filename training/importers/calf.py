"""Weights of the original CALF (SoccerNetv2-DevKit, `Task1-ActionSpotting/CALF`), under our names.

The original's convolutions are two-dimensional over maps that are one wide, ours one-dimensional: tensors lose axes of
length 1, no number changes. Swapno's variants were never published; their layers have the names that our reading of
them gave: `conv_1` to `conv_6`, `conv_seg_a`, `conv_seg_b`.
"""

from collections.abc import Mapping
from string import ascii_lowercase

import torch
from torch import Tensor

from training.importers import renamed
from training.models.calf import Calf, CalfConfig


def convert(state: Mapping[str, Tensor], config: CalfConfig) -> dict[str, Tensor]:
    """Return the original's weights as a state dict of `Calf(config)`.

    Args:
        state: the original's state dict; `batch_seg.num_batches_tracked` may be missing.
        config: of the same size; its streams together are as wide as the original's rows.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    with torch.device("meta"):
        network = Calf(config)
    kernels = range(len(config.segmentation_kernels))
    modules = {
        **{f"base.{i}": f"conv_{i + 1}" for i in range(config.base_layers)},
        **{f"pyramid.{i}": f"conv_p_{i + 1}" for i in range(4)},
        **{f"segment.{i}": "conv_seg" if len(kernels) == 1 else f"conv_seg_{ascii_lowercase[i]}" for i in kernels},
        "segment_norm": "batch_seg",
        **{f"spot.{i}": f"conv_spot_{i + 1}" for i in range(2)},
        "place": "conv_conf",
        "label": "conv_class",
    }
    return renamed({name: _flat(name, tensor) for name, tensor in state.items()}, modules, network)


def _flat(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without the axes that our layers do not have; one of an unforeseen shape stays as it is."""
    if name == "conv_1.weight" and tensor.shape[1:3] == (1, 1):  # its kernel lies across the width of a row
        return tensor[:, 0, 0, :, None]
    if name in ("conv_conf.weight", "conv_class.weight") and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor[..., 0] if tensor.ndim == 4 and tensor.shape[3] == 1 else tensor
