"""Weights of `torchvggish` (harritaylor/torchvggish: `vggish.pth`, `vggish_pca_params.pth`), for ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engines.errors import DataError
from training.importers import renamed
from training.models.vggish import Vggish, VggishTagger

EMBEDDING = 128

_PCA = {
    "vectors": (("pca_eigen_vectors", "pproc.pca_matrix"), (EMBEDDING, EMBEDDING)),
    "means": (("pca_means", "pproc.pca_means"), (EMBEDDING,)),
}
"""What `postprocess` needs → its name in a file of its own and in a whole VGGish's state dict, and its shape."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a `Vggish`; those of the post-processor, where they are there too, are left out.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    with torch.device("meta"):
        network = Vggish()
    return _convert(state, network)


def convert_tagger(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a `VggishTagger` from those of HMTAS's fine-tuned VGGish.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    columns = len(state.get("classifier.2.bias", ()))
    with torch.device("meta"):
        network = VggishTagger(labels=columns - 1 if columns else 0)
    return _convert(state, network)


def _convert(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    modules = {name: name.removeprefix("vggish.") for name in network.state_dict()}
    return renamed({name: x for name, x in state.items() if not name.startswith("pproc.")}, modules, network)


def convert_pca(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the post-processor's directions (128, 128), one a row, and means (128,).

    Raises:
        DataError: one of them is missing or of another shape.
    """
    found = []
    for what, (names, shape) in _PCA.items():
        name = next((name for name in names if name in state), None)
        if name is None:
            raise DataError(f"The weights lack the PCA's {what} ({names[0]!r}); give the original's PCA parameters.")
        tensor = state[name].squeeze(-1)  # the means come as a column
        if tensor.shape != shape:
            raise DataError(f"{name!r} in the weights has shape {tuple(tensor.shape)}, not {shape}; give VGGish's PCA.")
        found.append(tensor)
    return found[0], found[1]
