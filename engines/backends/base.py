"""What every runtime of a graph looks like from here."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int | None, ...]


class Engine(Protocol):
    """A loaded, callable graph.

    Attributes:
        inputs: name → shape; None where any size is accepted.
        outputs: name → shape, likewise.
        metadata: text that the exporter left in the graph.
    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    metadata: Mapping[str, str]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name; the same feeds always give the same values."""
