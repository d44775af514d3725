"""What no runtime takes right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from calibration.lint.graph import MOVING_OPERATORS, Link, QdqGraph
from calibration.lint.rule import ANY, Found, LintRule
from calibration.scale import LARGEST_USUAL_AMAX, LEAST_USUAL_AMAX
from calibration.statistics.poison import LARGEST

EIGHT_BITS = ("int8", "uint8", "float8e4m3fn", "float8e5m2")
_LEAST_SCALE = np.finfo(np.float32).tiny
_LARGEST_NUMBER = {"int8": 127, "uint8": 255, "float8e4m3fn": 448, "float8e5m2": 57344}


def _broken_scales(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.scale is not None and (problem := _problem_of(link.scale)) is not None:
            yield link.node.name, f"its scale {link.node.input[1]!r} {problem}"


def _problem_of(scale: NDArray[np.float32]) -> str | None:
    if not scale.size:
        return "is empty"
    if np.isnan(scale).any():
        return "holds NaN"
    if np.isinf(scale).any():
        return "is infinite"
    least = float(scale.min())
    if least < 0:
        return f"is negative ({least:.6g})"
    if least < _LEAST_SCALE:
        return f"holds {least:.6g}, which is zero to a processor that flushes subnormal numbers"
    return None


def _absurd_scales(graph: QdqGraph) -> Found:
    for link, _, amax in _covered(graph):
        if amax > LARGEST:
            yield link.node.name, _covers(link, amax)


def _unusual_scales(graph: QdqGraph) -> Found:
    """Of weights the large ones alone: what training brought near zero has such small ones."""
    for link, least, amax in _covered(graph):
        if LARGEST_USUAL_AMAX < amax <= LARGEST:
            yield link.node.name, _covers(link, amax)
        elif least < LEAST_USUAL_AMAX and not graph.is_constant(graph.stored(link.node.input[0])):
            yield link.node.name, _covers(link, least)


def _covered(graph: QdqGraph) -> Iterator[tuple[Link, float, float]]:
    """Each DQ of 8 bits whose scales are such, with the least and the largest magnitude that they cover."""
    for link in graph.links.values():
        numbers = _LARGEST_NUMBER.get(link.dtype)
        if link.node.op_type != "DequantizeLinear" or numbers is None or link.scale is None or _problem_of(link.scale):
            continue
        yield link, float(link.scale.min()) * numbers, float(link.scale.max()) * numbers


def _covers(link: Link, amax: float) -> str:
    return f"its scale {link.node.input[1]!r} covers up to {amax:.6g}"


def _mismatched_pairs(graph: QdqGraph) -> Found:
    for dq in graph.links.values():
        q = graph.quantizer(dq) if dq.node.op_type == "DequantizeLinear" else None
        if q is not None and q.node.op_type == "QuantizeLinear" and (difference := _difference(q, dq)) is not None:
            yield dq.node.name, f"it reads {q.node.name or q.node.output[0]!r} with another {difference}"


def _difference(q: Link, dq: Link) -> str | None:
    if q.scale is not None and dq.scale is not None and _differ(q.scale, dq.scale):
        return f"scale ({_shown(q.scale)} against {_shown(dq.scale)})"
    if not np.array_equal(_zero_point(q), _zero_point(dq)):
        return "zero-point"
    if q.per_channel and dq.per_channel and q.axis != dq.axis:
        return f"axis ({q.axis} against {dq.axis})"
    return None


def _differ(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether the scales mean different values: one scale, and the same for each channel, do not."""
    if first.size != second.size and 1 not in (first.size, second.size):
        return True
    return bool((first.ravel() != second.ravel()).any())


def _shown(scale: NDArray[np.float32]) -> str:
    return f"{scale.ravel()[0]:.6g}" + (" …" if scale.size > 1 else "")


def _zero_point(link: Link) -> NDArray[np.int64]:
    return np.zeros(1, np.int64) if link.zero_point is None else np.unique(link.zero_point)


