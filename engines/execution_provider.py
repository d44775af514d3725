"""onnxruntime's execution providers, asked for by name: what each computes, and whether it truly did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.errors import EngineError

NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

_QUANTIZED = "has no INT8 convolution and would compute in float between Q/DQ pairs; take provider = 'tensorrt'"
_BFLOAT16 = "onnxruntime loads no BF16 graph on a CPU, where its engines are audited; take runtime = 'tensorrt'"
NEVER_BUILDS: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "tf32": "a CPU has no TF32",
        "fp16": "onnxruntime on a CPU computes FP16 in FP32 between casts, which is slower than FP32",
        "bf16": "onnxruntime on a CPU has no BF16 kernels",
        "int8+fp16": "onnxruntime on a CPU fuses Q/DQ pairs of float32 alone; its int8 has FP32 beside",
        "fp8": "onnxruntime on a CPU multiplies no FP8",
    },
    "cuda": {
        "int8": f"onnxruntime's CUDA provider {_QUANTIZED}",
        "int8+fp16": f"onnxruntime's CUDA provider {_QUANTIZED}",
        "bf16": _BFLOAT16,
        "fp8": "onnxruntime's CUDA provider multiplies no FP8",
    },
    "tensorrt": {
        "fp32": "onnxruntime's TensorRT provider has no switch for TF32, so its FP32 is 'tf32'",
        "bf16": _BFLOAT16,
        "fp8": "onnxruntime's TensorRT provider has no switch for FP8; take runtime = 'tensorrt'",
    },
}
"""Precisions that a provider computes on no machine, each with the reason."""

_PRODUCTS = ("Conv", "MatMul", "Gemm", "Attention", "Einsum")
_NAMES_SHOWN = 5


def why_no_provider(onnxruntime: Any, provider: str) -> str | None:
    """None where the installed onnxruntime has it; else what to install."""
    available = onnxruntime.get_available_providers()
    if NAMES[provider] in available:
        return None
    return (
        f"the onnxruntime here has no {NAMES[provider]} (it has {', '.join(available)}): pip uninstall onnxruntime, "
        "then pip install onnxruntime-gpu; on a Jetson take the wheel that is built for its JetPack"
    )


def provider_list(provider: str, precision: str) -> list[Any]:
    """What a session is asked for, the wanted one first. TensorRT's leaves what it does not take to CUDA's."""
    cuda = (NAMES["cuda"], {"use_tf32": str(int(precision == "tf32"))})
    if provider == "cuda":
        return [cuda]
    if provider == "tensorrt":
        # What the graph does not hold is not chosen: an FP32 graph stays FP32 with both switches off.
        half, quantized = "fp16" in precision, "int8" in precision
        return [(NAMES["tensorrt"], {"trt_fp16_enable": str(half), "trt_int8_enable": str(quantized)}), cuda]
    return [NAMES["cpu"]]


def require_provider(session: Any, provider: str) -> None:
    """Raises EngineError where a session does not run on what was asked for, or leaves its products to the CPU."""
    wanted, found = NAMES[provider], session.get_providers()
    if found[:1] != [wanted]:
        raise EngineError(
            f"runs on {', '.join(found)}, asked for was {wanted}: its libraries did not load; CUDA, cuDNN and TensorRT "
            "must be those that this onnxruntime was built with"
        )
    strayed = [] if provider == "cpu" else _products_on_cpu(session)
    if strayed:
        names = ", ".join(strayed[:_NAMES_SHOWN])
        raise EngineError(
            f"{len(strayed)} of its products run on the CPU, asked for was {wanted} ({names}): it does not take them; "
            "take provider = 'cpu', or change these nodes"
        )


def _products_on_cpu(session: Any) -> list[str]:
    """Names of convolutions and matrix products that CPU kernels run; empty where onnxruntime is too old to tell."""
    try:
        assigned = session.get_provider_graph_assignment_info()
    except AttributeError:
        return []
    nodes = [node for part in assigned if part.ep_name == NAMES["cpu"] for node in part.get_nodes()]
    return [node.name or node.op_type for node in nodes if any(word in node.op_type for word in _PRODUCTS)]
