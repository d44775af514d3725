"""What the NVIDIA driver says of this machine."""

from __future__ import annotations

import ctypes

LIBRARY = "libcuda.so.1"

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_MAJOR, _MINOR = 75, 76


def gpu_count(library: str = LIBRARY) -> int:
    """GPUs that the driver lets this process see; 0 without a driver."""
    count = ctypes.c_int(0)
    driver = _started_driver(library)
    return count.value if driver and _ask(driver, "cuDeviceGetCount", ctypes.byref(count)) else 0


def driver_version(library: str = LIBRARY) -> str | None:
    """The newest CUDA that the driver serves, such as `12.6`; None without a driver."""
    version = ctypes.c_int(0)
    driver = loaded(library)
    if driver is None or not _ask(driver, "cuDriverGetVersion", ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def compute_capability(library: str = LIBRARY) -> str | None:
    """Of GPU 0, such as `8.6`; None without a GPU."""
    driver, device = _started_driver(library), ctypes.c_int(0)
    if driver is None or not _ask(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0)):
        return None
    numbers = [ctypes.c_int(0), ctypes.c_int(0)]
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        if not _ask(driver, "cuDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), device):
            return None
    return f"{numbers[0].value}.{numbers[1].value}"


def why_no_gpu(library: str = LIBRARY) -> str | None:
    """None where this process sees a GPU; else what is missing and what to do."""
    if loaded(library) is None:
        return f"there is no NVIDIA driver here ({library} does not load): install it, or use a machine that has one"
    if gpu_count(library) == 0:
        return "the NVIDIA driver shows no GPU to this process: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def loaded(library: str) -> ctypes.CDLL | None:
    """A shared library; None where it does not load."""
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _started_driver(library: str) -> ctypes.CDLL | None:
    driver = loaded(library)
    return driver if driver is not None and _ask(driver, "cuInit", ctypes.c_uint(0)) else None


def _ask(driver: ctypes.CDLL, function: str, *arguments: object) -> bool:
    """Whether a function of the driver exists and succeeds."""
    try:
        return bool(driver[function](*arguments) == 0)
    except AttributeError:
        return False
