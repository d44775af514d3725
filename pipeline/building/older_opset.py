"""A graph in an older opset, for runtimes that read no newer one: TensorRT 8.6 reads up to 17."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.feeds import random_feeds
from pipeline.errors import NotAcceptable
from pipeline.exporting.parity import ReferenceSession, Tolerance, compare
from pipeline.files import atomic
from pipeline.quantizing.inputs.graph_inputs import fixed_batch, tensor_infos

if TYPE_CHECKING:
    import onnx

TRIED_BATCH = 2
"""Samples of random inputs on which both graphs must agree, where the batch is dynamic."""
_SAME = Tolerance(1e-4, 1e-4)


def opset_of(graph: Path) -> int:
    """The version of ONNX's own operators; 0 where the graph has none."""
    import onnx

    return _opset(onnx.load(graph, load_external_data=False))


def at_opset(graph: Path, opset: int, to: Path, sizes: Mapping[str, int]) -> Path:
    """The graph itself where it is old enough; else its conversion, written to `to`.

    `sizes` are of the dynamic axes other than the batch, by name, at which both graphs are tried.

    Raises NotAcceptable where an operator has no older form, and where the converted graph answers otherwise.
    """
    if opset_of(graph) <= opset:
        return graph
    import onnx

    model = onnx.load(graph)
    found = _opset(model)
    try:
        converted = onnx.version_converter.convert_version(_convertible(model), opset)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises what its C++ does: RuntimeError, and others by version
        reason = str(error).strip().splitlines()[0]
        raise NotAcceptable(
            f"{graph.name}: has no form in opset {opset} ({reason}); export opset {found} for a newer runtime, or take "
            "the operator out of the network"
        ) from error
    atomic.write_bytes(to, converted.SerializeToString())
    _require_same(graph, to, (found, opset), sizes)
    return to


def _opset(model: onnx.ModelProto) -> int:
    return next((each.version for each in model.opset_import if not each.domain), 0)


def _convertible(model: onnx.ModelProto) -> onnx.ModelProto:
    """In the forms that the converter knows: newer attributes left out where they say the default, constants as
    tensors."""
    for node in model.graph.node:
        kept = [each for each in node.attribute if not (each.name == "noop_with_empty_axes" and each.i == 0)]
        kept = [_as_tensor(each) for each in kept] if node.op_type == "Constant" else kept
        del node.attribute[:]
        node.attribute.extend(kept)
    return model


def _as_tensor(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    """`value` for `value_ints` and its kin."""
    import onnx

    dtype = {"int": np.int64, "float": np.float32}.get(attribute.name.removeprefix("value_").removesuffix("s"))
    if dtype is None:
        return attribute
    values = np.array(onnx.helper.get_attribute_value(attribute), dtype)
    return onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(values))


def _require_same(graph: Path, converted: Path, opsets: tuple[int, int], sizes: Mapping[str, int]) -> None:
    """Both graphs answer alike on random inputs: a converter's slip must not reach a device."""
    before, after = opsets
    infos = tensor_infos(graph, sizes)
    feeds = random_feeds(infos, fixed_batch(infos) or TRIED_BATCH, seed=0)
    wanted, answered = ReferenceSession(graph, 1).run(feeds), ReferenceSession(converted, 1).run(feeds)
    for name, expected in wanted.items():
        if not np.issubdtype(expected.dtype, np.number):
            continue
        error, _, within = compare(expected, answered[name], _SAME)
        if not within:
            raise NotAcceptable(
                f"{graph.name}: converted from opset {before} to {after}, output '{name}' differs by {error:.3g}; "
                f"export opset {after} by other means, or build for a runtime that reads {before}"
            )
