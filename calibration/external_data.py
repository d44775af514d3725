"""Graphs whose weights have no room in one protobuf: 2 GB and more.

Their weights stay in the file that they came in. The graph holds the absolute path, and each is mapped into memory
where its values are wanted, so what works on graphs copies and checks kilobytes. Smaller graphs hold their weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from calibration.external_tensors import (
    bytes_of_tensor,
    is_large_tensor,
    is_referred_to,
    parts_of,
    refer,
    reference,
    values_of,
)

LARGEST_PROTOBUF_BYTES = (1 << 31) - (64 << 20)
"""Of the tensors of one graph; the graph itself needs room beside them."""
LARGEST_CHECKED_BYTES = 1 << 28
"""Beyond it onnx checks a graph without its weights: with them it takes three copies of them."""
_PAGE_BYTES = 4096


def loaded(path: Path) -> ModelProto:
    """The graph with its weights, or, where they have no room in it, with the absolute paths to them.

    Raises protobuf's DecodeError for what is no ONNX file; onnx's ValidationError, OSError or ValueError where weights
    are not in a regular file of the graph's folder, or not all of them.
    """
    model = onnx.load(path, load_external_data=False)
    if tensor_bytes(model) <= LARGEST_PROTOBUF_BYTES:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        return model
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and is_large_tensor(tensor):
            refer(tensor, path.parent)
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL and not is_referred_to(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    return model


def tensor_bytes(model: ModelProto) -> int:
    """Of all initializers, wherever they are."""
    return sum(bytes_of_tensor(tensor) for tensor in model.graph.initializer)


def fits_one_file(model: ModelProto) -> bool:
    """Whether the graph and all of its weights make one ONNX file."""
    return tensor_bytes(model) <= LARGEST_PROTOBUF_BYTES


def serialized(model: ModelProto) -> bytes:
    """The one file that a graph makes with its weights, the same bytes for the same graph."""
    referring = [tensor for tensor in model.graph.initializer if is_referred_to(tensor)]
    if referring:
        model = _without_weights(model, referring)
        model.graph.initializer.extend(numpy_helper.from_array(values_of(each), each.name) for each in referring)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def is_large(model: ModelProto) -> bool:
    """Whether protobuf and onnx cannot take the graph with its weights at once."""
    external = any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)
    return external or not fits_one_file(model)


def check(model: ModelProto, full_check: bool = False, weights: bool = True) -> None:
    """onnx's checker, of the weights too unless they were checked before.

    Raises its ValidationError, or InferenceError where shapes are checked too.
    """
    without_weights = not weights or is_large(model) or tensor_bytes(model) > LARGEST_CHECKED_BYTES
    onnx.checker.check_model(_fed(model) if without_weights else model, full_check=full_check)


def inferred(model: ModelProto, **options: bool) -> ModelProto:
    """onnx's shape inference, whose options these are. Large weights, whose values tell no shape, do not go there."""
    found = onnx.shape_inference.infer_shapes(_fed(model), **options)
    result = ModelProto()
    result.CopyFrom(model)
    for values, now in (
        (result.graph.value_info, found.graph.value_info),
        (result.graph.output, found.graph.output),
    ):
        del values[:]
        values.extend(now)
    return result


def converted(model: ModelProto, opset: int) -> ModelProto:
    """At another opset. Raises RuntimeError where onnx has no conversion."""
    if not is_large(model):
        return onnx.version_converter.convert_version(model, opset)
    result = onnx.version_converter.convert_version(_fed(model), opset)
    weights = {tensor.name: tensor for tensor in _large(model)}
    inputs = [value for value in result.graph.input if value.name not in weights]
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    result.graph.initializer.extend(weights.values())
    return result


def digest(model: ModelProto) -> str:
    """SHA-256 of the graph and all of its weights."""
    if not is_large(model):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    found = hashlib.sha256(_fed(model).SerializeToString(deterministic=True))
    for tensor in _large(model):
        for part in parts_of(tensor):
            found.update(part)
    return found.hexdigest()


def session_of(model: ModelProto, options: Any, *, beside: bool = False) -> Any:
    """An onnxruntime session on the CPU, with these SessionOptions. Raises what onnxruntime raises.

    Weights are given `beside` the graph where they have no room in it, or where that is asked for: it is sooner, and
    they stay in memory for as long as the session.
    """
    import onnxruntime

    weights = _large(model) if beside or is_large(model) else []
    bare = model
    if weights:
        bare = _without_weights(model, weights)
        bare.graph.initializer.extend(reference(tensor, "given beside", 0) for tensor in weights)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(values_of(tensor)) for tensor in weights]
    options.add_external_initializers([tensor.name for tensor in weights], values)
    session = onnxruntime.InferenceSession(bare.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.weights = values  # it reads them where they are, as long as it lives
    return session


def write(model: ModelProto, weights: BinaryIO, location: str) -> bytes:
    """Writes the weights of a large graph, each on a page of its own, and gives the graph that finds them at
    `location`, a path relative to its own."""
    large = _large(model)
    result = _without_weights(model, large)
    offset = 0
    for tensor in large:
        result.graph.initializer.append(reference(tensor, location, offset))
        for part in parts_of(tensor):
            weights.write(part)
        padding = -bytes_of_tensor(tensor) % _PAGE_BYTES
        weights.write(bytes(padding))
        offset += bytes_of_tensor(tensor) + padding
    data: bytes = result.SerializeToString(deterministic=True)
    return data


def _large(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if is_large_tensor(tensor)]


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and attributes, those of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        yield from _tensors_of(node)


def _tensors_of(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)


def _without_weights(model: ModelProto, weights: Sequence[TensorProto]) -> ModelProto:
    """The model without these initializers, made without a copy of them."""
    names = {tensor.name for tensor in weights}
    bare = ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    for name in ("opset_import", "functions", "metadata_props"):
        getattr(bare, name).extend(getattr(model, name))
    graph = model.graph
    bare.graph.name = graph.name
    for name in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(bare.graph, name).extend(getattr(graph, name))
    bare.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in names)
    return bare


def _fed(model: ModelProto) -> ModelProto:
    """The model with its large initializers as inputs: the same types and shapes, without their values."""
    large = _large(model)
    bare = _without_weights(model, large)
    known = {value.name for value in bare.graph.input}
    bare.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large
        if tensor.name not in known
    )
    return bare
