"""Memory for outputs whose size only a run tells."""

from __future__ import annotations

from typing import final

from engines.cuda import Cuda
from engines.errors import EngineError
from engines.tensorrt.api import IOutputAllocator, Module


@final
class OutputMemory:
    """Of one output: a buffer on the GPU that grows when TensorRT asks, through `allocator`."""

    def __init__(self, trt: Module, cuda: Cuda) -> None:
        self._cuda = cuda
        self._size_bytes = 0
        self.pointer = 0
        self.shape: tuple[int, ...] | None = None
        """Of the last run, once it is done."""
        self.failure: EngineError | None = None
        """Of an allocation: it must not travel through C++."""
        self.allocator = _allocator(trt, self)

    def reallocate(self, size_bytes: int) -> int:
        """The buffer's address, or 0 where there was no memory. CUDA aligns to 256 bytes; TensorRT asks for no more."""
        try:
            if self._size_bytes < max(size_bytes, 1):
                self.free()
                self.pointer = self._cuda.allocate(max(size_bytes, 1))
                self._size_bytes = max(size_bytes, 1)
        except EngineError as error:
            self.failure = error
        return self.pointer

    def require_allocated(self) -> None:
        """Raises what went wrong in TensorRT's last request, once."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise EngineError(str(failure)) from failure

    def free(self) -> None:
        pointer, self.pointer, self._size_bytes = self.pointer, 0, 0
        if pointer:
            self._cuda.free(pointer)


def _allocator(trt: Module, memory: OutputMemory) -> IOutputAllocator:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the base has no types
        def reallocate_output(self, tensor_name: str, _memory: int, size: int, _alignment: int) -> int:
            del tensor_name
            return memory.reallocate(size)

        def reallocate_output_async(
            self, tensor_name: str, _memory: int, size: int, _alignment: int, _stream: int
        ) -> int:
            del tensor_name
            return memory.reallocate(size)

        def notify_shape(self, tensor_name: str, shape: tuple[int, ...]) -> None:
            del tensor_name
            memory.shape = tuple(shape)

    return Allocator()
