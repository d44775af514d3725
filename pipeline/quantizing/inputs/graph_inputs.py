"""What the inputs of a user's own ONNX graph take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.base import TensorInfo
from pipeline.errors import DataRejected, NotAcceptable

if TYPE_CHECKING:
    import onnx

_CHANNELS = (1, 3, 4)
"""Of images."""


@dataclass(frozen=True)
class GraphInput:
    """What one input of a graph takes; a dynamic dimension (a name, nothing, 0 or less) is None."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def batch_size(self) -> int | None:
        """Where the graph fixes it."""
        return self.shape[0] if self.shape else None

    @property
    def written(self) -> str:
        """Such as (samples, 3, any, any)."""
        if self.is_shared:
            return "one value for all samples, an array of shape ()"
        return f"(samples, {', '.join('any' if size is None else str(size) for size in self.shape[1:])})"

    @property
    def channels_last(self) -> bool:
        """Whether it takes images as (batch, height, width, channels), as its sizes look."""
        return len(self.shape) == 4 and self.shape[3] in _CHANNELS and self.shape[1] not in _CHANNELS

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Channels, height and width of the images that it takes; all None where it takes none."""
        if len(self.shape) != 4:
            return None, None, None
        first, second, third = self.shape[1:]
        return (third, first, second) if self.channels_last else (first, second, third)

    @property
    def is_shared(self) -> bool:
        """Whether it takes one value for all samples."""
        return self.shape == ()

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        """Raises DataRejected where samples along the first axis of an array do not fit."""
        fits = len(shape) == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape[1:], shape[1:], strict=True)
        )
        if not fits:
            raise DataRejected(f"{where} has shape {shape}; the graph takes {self.written}{self._other_layout(shape)}")
        if dtype != self.dtype:
            raise DataRejected(f"{where} is {dtype}; the graph takes {self.dtype}: save it .astype('{self.dtype}')")

    def _other_layout(self, shape: tuple[int, ...]) -> str:
        """What to do where the channels alone stand in the wrong place; empty elsewhere."""
        if len(shape) != 4 or len(self.shape) != 4:
            return ""
        for axes, found, taken in (
            ((0, 3, 1, 2), "last (NHWC)", "first (NCHW)"),
            ((0, 2, 3, 1), "first (NCHW)", "last (NHWC)"),
        ):
            moved = [shape[axis] for axis in axes]
            if all(wanted in (None, size) for wanted, size in zip(self.shape[1:], moved[1:], strict=True)):
                return f": its channels are {found}, the graph takes them {taken}; save it .transpose{axes}"
        return ""


def graph_inputs(model: Path) -> dict[str, GraphInput]:
    """The inputs that are fed, by name; raises NotAcceptable where the file is no ONNX graph."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except (DecodeError, ValueError, OSError) as error:
        raise NotAcceptable(f"{model}: is not an ONNX file ({error})") from error
    constants = {initializer.name for initializer in graph.initializer}
    found = {entry.name: _graph_input(model, entry) for entry in graph.input if entry.name not in constants}
    if not found:
        raise NotAcceptable(f"{model}: is not an ONNX file, or its graph has no input")
    return found


def size_of_batches(inputs: Mapping[str, GraphInput], wanted: int) -> int:
    """What the graph fixes, else `wanted`; raises NotAcceptable where its inputs fix different sizes."""
    fixed = {name: each.batch_size for name, each in inputs.items() if each.batch_size is not None}
    if len(set(fixed.values())) > 1:
        raise NotAcceptable(f"the graph's inputs fix different batch sizes: {fixed}; export it with a dynamic batch")
    return next(iter(fixed.values()), wanted)


def check_whole_batches(data: Path, total: int, inputs: Mapping[str, GraphInput], batch_size: int) -> None:
    """Raises DataRejected where the graph fixes its batch and the samples leave a smaller one."""
    if total % batch_size and any(each.batch_size is not None for each in inputs.values()):
        raise DataRejected(
            f"{data}: holds {total} samples; the graph takes batches of exactly {batch_size}: "
            "give a multiple of it, or export the graph with a dynamic batch"
        )


def images_a_run(inputs: Mapping[str, GraphInput]) -> int:
    """As many as the graph takes at once, where it fixes them, else one."""
    return size_of_batches(inputs, 1)


def _graph_input(model: Path, entry: onnx.ValueInfoProto) -> GraphInput:
    from onnx import helper

    tensor = entry.type.tensor_type
    if not tensor.HasField("shape"):
        raise NotAcceptable(
            f"{model}: input '{entry.name}' says no shape; export it with one, whose axes may be dynamic"
        )
    shape = tuple(each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim)
    return GraphInput(helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)


def tensor_infos(graph: Path, sizes: Mapping[str, int]) -> tuple[TensorInfo, ...]:
    """What the graph takes; the batch stays dynamic where it is, the other axes have their sizes, else -1."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    weights = {each.name for each in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = tuple(_size(dim, at, sizes) for at, dim in enumerate(dims))
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        found.append(TensorInfo(value.name, str(dtype), shape))
    return tuple(found)


def fixed_batch(infos: Sequence[TensorInfo]) -> int | None:
    """What the graph fixes its batch to; None where it is dynamic."""
    return next((info.shape[0] for info in infos if info.shape and info.shape[0] > 0), None)


def _size(dim: onnx.TensorShapeProto.Dimension, at: int, sizes: Mapping[str, int]) -> int:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    return -1 if at == 0 else sizes.get(dim.dim_param, -1)
