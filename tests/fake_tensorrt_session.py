"""As much of TensorRT as a session touches; its engine doubles the float input `x` of dynamic batch 1 to 4 into `y`."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
from host_cuda import STREAM, HostCuda


class FakeContext:
    """Doubles `x` into `y`. With `keeps` it is a context whose output holds the rows that begin above 3 alone."""

    def __init__(self, cuda: HostCuda, engine: FakeEngine) -> None:
        self.cuda, self.engine = cuda, engine
        self.shape: tuple[int, ...] = (-1, 3)
        self.addresses: dict[str, int] = {}
        self.allocator: Any = None
        self.profile = 0
        self.starts = True
        self.set_up = 0
        self.says = ""
        self.allocated = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        self.profile, self.shape = profile_index, (-1, 3)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.profile]
        self.shape = shape
        self.set_up += 1
        return name == "x" and low[0] <= shape[0] <= high[0]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in ("x", "y")

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self.allocator = output_allocator
        return name == "y"

    def infer_shapes(self) -> list[str]:
        return [] if -1 not in self.shape else ["x"]

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return (-1, 3) if self.engine.keeps else self.shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.says:
            self.engine.logger.log(1, self.says)
        if self.starts:
            shape, addresses = self.shape, dict(self.addresses)
            self.cuda.order(lambda: self._double(shape, addresses), stream_handle)
        if self.allocator is not None:
            self.allocated = self.allocator.reallocate_output_async("y", 0, 48, 256, STREAM)
        return self.starts and (self.allocator is None or self.allocated != 0)

    def _double(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        size = int(np.prod(shape)) * 4
        doubled = np.frombuffer(self.cuda.memory[addresses["x"]][:size], np.float32).reshape(shape) * 2
        if self.engine.keeps:
            doubled = doubled[doubled[:, 0] > 6]
            self.allocator.notify_shape("y", doubled.shape)
        to = self.allocated if self.engine.keeps else addresses["y"]
        self.cuda.memory[to][: doubled.nbytes] = doubled.tobytes()


class FakeEngine:
    def __init__(self, output_type: str) -> None:
        self.output_type = output_type
        self.profiles = [((1, 3), (2, 3), (4, 3))]
        self.keeps = False
        self.on_host = ""
        self.logger: Any = None
        self.context: FakeContext | None = None
        self.num_io_tensors = 2

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return {"x": "in", "y": "out"}[name]

    def get_tensor_dtype(self, name: str) -> str:
        return {"x": "FLOAT", "y": self.output_type}[name]

    def get_tensor_location(self, name: str) -> str:
        return "host" if name == self.on_host else "device"

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return (-1, 3)

    def get_tensor_profile_shape(self, _name: str, profile_index: int) -> tuple[tuple[int, ...], ...]:
        return self.profiles[profile_index]

    def create_execution_context(self) -> FakeContext | None:
        return self.context


class FakeTensorRT(types.SimpleNamespace):
    """As much of the module as a session touches; its engine is made of any bytes but b'broken'."""

    def __init__(self, cuda: HostCuda, output_type: str = "FLOAT") -> None:
        self.engine = FakeEngine(output_type)
        self.context = self.engine.context = FakeContext(cuda, self.engine)
        self.host_code_allowed: list[bool] = []
        words = ("FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL", "FP8")
        super().__init__(
            __name__=f"fake_tensorrt_{id(self)}",
            __version__="10.3.0",
            DataType=types.SimpleNamespace(**{word: word for word in words}),
            TensorIOMode=types.SimpleNamespace(INPUT="in", OUTPUT="out"),
            TensorLocation=types.SimpleNamespace(DEVICE="device", HOST="host"),
            ILogger=type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2}),
            IOutputAllocator=type("IOutputAllocator", (), {}),
            Runtime=lambda logger: FakeRuntime(logger, self),
        )


class FakeRuntime:
    def __init__(self, logger: Any, trt: FakeTensorRT) -> None:
        self.engine_host_code_allowed = True
        self._logger, self._trt = logger, trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        self._trt.host_code_allowed.append(self.engine_host_code_allowed)
        self._trt.engine.logger = self._logger
        if serialized_engine == b"broken":
            self._logger.log(
                1, "IRuntime::deserializeCudaEngine: Error Code 1: incompatible version (In load at /a.cpp:48)"
            )
            return None
        return self._trt.engine