def _dangling_quantizers(graph: QdqGraph) -> Found:
    for tensor, link in graph.links.items():
        if link.node.op_type == "QuantizeLinear" and not _is_dequantized(graph, tensor):
            read = "is an output of the graph" if tensor in graph.outputs else "is read by no DequantizeLinear"
            yield link.node.name, f"{tensor!r} {read}"


def _is_dequantized(graph: QdqGraph, tensor: str) -> bool:
    for reader in graph.readers.get(tensor, []):
        if reader.op_type == "DequantizeLinear":
            return True
        if reader.op_type in MOVING_OPERATORS and _is_dequantized(graph, reader.output[0]):
            return True
    return False


def _half_scales(graph: QdqGraph) -> Found:
    for link in graph.links.values():
        if link.half_scale and graph.opset < 19:
            yield link.node.name, f"its scale {link.node.input[1]!r} is in half precision, at opset {graph.opset}"


def one_sided(graph: QdqGraph, node: NodeProto) -> Found:
    """Whether one operand of a product is in 8 bits and the other in float."""
    first, second = graph.operand(node, 0), graph.operand(node, 1)
    quantized = first or second
    if (first is None) != (second is None) and quantized and quantized.dq.dtype in EIGHT_BITS:
        yield node.name, f"only its {'first' if second is None else 'second'} operand is quantized"


ANY_RULES: tuple[LintRule, ...] = (
    LintRule(
        name="scale",
        severity="error",
        families=ANY,
        why="it turns the tensor into zeros, NaN or another sign; TensorRT refuses some of these and builds infinity",
        advice="calibrate again with data that the network was made for",
        source="ONNX QuantizeLinear; TensorRT IQuantizeLayer: 'scale coefficients must have strictly positive values'",
        versions="all",
        finds=_broken_scales,
    ),
    LintRule(
        name="absurd-scale",
        severity="error",
        families=ANY,
        why=f"all that a network computes becomes 0 beside it, and beyond {LARGEST:g} products overflow float32",
        advice="look at what the tensor held on the calibration data: infinity, an unset buffer or a mask of -1e30",
        source="real = scale * integer; calibration stops at such values: calibration/statistics/poison.py",
        versions="all",
        finds=_absurd_scales,
    ),
    LintRule(
        name="unusual-scale",
        severity="warning",
        families=ANY,
        why=f"beyond {LARGEST_USUAL_AMAX:g} most becomes 0, FP16 overflows; below {LEAST_USUAL_AMAX:g} it is cut off",
        advice="look at what the tensor held on the calibration data: an outlier, a mask or a dead layer",
        source="real = scale * integer",
        versions="all",
        finds=_unusual_scales,
    ),
    LintRule(
        name="mismatched-pair",
        severity="error",
        families=ANY,
        why="every value is multiplied by the ratio of the two scales, and runtimes build it without a word",
        advice="give the DequantizeLinear the scale, zero-point and axis of its QuantizeLinear",
        source="ONNX DequantizeLinear; built with TensorRT-RTX 1.7: tests/calibration/lint/test_lint.py",
        versions="all",
        finds=_mismatched_pairs,
    ),
    LintRule(
        name="half-scale",
        severity="error",
        families=ANY,
        why="QuantizeLinear takes float32 scales alone before opset 19: the checker and onnxruntime refuse it",
        advice="write opset 19 or later, or float32 scales between casts",
        source="ONNX QuantizeLinear-13 and -19",
        versions="opsets 13 to 18",
        finds=_half_scales,
    ),
    LintRule(
        name="dangling-quantizer",
        severity="warning",
        families=ANY,
        why="without a DequantizeLinear behind it nothing says what its integers mean, and nothing fuses with it",
        advice="put a DequantizeLinear of the same scale behind it, or take it out",
        source="ONNX QuantizeLinear",
        versions="all",
        finds=_dangling_quantizers,
    ),
)
