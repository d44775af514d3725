"""A graph in a newer opset, for types that an older one does not have."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from calibration.errors import GraphRefused
from calibration.external_data import converted, inferred
from calibration.prepare import opset_of
from calibration.runtime_types import with_types_of


def at_opset(model: ModelProto, opset: int) -> ModelProto:
    """The model itself where it is new enough, else its conversion; raises GraphRefused where there is none."""
    if opset_of(model) >= opset:
        return model
    advice = f"export it with opset {opset} or later"
    try:
        raised = inferred(converted(model, opset), check_type=True, strict_mode=True, data_prop=True)
    except (RuntimeError, onnx.shape_inference.InferenceError) as error:
        raise GraphRefused(f"the graph does not convert to opset {opset} ({str(error).strip()}); {advice}") from error
    if [node.name for node in raised.graph.node] != [node.name for node in model.graph.node]:
        raise GraphRefused(f"the graph has other nodes at opset {opset}; {advice}")
    return with_types_of(raised, model)
