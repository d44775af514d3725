"""A loaded plan: device buffers, one stream, host to device, execute, device to host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from engines.base import Arrays, EngineError, Session, TensorInfo
from engines.cuda import Cuda
from engines.feeds import wrong_feeds
from engines.tensorrt.api import ICudaEngine, IExecutionContext, Module, Runtime
from engines.tensorrt.log import readable, recording

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


def open_session(trt: Module, cuda: Cuda, plan: bytes, file: Path) -> TensorRTSession:
    """Loads verified bytes; raises EngineError with what the runtime said."""
    try:
        with recording(trt) as (logger, recorder):
            runtime: Runtime = trt.Runtime(logger)
            runtime.engine_host_code_allowed = False  # a plan that carries a runtime of its own is refused
            engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
            context: IExecutionContext = None if engine is None else engine.create_execution_context()
        if context is None:
            said = "; ".join(readable(line) for line in recorder.errors()) or "it did not say why"
            raise EngineError(
                f"{file}: {trt.__name__} {trt.__version__} does not load it ({said}); a plan loads with the version "
                "and on the GPU that it was built for: build it again for this machine"
            )
        return TensorRTSession(trt, cuda, runtime, engine, context, file)
    except BaseException:
        cuda.close()
        raise


@final
class TensorRTSession(Session):
    """Synchronous execution on one stream. Buffers grow to the largest batch that was run."""

    def __init__(
        self, trt: Module, cuda: Cuda, runtime: Runtime, engine: ICudaEngine, context: IExecutionContext, file: Path
    ) -> None:
        self._file = file
        self._inputs = _tensor_infos(trt, engine, trt.TensorIOMode.INPUT, file)
        self._outputs = _tensor_infos(trt, engine, trt.TensorIOMode.OUTPUT, file)
        self._ranges = {info.name: _ranges(engine, info) for info in self._inputs if -1 in info.shape}
        """Of each dynamic input: (position, least, most) of its dynamic dimensions."""
        self._runtime = runtime  # an engine must not outlive its runtime
        self._engine = engine
        self._context: IExecutionContext = context
        self._buffers: dict[str, tuple[int, int]] = {}
        """Name to pointer and size in bytes."""
        self._cuda = cuda
        self._stream = cuda.create_stream()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._outputs

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        import numpy as np

        self._require_usable(feeds)
        sources = {info.name: np.ascontiguousarray(feeds[info.name]) for info in self._inputs}
        for name, source in sources.items():
            self._require(self._context.set_input_shape(name, source.shape), f"take the shape of input {name!r}")
            self._cuda.copy_to_device_async(self._bind(name, source.nbytes), source, self._stream)
        results = {info.name: np.empty(self._output_shape(info.name, sources), info.dtype) for info in self._outputs}
        for name, result in results.items():
            self._bind(name, result.nbytes)
        self._require(self._context.execute_async_v3(self._stream), "start")
        for name, result in results.items():
            self._cuda.copy_to_host_async(result, self._buffers[name][0], self._stream)
        self._cuda.synchronize(self._stream)  # `sources` and `results` stay alive until here
        return results

    def close(self) -> None:
        """Frees the GPU's memory; a second call does nothing."""
        if self._context is None:
            return
        self._context = self._engine = self._runtime = None
        pointers = [pointer for pointer, _ in self._buffers.values()]
        self._buffers.clear()
        try:
            for pointer in pointers:
                self._cuda.free(pointer)
            self._cuda.destroy_stream(self._stream)
        finally:
            self._cuda.close()

    def _require_usable(self, feeds: Arrays) -> None:
        if self._context is None:
            raise EngineError(f"{self._file}: its session is closed; open the engine again")
        if problem := wrong_feeds(self._inputs, feeds) or self._wrong_size(feeds):
            raise EngineError(f"{self._file}: {problem}")

    def _wrong_size(self, feeds: Arrays) -> str | None:
        for name, ranges in self._ranges.items():
            for at, low, high in ranges:
                size, what = feeds[name].shape[at], "batch size" if at == 0 else f"dimension {at} of size"
                if not low <= size <= high:
                    return f"input {name!r} has {what} {size}; the engine was built for {low} to {high}"
        sizes = {name: feeds[name].shape[0] for name, ranges in self._ranges.items() if ranges[0][0] == 0}
        if len(set(sizes.values())) > 1:
            return f"inputs differ in batch size: {', '.join(f'{name!r} {size}' for name, size in sizes.items())}"
        return None

    def _bind(self, name: str, size_bytes: int) -> int:
        """The tensor's buffer on the GPU, grown where it is too small."""
        pointer, have_bytes = self._buffers.get(name, (0, 0))
        if have_bytes < max(size_bytes, 1):
            if pointer:
                del self._buffers[name]
                self._cuda.free(pointer)
            pointer = self._cuda.allocate(max(size_bytes, 1))
            self._buffers[name] = (pointer, max(size_bytes, 1))
            self._require(self._context.set_tensor_address(name, pointer), f"take a buffer for {name!r}")
        return pointer

    def _output_shape(self, name: str, sources: Arrays) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            given = ", ".join(f"{source!r} {list(array.shape)}" for source, array in sources.items())
            raise EngineError(
                f"{self._file}: the shape {list(shape)} of output {name!r} does not follow from the inputs' ({given}): "
                "they differ in an axis that they share, or it depends on the data, and such graphs are not run"
            )
        return shape

    def _require(self, done: object, what: str) -> None:
        if not done:
            raise EngineError(f"{self._file}: the runtime did not {what}; build the engine again for this machine")


def _tensor_infos(trt: Module, engine: ICudaEngine, mode: object, file: Path) -> tuple[TensorInfo, ...]:
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
        infos.append(TensorInfo(name, dtype, tuple(engine.get_tensor_shape(name))))
    return tuple(infos)


def _ranges(engine: ICudaEngine, info: TensorInfo) -> list[tuple[int, int, int]]:
    low, _, high = engine.get_tensor_profile_shape(info.name, 0)
    return [(at, low[at], high[at]) for at, size in enumerate(info.shape) if size == -1]
