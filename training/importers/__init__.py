"""Weights of the original code, under the names that the same tensors have here.

In: an original's state dict, tensors alone (`weights.py` reads them from a file). Out: a state dict for our network of
the same size. Promise: every tensor is accounted for; what is missing, left over or of another shape is a
`DataError`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engines.errors import DataError


def renamed(state: Mapping[str, Tensor], modules: Mapping[str, str], network: nn.Module) -> dict[str, Tensor]:
    """Return the original's tensors under our names.

    A normalisation's `num_batches_tracked` may be missing, as weights from before torch had it are; it is 0 then.

    Args:
        state: the original's state dict.
        modules: name of each of our modules that holds tensors → what the original calls it.
        network: our network of the same size; only the shapes of its tensors matter, so it may be on "meta".

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    converted, used = {}, set()
    for ours, wanted in network.state_dict().items():
        theirs = original_name(ours, modules)
        used.add(theirs)
        if theirs in state:
            converted[ours] = state[theirs]
        elif ours.endswith(".num_batches_tracked"):
            converted[ours] = torch.zeros((), dtype=torch.long)
        else:
            raise DataError(f"The weights lack {theirs!r}; give the whole state dict of the original network.")
        if converted[ours].shape != wanted.shape:
            raise DataError(
                f"{theirs!r} has shape {tuple(converted[ours].shape)} in the weights and {tuple(wanted.shape)} here; "
                "give weights of a network of this size."
            )
    if strange := sorted(set(state) - used):
        raise DataError(f"{strange[0]!r} is in the weights but not in this network; give the weights of the same one.")
    return converted


def original_name(ours: str, modules: Mapping[str, str]) -> str:
    """Return what the original calls one of our tensors."""
    module = ours
    while module not in modules:
        module = module.rpartition(".")[0]
        if not module:
            raise ValueError(f"no module of the original is named for {ours!r}")
    return modules[module] + ours.removeprefix(module)
