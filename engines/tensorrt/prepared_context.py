"""An execution context that is set up for shapes and addresses, and only where they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from engines.base import TensorInfo
from engines.cuda import Cuda
from engines.device_array import DeviceArray
from engines.errors import EngineError
from engines.tensorrt.api import IExecutionContext, Module
from engines.tensorrt.buffers import Buffers
from engines.tensorrt.output_allocator import OutputMemory
from engines.tensorrt.profile_choice import ProfileRanges, chosen_profile

Given = Mapping[str, "NDArray[Any] | DeviceArray"]
"""The inputs by name, in the engine's order."""


@final
class PreparedContext:
    """Each method raises EngineError for what the runtime did not take."""

    def __init__(
        self,
        trt: Module,
        cuda: Cuda,
        context: IExecutionContext,
        profiles: Sequence[ProfileRanges],
        buffers: Buffers,
        stream: int,
    ) -> None:
        self._trt, self._cuda, self._profiles, self._buffers, self._stream = trt, cuda, profiles, buffers, stream
        self._context: IExecutionContext = context
        self._profile = 0
        self._sized_by_data: dict[str, OutputMemory] = {}
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        self._state: tuple[tuple[tuple[int, ...], int], ...] | None = None
        """Of each input its shape and, where it lies on the GPU already, its address; None while not set up."""

    @property
    def sized_by_data(self) -> tuple[str, ...]:
        """The outputs whose size only a run tells."""
        return tuple(self._sized_by_data)

    def is_prepared_for(self, given: Given) -> bool:
        """Whether the last `prepare` was for the same shapes and addresses."""
        return self._state == _state(given)

    def prepare(self, given: Given, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        """Profile, shapes, and a buffer for each tensor."""
        self._state = None
        self._choose_profile({name: tuple(feed.shape) for name, feed in given.items()})
        for info in inputs:
            feed = given[info.name]
            taken = self._context.set_input_shape(info.name, tuple(feed.shape))
            _require(taken, f"take the shape of input {info.name!r}")
            self._bind(info.name, self._input_address(info.name, feed))
        self._require_shapes(given)
        for info in outputs:
            self._prepare_output(info)
        self._state = _state(given)

    def enqueue(self) -> None:
        """Orders one run on the stream."""
        started = self._context.execute_async_v3(self._stream)
        for memory in self._sized_by_data.values():
            memory.require_allocated()
        _require(started, "start")

    def result(self, info: TensorInfo) -> tuple[tuple[int, ...], int]:
        """Shape and address of an output; where its size depends on the data, once the run is done."""
        memory = self._sized_by_data.get(info.name)
        if memory is None:
            shape = self._output_shapes[info.name]
            return shape, self._buffers.device(info.name, _size_bytes(shape, info.dtype))
        if memory.shape is None:
            raise _refused(f"tell the shape of output {info.name!r}")
        return memory.shape, memory.pointer

    def close(self) -> None:
        """Lets go of the context, and of the memory that it asked for itself."""
        self._context, self._state = None, None
        for memory in self._sized_by_data.values():
            memory.free()

    def _choose_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        chosen = chosen_profile(self._profiles, shapes)
        if chosen != self._profile:
            taken = self._context.set_optimization_profile_async(chosen, self._stream)
            _require(taken, f"switch to optimization profile {chosen}")
            self._profile = chosen

    def _input_address(self, name: str, feed: NDArray[Any] | DeviceArray) -> int:
        if not isinstance(feed, DeviceArray):
            return self._buffers.device(name, feed.nbytes)
        device = self._cuda.device_of(feed.pointer)
        if device != 0:
            where = "in host memory" if device is None else f"on GPU {device}"
            raise EngineError(f"input {name!r} is {where}, and the engine runs on GPU 0; move it there")
        return feed.pointer

    def _bind(self, name: str, pointer: int) -> None:
        _require(self._context.set_tensor_address(name, pointer), f"take a buffer for {name!r}")

    def _require_shapes(self, given: Given) -> None:
        """TensorRT finds that inputs differ in an axis that they share only when it infers from them."""
        shapes = ", ".join(f"{name!r} {list(feed.shape)}" for name, feed in given.items())
        try:
            missing: list[str] = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"inputs of these shapes do not go together: {shapes}") from error
        if missing:
            raise EngineError(f"the runtime does not know the shape of {', '.join(missing)} from {shapes}")

    def _prepare_output(self, info: TensorInfo) -> None:
        shape = tuple(self._context.get_tensor_shape(info.name))
        self._output_shapes[info.name] = shape
        if -1 not in shape:
            self._bind(info.name, self._buffers.device(info.name, _size_bytes(shape, info.dtype)))
        elif info.name not in self._sized_by_data:
            memory = OutputMemory(self._trt, self._cuda)
            taken = self._context.set_output_allocator(info.name, memory.allocator)
            _require(taken, f"allocate output {info.name!r}")
            self._sized_by_data[info.name] = memory


def _require(done: object, what: str) -> None:
    if not done:
        raise _refused(what)


def _refused(what: str) -> EngineError:
    return EngineError(f"the runtime did not {what}; build the engine again for this machine")


def _state(given: Given) -> tuple[tuple[tuple[int, ...], int], ...]:
    return tuple((tuple(feed.shape), feed.pointer if isinstance(feed, DeviceArray) else 0) for feed in given.values())


def _size_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
