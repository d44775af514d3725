"""The GPU: its memory, streams, events and graphs, and what the NVIDIA driver says of this machine."""

from __future__ import annotations

import importlib.util

from engines.cuda.adapter import Cuda
from engines.cuda.driver import compute_capability, driver_version, gpu_count, why_no_gpu
from engines.cuda.pycuda_adapter import PyCuda
from engines.cuda.runtime import CudaRuntime, load_runtime
from engines.errors import RuntimeMissing

__all__ = [
    "Cuda",
    "CudaRuntime",
    "PyCuda",
    "compute_capability",
    "driver_version",
    "gpu_count",
    "load_runtime",
    "open_cuda",
    "why_no_adapter",
    "why_no_gpu",
]


def open_cuda() -> Cuda:
    """pycuda where it is installed, else libcudart; raises RuntimeMissing without either."""
    return PyCuda() if _has_pycuda() else CudaRuntime(load_runtime())


def why_no_adapter() -> str | None:
    """None where `open_cuda` finds pycuda or libcudart; else how to get one."""
    if _has_pycuda():
        return None
    try:
        load_runtime()
    except RuntimeMissing as error:
        return str(error)
    return None


def _has_pycuda() -> bool:
    return importlib.util.find_spec("pycuda") is not None
