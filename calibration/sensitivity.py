"""What each layer loses to INT8, cheaply: one pass for all of them, by what each makes of float inputs.

The exact cost of a layer is the quality of a whole graph in which it alone is quantized; this pass says where to look.
Both operands of a layer are quantized as its Q/DQ graph quantizes them, and its result is compared with the float one
inside the graph, so that two sums leave it for each layer and memory grows neither with images nor with layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from calibration.errors import CalibrationError
from calibration.methods.method import Range
from calibration.quality import decibels, session_as_written
from calibration.statistics import BINS, Sketch
from calibration.statistics.collect import Batch

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def local_sqnr_db(
    model: ModelProto,
    int8: ModelProto,
    layers: Sequence[str],
    batches: Iterable[Batch],
    *,
    threads: int,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Signal over quantization noise of each layer's own result, in dB; inf where nothing is lost.

    `int8` is the Q/DQ graph that `calibration.qdq.quantize` made of the prepared `model`; `layers` are nodes of it.
    Raises CalibrationError where no image came.
    """
    session = session_as_written(_instrumented(model, int8, layers), threads)
    names = [output.name for output in session.get_outputs()]
    sums = np.zeros((2, len(layers)))
    images = 0
    for batch in batches:
        found = np.array(session.run(names, dict(batch.feeds)), np.float64).reshape(2, len(layers))
        sums += found
        images += len(batch.ids)
        if on_batch is not None:
            on_batch(images)
    if images == 0:
        raise CalibrationError("no image to compare the layers on; give at least one")
    return {layer: decibels(*map(float, sums[:, index])) for index, layer in enumerate(layers)}


def saturation(sketch: Sketch, covered: Range) -> float:
    """Share of a tensor's values that lie outside a range; bins that an end cuts count in proportion."""
    if not sketch.count or sketch.exponent is None:
        return 0.0
    middle = BINS - 1
    above = _beyond(sketch.counts[middle:], sketch.width, covered.high) if sketch.maximum > covered.high else 0.0
    below = _beyond(sketch.counts[middle::-1], sketch.width, -covered.low) if sketch.minimum < covered.low else 0.0
    return min(above + below, float(sketch.count)) / sketch.count


def _beyond(counts: NDArray[np.int64], width: float, end: float) -> float:
    """Values in the bins [i, i + 1) * width that are larger than `end`."""
    lower = np.arange(len(counts)) * width
    outside = np.clip((lower + width - max(end, 0.0)) / width, 0.0, 1.0)
    return float((counts * outside).sum())


def _instrumented(model: ModelProto, int8: ModelProto, layers: Sequence[str]) -> ModelProto:
    """The float graph, and beside each layer a copy that reads what its Q/DQ graph would have it read."""
    both = ModelProto()
    both.CopyFrom(model)
    known = {tensor.name for tensor in model.graph.initializer}
    both.graph.initializer.extend(tensor for tensor in int8.graph.initializer if tensor.name not in known)
    both.graph.node.extend(node for node in int8.graph.node if node.op_type in _QUANTIZERS)
    by_name = {node.name: node for node in int8.graph.node}
    for layer in layers:
        both.graph.node.extend(_compared(by_name[layer]))
    del both.graph.output[:]
    both.graph.output.extend(
        helper.make_tensor_value_info(f"{layer}:{kind}", TensorProto.FLOAT, None)
        for kind in ("signal", "noise")
        for layer in layers
    )
    return both


def _compared(node: NodeProto) -> list[NodeProto]:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = f"{node.name}:int8", f"{node.name}:int8"
    difference = f"{node.name}:difference"
    return [
        copy,
        helper.make_node("Sub", [node.output[0], copy.output[0]], [difference], name=difference),
        _sum_of_squares(node.output[0], f"{node.name}:signal"),
        _sum_of_squares(difference, f"{node.name}:noise"),
    ]


def _sum_of_squares(tensor: str, output: str) -> NodeProto:
    return helper.make_node("ReduceSumSquare", [tensor], [output], name=output, keepdims=0)
