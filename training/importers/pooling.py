"""Weights of the original pooling networks (SilvioGiancola/SoccerNetv2-DevKit, `Task1-ActionSpotting`), for ours.

Two codes wrote such weights: `TemporallyAwarePooling` (all eight pools) and the older `Pooling` baselines (max, and a
NetVLAD whose tensors have other names and another order). Which one is seen from the names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.importers import renamed
from training.models.pooling import Pooling, PoolingConfig

_OLDER = {"pool_layer.conv.weight": "pool_layer.clusters", "pool_layer.centroids": "pool_layer.clusters2"}
"""The older NetVLAD's names → the newer one's."""


def convert(state: Mapping[str, Tensor], config: PoolingConfig) -> dict[str, Tensor]:
    """Return the original's tensors under our names.

    Args:
        state: the original's state dict.
        config: what the weights are for: pool, widths, clusters and number of labels must be theirs.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    with torch.device("meta"):
        network = Pooling(config)
    state = _newer(state) if _OLDER.keys() & state.keys() else state
    return renamed(
        {name: x.squeeze(0) if name.endswith(".clusters2") and x.dim() == 3 else x for name, x in state.items()},
        _modules(config.pool),
        network,
    )


def _modules(pool: str) -> dict[str, str]:
    """Return what the original calls our modules and tensors."""
    halves = ("pool_layer_before", "pool_layer_after") if pool.endswith("++") else ("pool_layer",)
    names = {"project": "feature_extractor", "out": "fc"}
    for part, half in enumerate(halves):
        names[f"pool.layers.{part}.assign"] = f"{half}.clusters"
        names[f"pool.layers.{part}.centres"] = f"{half}.clusters2"
    return names


def _newer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the older NetVLAD's tensors as the newer code has them.

    The two layers compute the same; the older keeps clusters before width, in its tensors and in its pooled vector,
    so the last layer's columns change places too.
    """
    newer = {_OLDER.get(name, name): x for name, x in state.items()}
    for name in _OLDER.values():
        if name in newer and newer[name].dim() > 1:
            newer[name] = newer[name].flatten(1).mT
    weight, clusters = newer.get("fc.weight"), newer.get("pool_layer.clusters")
    if weight is not None and clusters is not None and clusters.dim() == 2 and weight.shape[-1:] == (clusters.numel(),):
        newer["fc.weight"] = weight.reshape(-1, *clusters.mT.shape).mT.flatten(1)
    return newer
