"""`onnxruntime.quantization.quantize_static` as a tool to be measured."""

from __future__ import annotations

import contextlib
import importlib
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.calibrating.data_reader import DataReader
from benchmarks.calibrating.quantizing import Job

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}

SCHEMES: dict[str, dict[str, Any]] = {
    "u8s8": {"activation": "QUInt8"},
    # What its documentation says for a CPU of AVX2 without VNNI: 7-bit weights do not saturate.
    "u8s7": {"activation": "QUInt8", "reduce_range": True},
    # What TensorRT takes.
    "s8s8": {"activation": "QInt8", "extra_options": _SYMMETRIC},
    # ... with Q/DQ at the inputs of products alone, as in its examples for TensorRT.
    "s8s8-inputs": {
        "activation": "QInt8",
        "op_types_to_quantize": _PRODUCTS,
        "extra_options": {
            **_SYMMETRIC,
            "OpTypesToExcludeOutputQuantization": _PRODUCTS,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    },
}


def imports() -> None:
    importlib.import_module("onnxruntime.quantization")


def versions() -> dict[str, str]:
    return {"onnxruntime": version("onnxruntime")}


def quantize(job: Job) -> None:
    """One calibration pass: further schemes take its ranges from the tool's own cache."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # it advises a step that the exporter has done already
    cache = Path(job.out) / f"onnxruntime.{job.method}.cache.json"
    cache.unlink(missing_ok=True)
    for scheme in job.schemes:
        settings = dict(SCHEMES[scheme])
        activation = getattr(QuantType, settings.pop("activation"))
        with contextlib.chdir(job.out):  # it writes files of fixed names
            quantize_static(
                job.graph,
                str(job.file(scheme)),
                DataReader(job),
                per_channel=True,
                activation_type=activation,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, METHODS[job.method]),
                calibration_cache_path=str(cache) if len(job.schemes) > 1 else None,
                **settings,
            )
