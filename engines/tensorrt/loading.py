"""From a plan's verified bytes to what runs it, and what TensorRT said on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engines.base import TensorInfo
from engines.errors import EngineError
from engines.run_options import RunOptions
from engines.tensorrt.api import ICudaEngine, IExecutionContext, IRuntimeConfig, Module, Runtime
from engines.tensorrt.log import readable, recording
from engines.tensorrt.module import captures_graphs_itself

# TensorRT's types that numpy has too.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_OUT_OF_MEMORY = re.compile(r"out[ _]?of[ _]?memory|cudaErrorMemoryAllocation", re.IGNORECASE)


class Loaded(NamedTuple):
    """An engine must not outlive its runtime, nor a context its engine."""

    runtime: Runtime
    engine: ICudaEngine
    context: IExecutionContext


def load_plan(trt: Module, plan: bytes, file: Path, options: RunOptions) -> Loaded:
    """Raises EngineError with what the runtime said."""
    with recording(trt) as (logger, recorder):
        runtime: Runtime = trt.Runtime(logger)
        runtime.engine_host_code_allowed = False  # a plan that carries a runtime of its own is refused
        engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
        context = None if engine is None else _context(trt, engine, options, file)
    if context is None:
        said = "; ".join(readable(line) for line in recorder.errors()) or "it did not say why"
        advice = memory_advice(said) or (
            "; a plan loads with the version and on the GPU that it was built for: build it again for this machine"
        )
        raise EngineError(f"{file}: {trt.__name__} {trt.__version__} does not load it ({said}){advice}")
    return Loaded(runtime, engine, context)


def _context(trt: Module, engine: ICudaEngine, options: RunOptions, file: Path) -> IExecutionContext:
    if not options.cuda_graph or not captures_graphs_itself(trt):
        return engine.create_execution_context()
    config: IRuntimeConfig = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    if config.cuda_graph_strategy != trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE:
        raise EngineError(f"{file}: {trt.__name__} {trt.__version__} does not take cuda_graph; take it out")
    return engine.create_execution_context(runtime_config=config)


def tensor_infos(trt: Module, engine: ICudaEngine, mode: object, file: Path) -> tuple[TensorInfo, ...]:
    """Of the inputs or of the outputs; raises EngineError for what no array can hold."""
    words = {getattr(trt.DataType, word): dtype for word, dtype in DTYPES.items()}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    infos = []
    for name in names:
        if engine.get_tensor_mode(name) != mode:
            continue
        dtype = words.get(engine.get_tensor_dtype(name))
        if dtype is None:
            raise EngineError(
                f"{file}: tensor {name!r} is {engine.get_tensor_dtype(name)}, which numpy has not; cast it in the graph"
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(
                f"{file}: tensor {name!r} holds a shape, which sessions do not take; fix it when exporting"
            )
        infos.append(TensorInfo(name, dtype, tuple(engine.get_tensor_shape(name))))
    return tuple(infos)


def memory_advice(said: str) -> str:
    """What to do where the GPU's memory was too small; empty where it was not."""
    if not _OUT_OF_MEMORY.search(said):
        return ""
    return "; free memory on the GPU, run a smaller batch, or build with a smaller batch.max or workspace_mb"


def with_log(error: EngineError, lines: Sequence[str]) -> str:
    """An error, and the lines of TensorRT's that led to it."""
    said = f" ({'; '.join(dict.fromkeys(map(readable, lines)))})" if lines else ""
    return f"{error}{said}{memory_advice(f'{error}{said}')}"
