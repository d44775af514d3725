"""NVIDIA Model Optimizer's ONNX quantization as a tool to be measured, in its own environment."""

from __future__ import annotations

import importlib
from importlib.metadata import version

from benchmarks.calibrating.data_reader import DataReader
from benchmarks.calibrating.quantizing import Job

METHODS = {"max": "max", "entropy": "entropy"}


def imports() -> None:
    importlib.import_module("modelopt.onnx.quantization")


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("nvidia-modelopt", "onnx", "onnxruntime")}


def quantize(job: Job) -> None:
    """It knows the one scheme s8s8."""
    from modelopt.onnx.quantization import quantize as quantize_onnx

    (scheme,) = job.schemes
    quantize_onnx(
        job.graph,
        quantize_mode="int8",
        calibration_data_reader=DataReader(job),
        calibration_method=METHODS[job.method],
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(job.file(scheme)),
        log_level="ERROR",
    )
