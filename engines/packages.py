"""Which package brings what this machine lacks: by its JetPack, its processor and its driver."""

from __future__ import annotations

import platform
from pathlib import Path

from engines.machine import ARM64, ROOT, jetson_linux

_JETPACK = {"35": "5", "36": "6", "38": "7", "39": "7"}
"""By the first number of Jetson Linux's release (NVIDIA, JetPack SDK archive)."""


def jetpack(root: Path = ROOT) -> str | None:
    """Such as `JetPack 6 (Jetson Linux 36.4.3)`; None where this is no Jetson."""
    release = jetson_linux(root)
    if release is None:
        return None
    number = _JETPACK.get(release.split(".")[0])
    return f"Jetson Linux {release}" if number is None else f"JetPack {number} (Jetson Linux {release})"


def how_to_get_tensorrt(root: Path = ROOT) -> str:
    """The Python module and its libraries."""
    if (found := jetpack(root)) is not None:
        return (
            f"{found} has it: sudo apt install nvidia-tensorrt python3-libnvinfer, and in a virtual environment let it "
            "see the system's packages (python3 -m venv --system-site-packages)"
        )
    return "a Jetson has it from JetPack; elsewhere pip install 'edgestill[tensorrt]' from NVIDIA's package index"


def how_to_get_tensorrt_rtx(architecture: str | None = None) -> str:
    """Its wheel, where there is one."""
    if (architecture or platform.machine()).lower() in ARM64:
        return "its wheel is for x86-64 Linux alone; on this processor take runtime = 'tensorrt'"
    return "pip install 'edgestill[rtx]' (x86-64 Linux only)"


def how_to_get_libcudart(driver_version: str | None, root: Path = ROOT) -> str:
    """The CUDA runtime, in a version that the driver (such as `12.6`) serves."""
    if (found := jetpack(root)) is not None:
        return f"{found} has it: sudo apt install nvidia-cuda"
    wheel = "nvidia-cuda-runtime-cu12" if (driver_version or "").startswith("12.") else "nvidia-cuda-runtime"
    return f"install the CUDA toolkit, or pip install {wheel}, or pip install pycuda"
