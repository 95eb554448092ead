"""An ONNX file as a function of pixels."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from imgsim.core.models import Picture, Vectors


class OnnxTower:
    """``(n, height, width, 3)`` uint8 to ``(n, dimensions)`` float32, computed on the calling thread alone.

    Several threads may call at once. One core for each call and none that spins: the layout with the best
    throughput, and the one that a busy neighbour does not break.
    """

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        (graph_input,) = self._session.get_inputs()
        self._input = graph_input.name

    def embed(self, pixels: Picture) -> Vectors:
        (rows,) = self._session.run(None, {self._input: pixels})
        return np.asarray(rows)


def quiet_onnxruntime() -> Any:
    """The library, told before it is imported to send no telemetry: it keeps events below HOME, and calls home."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def open_session(path: Path) -> Any:
    """ONNX Runtime's errors, which have no common class but ``Exception``, for a file that is no model."""
    onnxruntime = quiet_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def simplify(source: Path, target: Path) -> None:
    """`source` without the nodes that do nothing, and with its weights in a file of their own beside it.

    So it opens in half the time and memory: the weights are read into their place, and not as a message first.
    ``OSError`` where `target` cannot be written, as on a full disk; else as ``open_session``.
    """
    onnxruntime = quiet_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # fit for any machine
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{target.name}.data")
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of the same classes whether it is `source` that is wrong or the disk that is full
        open_session(source)
        raise OSError(f"{target} cannot be written: {error}") from error
