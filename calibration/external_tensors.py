"""A tensor of a graph whose bytes may be in another file: its size, its values, and the reference that finds them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

LEAST_EXTERNAL_BYTES = 1024
"""Smaller tensors stay in the graph: shape inference reads some of them."""
_PART_BYTES = 64 << 20


def values_of(tensor: TensorProto) -> NDArray[Any]:
    """Of a tensor that is in the graph, or in a file that the graph refers to."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    info = external_data_helper.ExternalDataInfo(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.asarray(np.memmap(info.location, dtype, "r", info.offset or 0, tuple(tensor.dims)))


def parts_of(tensor: TensorProto) -> Iterator[bytes]:
    """The bytes of a tensor, some at a time."""
    values = values_of(tensor).reshape(-1)
    step = max(1, _PART_BYTES // values.itemsize)
    for start in range(0, values.size, step):
        yield values[start : start + step].tobytes()


def bytes_of_tensor(tensor: TensorProto) -> int:
    """What its values take, wherever they are; 0 for a type that ONNX does not have."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    if tensor.data_type not in helper.get_all_tensor_dtypes():
        return 0  # onnx's checker says so
    itemsize = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return itemsize * math.prod(int(size) for size in tensor.dims)


def is_large_tensor(tensor: TensorProto) -> bool:
    """Whether it can stay outside of a graph that is too large."""
    external = tensor.data_location == TensorProto.EXTERNAL
    return (
        _is_plain(tensor)
        and (tensor.HasField("raw_data") or external)
        and bytes_of_tensor(tensor) >= LEAST_EXTERNAL_BYTES
    )


def _is_plain(tensor: TensorProto) -> bool:
    """Whether its elements take whole bytes, as numpy's do."""
    return tensor.data_type not in (
        TensorProto.STRING,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT4E2M1,
    )


def is_referred_to(tensor: TensorProto) -> bool:
    """Whether it is one of those that `external_data.loaded` leaves in their file."""
    return tensor.data_location == TensorProto.EXTERNAL and Path(_location(tensor)).is_absolute()


def _location(tensor: TensorProto) -> str:
    return str(external_data_helper.ExternalDataInfo(tensor).location)


def refer(tensor: TensorProto, folder: Path) -> None:
    """Makes the path to a tensor's bytes absolute, if they are there: nothing outside of the graph's folder is read."""
    info = external_data_helper.ExternalDataInfo(tensor)
    path, within = Path(info.location), (folder / info.location).resolve().is_relative_to(folder.resolve())
    if path.is_absolute() or ".." in path.parts or not within:
        raise ValueError(f"weight {tensor.name!r} is said to be at {info.location!r}, outside of the graph's folder")
    path = folder / path
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"weight {tensor.name!r} is said to be in {info.location!r}, which is no regular file there")
    wanted, there = bytes_of_tensor(tensor), path.stat().st_size - (info.offset or 0)
    if info.length not in (None, wanted) or wanted > there:
        raise ValueError(
            f"weight {tensor.name!r} takes {wanted:,} bytes of {info.location!r}; "
            f"{max(min(there, info.length or there), 0):,} are there"
        )
    tensor.CopyFrom(reference(tensor, str(path.resolve()), info.offset or 0))


def reference(tensor: TensorProto, location: str, offset: int) -> TensorProto:
    """The tensor without its bytes."""
    found = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    found.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(bytes_of_tensor(tensor)))):
        found.external_data.add(key=key, value=value)
    return found
