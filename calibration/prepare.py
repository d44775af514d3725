"""The graph that is both measured and quantized: checked, named, folded, and the same for the same model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnx import ModelProto, NodeProto, TensorProto
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from calibration.errors import GraphRefused
from calibration.external_data import check, inferred
from calibration.external_tensors import is_referred_to, values_of
from calibration.graph import subgraphs
from calibration.runtime_types import with_runtime_types

LEAST_OPSET = 13
"""Per-axis QuantizeLinear and DequantizeLinear begin here."""

COMPUTE_OPERATORS = ("Conv", "Gemm", "MatMul")
"""Where the multiply-adds are, and what INT8 is for."""

_QUANTIZED_OPERATORS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "QGemm",
    }
)
_HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def prepared(model: ModelProto) -> ModelProto:
    """The model with batch-norms folded into convolutions, constants as initializers, and every node named.

    Local functions are inlined. Inputs and outputs keep their names; preparing twice changes nothing. Raises
    GraphRefused where the graph is invalid or nothing in it can be quantized.
    """
    model = onnx.inliner.inline_local_functions(model) if model.functions else model
    _refuse_what_cannot_be_quantized(model)
    copy = ModelProto()
    copy.CopyFrom(model)  # the passes write into the tensors that they are given
    graph = ir.from_proto(copy)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    common_passes.RemoveInitializersFromInputsPass()(graph)
    if not any(any(subgraphs(node)) for node in model.graph.node):
        common_passes.IdentityEliminationPass()(graph)  # of onnx_ir 1.1 it breaks a branch that is an Identity alone
    graph = rewrite(
        graph,
        pattern_rewrite_rules=[
            fuse_batchnorm_into_conv_rule,
            fuse_batchnorm_into_conv_transpose_rule,
            fuse_batchnorm_into_gemm_rule,
        ],
    )
    common_passes.RemoveUnusedNodesPass()(graph)
    common_passes.TopologicalSortPass()(graph)
    common_passes.ClearMetadataAndDocStringPass()(graph)
    folded = ir.to_proto(graph)
    del folded.graph.value_info[:]  # inferred anew, so that what an exporter left there cannot mislead
    _name_nodes(folded)
    return _checked(folded)


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that the model imports."""
    return next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)


def _refuse_what_cannot_be_quantized(model: ModelProto) -> None:
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        raise GraphRefused(f"the graph has opset {opset}; INT8 per channel needs {LEAST_OPSET} or later: export again")
    _refuse_tensors(model)
    for node in model.graph.node:
        _refuse_node(node)
    if not any(node.op_type in COMPUTE_OPERATORS for node in model.graph.node):
        raise GraphRefused(f"the graph has no {', '.join(COMPUTE_OPERATORS)}: there is nothing to quantize")
    try:
        check(model)
    except onnx.checker.ValidationError as error:
        raise GraphRefused(f"the graph is not valid ONNX: {error}") from error


def _refuse_tensors(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and not is_referred_to(tensor):
            raise GraphRefused(f"weight {tensor.name!r} is in another file; load the model with onnx.load")
        if tensor.data_type in _HALF_TYPES:
            raise GraphRefused(f"weight {tensor.name!r} is in half precision; give the FP32 export of the network")
        if tensor.data_type == TensorProto.FLOAT and np.isnan(values_of(tensor)).any():
            raise GraphRefused(f"weight {tensor.name!r} contains NaN; the training has diverged: export another one")


def _refuse_node(node: NodeProto) -> None:
    if node.op_type in _QUANTIZED_OPERATORS:
        raise GraphRefused(f"node {node.name!r} is {node.op_type}: the graph is quantized already; give the FP32 one")
    for inner in subgraphs(node):
        for each in inner.node:
            _refuse_node(each)


def _name_nodes(model: ModelProto) -> None:
    """Gives every node a name of its own, made from what it writes: names of tensors are unique."""
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{node.output[0]}"
        taken.add(node.name)


def _checked(model: ModelProto) -> ModelProto:
    try:
        found = inferred(model, check_type=True, strict_mode=True, data_prop=True)
        check(found, weights=False)
        return with_runtime_types(found)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphRefused(f"shapes or types of the graph do not fit together: {error}") from error
