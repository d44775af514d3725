"""An onnxruntime session: how it is made, and how it meets the contract of every engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from engines.base import Arrays, Session, TensorInfo
from engines.errors import EngineError
from engines.execution_provider import NAMES
from engines.feeds import wrong_feeds
from engines.run_options import RunConditions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ON_CPU = (NAMES["cpu"],)
_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"  # since 1.24; unknown to older ones, which ignore it
_SILENT = 4  # Fatal messages only: what fails is raised as well, and stderr is the user's.


@final
class OnnxRuntimeSession(Session):
    """An onnxruntime.InferenceSession behind the contract of every engine."""

    def __init__(self, session: Any, engine: Path, on_gpu: bool = False) -> None:
        self._session = session
        self._conditions = RunConditions(transfers=on_gpu, spin_wait=on_gpu)
        self._engine = engine
        self._inputs = tuple(tensor_info(node) for node in session.get_inputs())
        self._outputs = tuple(tensor_info(node) for node in session.get_outputs())
        self._output_names = [info.name for info in self._outputs]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._outputs

    @property
    def conditions(self) -> RunConditions:
        return self._conditions

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        if self._session is None:
            raise EngineError(f"{self._engine}: its session is closed; open the engine again")
        try:
            arrays = self._session.run(self._output_names, feeds)
        except Exception as error:  # onnxruntime's exceptions share no class of their own
            # Looked at only now: checked before each run, it would be part of the latency.
            problem = wrong_feeds(self._inputs, feeds) or f"onnxruntime failed: {reason(error)}"
            raise EngineError(f"{self._engine}: {problem}") from error
        return dict(zip(self._output_names, arrays, strict=True))

    def close(self) -> None:
        self._session = None


def inference_session(
    model: bytes, optimization: str, threads: int, save_to: Path | None = None, providers: Sequence[Any] = ON_CPU
) -> Any:
    """Without onnxruntime's own fallback: a provider that fails is an error."""
    onnxruntime = imported()
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {
        "disabled": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[optimization]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    if save_to is not None:
        options.optimized_model_filepath = os.fspath(save_to)
    if tuple(providers) != ON_CPU:
        options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    return onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def imported() -> Any:
    # From 1.29 on it reports to its maker unless told otherwise before the import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def tensor_info(node: Any) -> TensorInfo:
    word = str(node.type)
    word = word[len("tensor(") : -1] if word.startswith("tensor(") else word
    dtype = {"float": "float32", "double": "float64"}.get(word, word)
    return TensorInfo(node.name, dtype, tuple(size if isinstance(size, int) else -1 for size in node.shape))


def reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("[ONNXRuntimeError] : ") if lines else type(error).__name__
