"""Types and shapes behind operators that ONNX does not know, as onnxruntime knows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from calibration.external_data import session_of

_ELEMENT_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(bfloat16)": TensorProto.BFLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(bool)": TensorProto.BOOL,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
}


def with_runtime_types(model: ModelProto) -> ModelProto:
    """The model, with what onnxruntime infers of the tensors behind operators that are none of ONNX's.

    Those that onnxruntime does not know either stay unknown: all of them where it lacks one of the operators.
    """
    graph = model.graph
    if all(node.domain in ("", "ai.onnx") for node in graph.node):
        return model
    known = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.elem_type}
    unknown = [name for node in graph.node for name in node.output if name and name not in known]
    if not unknown:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    result.graph.value_info.extend(_inferred(model, unknown))
    return result


def with_types_of(model: ModelProto, original: ModelProto) -> ModelProto:
    """The model, with what is known in the one that it was made of about tensors whose type is unknown here."""
    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.output)}
    written = {name for node in graph.node for name in node.output}
    missing = [value for value in original.graph.value_info if value.name in written - known]
    if not missing:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    result.graph.value_info.extend(missing)
    return result


def _inferred(model: ModelProto, names: Sequence[str]) -> list[ValueInfoProto]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    asked = ModelProto()
    asked.CopyFrom(model)
    asked.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = session_of(asked, options)
    except Exception:  # its errors share no base class; the pass says of this graph what is wrong with it
        return []
    wanted = set(names)
    return [_value(each) for each in session.get_outputs() if each.name in wanted and each.type in _ELEMENT_TYPES]


def _value(found: Any) -> ValueInfoProto:
    shape = [size if isinstance(size, int | str) else None for size in found.shape]
    return helper.make_tensor_value_info(found.name, _ELEMENT_TYPES[found.type], shape)
