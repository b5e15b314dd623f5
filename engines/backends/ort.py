"""Graphs on ONNX Runtime's CPU provider; the only importer of onnxruntime.

One thread a session and no spinning: a second of media is little work, and a spinning pool slows its neighbours (and
is slowed by them) many-fold.
"""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from engines.backends.base import Array, Shape
from engines.errors import BundleError


class OrtEngine:
    """An ONNX graph in an ONNX Runtime session; see Engine.

    Raises:
        BundleError: the file is no graph that this ONNX Runtime can load.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.inputs: Mapping[str, Shape] = {i.name: _shape(i.shape) for i in self._session.get_inputs()}
            self.outputs: Mapping[str, Shape] = {o.name: _shape(o.shape) for o in self._session.get_outputs()}
            self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime's errors have no common base
            raise BundleError(f"{path}: ONNX Runtime cannot load this graph ({type(error).__name__}).") from error
        self._path = path

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name; see Engine.

        Raises:
            BundleError: the graph could be loaded, but cannot be computed.
        """
        names = list(self.outputs)
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # as above
            raise BundleError(f"{self._path}: ONNX Runtime cannot run this graph ({type(error).__name__}).") from error


def _shape(dims: list[int | str | None]) -> Shape:
    return tuple(d if isinstance(d, int) else None for d in dims)
