"""What is measured side by side: the tools, their methods, and which of their graphs are for the same runtime."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.calibrating.cells import ROOT
from calibration import METHODS

OURS = "edgestill"
STREAM = "edgestill-stream"
TITLES = {OURS: "edgestill", STREAM: "edgestill", "onnxruntime": "onnxruntime", "modelopt": "Model Optimizer"}

FAMILIES: dict[str, tuple[str, ...]] = {
    "cpu-avx2": ("u8s7",),
    "cpu-vnni": ("u8s8",),
    "tensorrt": ("s8s8", "s8s8-inputs"),
}
"""Schemes of the peers by the family of edgestill whose runtimes take them."""

MODEL_OPTIMIZER = "nvidia-modelopt==0.47.0"
# Its extra `onnx` asks for CUDA builds too, which calibration on a CPU never imports.
ITS_PACKAGES = (
    "torch==2.13.0",
    "numpy==2.4.6",
    "onnx==1.21.0",
    "onnxruntime==1.24.4",
    "onnx_graphsurgeon",
    "onnxconverter-common",
    "onnxslim",
    "polygraphy",
    "onnxscript",
    "scipy",
    "lief",
    "cppimport",
    "ninja",
    "PuLP",
    "regex",
    "nvidia-ml-py",
    "omegaconf",
    "pydantic",
    "safetensors",
    "rich",
    "tqdm",
    "setuptools",
    "packaging",
    "PyYAML",
)


@dataclass(frozen=True)
class Tool:
    """One tool with one method, and what it writes of one calibration."""

    name: str
    method: str
    schemes: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Of edgestill's command line."""
    variant: str = ""
    """These options in words."""

    @property
    def title(self) -> str:
        """`onnxruntime entropy`."""
        return f"{TITLES[self.name]} {self.setting}"

    @property
    def setting(self) -> str:
        """`entropy, no repair`."""
        return f"{self.method}, {self.variant}" if self.variant else self.method

    @property
    def slug(self) -> str:
        """For file names."""
        return "-".join((self.name, *self.setting.replace(":", " ").replace(",", "").split()))

    @property
    def source(self) -> str:
        """What its results depend on beside the request: our own code; the peers' versions are pinned."""
        return _own_source() if self.name.startswith(OURS) else ""


@cache
def _own_source() -> str:
    digest = hashlib.sha256()
    files = [
        *(ROOT / "calibration").rglob("*.py"),
        *(ROOT / "pipeline" / "quantizing").rglob("*.py"),
    ]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


TUNED = Tool(OURS, "percentile", (), ("--repair", "auto"), "repair auto")
TOOLS: tuple[Tool, ...] = (
    # A family a run: equalization is kept where all families of a run gain.
    *(replace(TUNED, schemes=(family,)) for family in ("tensorrt", "cpu-avx2")),
    *(Tool(OURS, method, tuple(FAMILIES)) for method in METHODS),
    *(Tool("onnxruntime", method, ("u8s7", "u8s8", "s8s8", "s8s8-inputs")) for method in ("minmax", "entropy")),
    Tool("onnxruntime", "percentile", ("u8s7", "u8s8", "s8s8", "s8s8-inputs")),
    *(Tool("modelopt", method, ("s8s8",)) for method in ("max", "entropy")),
)


def model_optimizer_python(folder: Path, install: bool) -> tuple[Path | None, str]:
    """Its interpreter in a virtual environment of its own, or None and why there is none."""
    python = folder / "bin" / "python"
    if not python.is_file() and install:
        venv.create(folder, with_pip=True)
        for arguments in (ITS_PACKAGES, ("--no-deps", MODEL_OPTIMIZER)):
            command = [str(python), "-m", "pip", "install", "--quiet", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                shutil.rmtree(folder)
                return None, f"pip could not install {arguments[-1]}: {done.stderr.strip().splitlines()[-1]}"
    if not python.is_file():
        return None, f"there is no environment in {folder}; give --install-model-optimizer"
    return python, ""


def python_of(tool: Tool, model_optimizer: Path | None) -> Path | None:
    """The interpreter that has the tool; None where there is none."""
    return model_optimizer if tool.name == "modelopt" else Path(sys.executable)
