"""A plan of two inputs, two outputs, open batch and open length, against stand-ins for TensorRT and the GPU.

The stand-in engine blanks out `rows` (batch, length, 2) by `mask` (batch, length): `tokens`, and their sum: `total`.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt_session import FakeTensorRT
from host_cuda import HostCuda
from numpy.typing import NDArray

from engines.base import Session, TensorInfo
from engines.errors import EngineError
from engines.tensorrt.session import open_session

SHAPES = {"rows": (-1, -1, 2), "mask": (-1, -1), "total": (-1, 2), "tokens": (-1, -1, 2)}
PROFILES = {"rows": [(1, 4, 2), (2, 8, 2), (4, 16, 2)], "mask": [(1, 4), (2, 8), (4, 16)]}


class MaskingContext:
    """Knows its shapes only once those of both inputs are set and agree, as TensorRT does."""

    def __init__(self, cuda: HostCuda) -> None:
        self.cuda = cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        if self.shapes["rows"][:2] != self.shapes["mask"]:
            raise RuntimeError("Shape inference failed")
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["rows"] if name == "tokens" else (self.shapes["rows"][0], 2)

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.cuda.order(self._mask, stream_handle)
        return True

    def _mask(self) -> None:
        tokens = self._read("rows") * self._read("mask")[..., None]
        for name, array in {"tokens": tokens, "total": tokens.sum(1)}.items():
            self.cuda.memory[self.addresses[name]][: array.nbytes] = array.tobytes()

    def _read(self, name: str) -> NDArray[np.float32]:
        shape = self.shapes[name]
        data = self.cuda.memory[self.addresses[name]][: int(np.prod(shape)) * 4]
        return np.frombuffer(data, np.float32).reshape(shape)


@pytest.fixture
def session() -> Session:
    cuda = HostCuda()
    trt = FakeTensorRT(cuda)
    engine = types.SimpleNamespace(
        num_io_tensors=4,
        num_optimization_profiles=1,
        get_tensor_location=lambda _name: "device",
        get_tensor_name=lambda index: list(SHAPES)[index],
        get_tensor_mode=lambda name: "in" if name in PROFILES else "out",
        get_tensor_dtype=lambda _name: "FLOAT",
        get_tensor_shape=lambda name: SHAPES[name],
        get_tensor_profile_shape=lambda name, _profile_index: PROFILES[name],
        create_execution_context=lambda: MaskingContext(cuda),
    )
    trt.Runtime = lambda _logger: types.SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine)
    return open_session(trt, cuda, b"plan", Path("e.plan"))


def feeds(batch_size: int, length: int, **changes: Any) -> dict[str, NDArray[np.float32]]:
    rows = np.arange(batch_size * length * 2, dtype=np.float32).reshape(batch_size, length, 2)
    mask = np.tile(np.float32(np.arange(length) < length - 1), (batch_size, 1))
    return {"mask": mask, "rows": rows, **changes}


def test_every_input_and_output_is_known_with_its_open_axes(session: Session) -> None:
    assert session.inputs == tuple(TensorInfo(name, "float32", SHAPES[name]) for name in ("rows", "mask"))
    assert session.outputs == tuple(TensorInfo(name, "float32", SHAPES[name]) for name in ("total", "tokens"))


def test_each_batch_size_and_length_gives_all_outputs_of_its_own_shape(session: Session) -> None:
    with session:
        for batch_size, length in ((2, 8), (4, 16), (1, 4), (3, 5)):
            given = feeds(batch_size, length)
            found = session.run(given)
            tokens = given["rows"] * given["mask"][..., None]
            assert list(found) == ["total", "tokens"]
            np.testing.assert_array_equal(found["tokens"], tokens)
            np.testing.assert_array_equal(found["total"], tokens.sum(1))


@pytest.mark.parametrize("length", [3, 17])
def test_a_length_outside_the_profile_is_refused_with_its_range(session: Session, length: int) -> None:
    said = f"e.plan: input 'rows' has dimension 1 of size {length}; the engine was built for 4 to 16"
    with pytest.raises(EngineError, match=said):
        session.run(feeds(2, length))


def test_inputs_of_different_batch_sizes_are_refused(session: Session) -> None:
    with pytest.raises(EngineError, match="inputs differ in batch size: 'rows' 2, 'mask' 3"):
        session.run(feeds(2, 8, mask=np.ones((3, 8), np.float32)))


def test_inputs_that_differ_in_an_axis_they_share_are_refused_with_their_shapes(session: Session) -> None:
    said = r"e\.plan: inputs of these shapes do not go together: 'rows' \[2, 8, 2\], 'mask' \[2, 9\]$"
    with pytest.raises(EngineError, match=said):
        session.run(feeds(2, 8, mask=np.ones((2, 9), np.float32)))
