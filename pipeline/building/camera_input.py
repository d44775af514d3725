"""Camera input: layout and normalization inside the graph, so that an engine takes the bytes of an image."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.base import UINT8_NHWC
from engines.feeds import random_feeds
from pipeline.data.preprocess import Preprocess
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.exporting.parity import ReferenceSession, Tolerance, compare
from pipeline.files.onnx_file import loaded_graph, write_graph
from pipeline.quantizing.inputs.graph_inputs import fixed_batch, tensor_infos

if TYPE_CHECKING:
    import onnx

TRIED_BATCH = 2
"""Samples of random bytes on which both graphs must agree, where the batch is dynamic."""
_SAME = Tolerance(1e-4, 1e-4)
_UNKNOWN_SIZE = 64
"""Pixels of a dynamic height or width on which both graphs are tried, where nothing says more."""


def with_camera_input(graph: Path, preprocess: Preprocess, to: Path) -> Path:
    """The graph with bytes of (batch, height, width, channels) as its input, written to `to`.

    In front stand Cast, Transpose and `(x * scale - mean) / std` in float32, in this order: TensorRT takes UINT8 into a
    Cast alone. All behind them is as it was. resize and crop stay the application's.

    Raises RecipeError where the graph does not take one float32 image, or as many channels as preprocess has values;
    NotAcceptable where the folded graph answers otherwise.
    """
    from calibration.external_data import check

    model = loaded_graph(graph)
    image = _image_input(model, graph)
    _require_channels(_channels(image), preprocess, graph)
    normalized = _fold(model, image, preprocess)
    try:
        check(model)
    except Exception as error:  # onnx.checker.ValidationError is no public class of all versions
        raise NotAcceptable(f"{graph.name}: has no valid form with {UINT8_NHWC} input: {error}") from error
    write_graph(to, model)
    if _in_bfloat16(model):  # which onnxruntime's CPU does not compute: what stands in front is tried alone
        _require_normalized(model, image.name, normalized, to, preprocess)
    else:
        _require_same(graph, to, image.name, preprocess)
    return to


def takes_bytes(name: str, shape: tuple[int, ...], preprocess: Preprocess) -> dict[str, Any]:
    """What an application must know of such an engine; `shape` is of the graph's own input, -1 where it is dynamic."""
    batch, channels, height, width = shape
    return {
        "name": name,
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": [batch, height, width, channels],
        "values": "the bytes of the image, 0 to 255, after resize and crop",
        "resize": preprocess.resize,
        "crop": preprocess.crop,
        "folded": preprocess.model_dump(mode="json", include={"scale", "mean", "std"}),
    }


def fed_as_bytes(graph: Path, preprocess: Preprocess) -> dict[str, Any]:
    """`takes_bytes` of a graph before it is folded."""
    [info] = tensor_infos(graph, {})
    return takes_bytes(info.name, info.shape, preprocess)


def _image_input(model: onnx.ModelProto, graph: Path) -> onnx.ValueInfoProto:
    import onnx

    weights = {each.name for each in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise RecipeError(f"{graph.name}: {UINT8_NHWC} is for graphs with one image as input, and it has {names}")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        dtype = onnx.helper.tensor_dtype_to_string(tensor.elem_type).removeprefix("TensorProto.").lower()
        raise RecipeError(
            f"{graph.name}: {UINT8_NHWC} is for a float input of (batch, channels, height, width), and "
            f"'{inputs[0].name}' is {dtype} of {len(tensor.shape.dim)} dimensions"
        )
    if _channels(inputs[0]) < 1:
        raise RecipeError(f"{graph.name}: input '{inputs[0].name}' leaves its channels open; fix axis 1 when exporting")
    return inputs[0]


def _channels(image: onnx.ValueInfoProto) -> int:
    return int(image.type.tensor_type.shape.dim[1].dim_value)


def _require_channels(channels: int, preprocess: Preprocess, graph: Path) -> None:
    if len(preprocess.mean) not in (1, channels):
        raise RecipeError(
            f"{graph.name}: its images have {channels} channel{'s' if channels > 1 else ''}, preprocess.mean has "
            f"{len(preprocess.mean)} values; give one for all, or one for each"
        )


def _fold(model: onnx.ModelProto, image: onnx.ValueInfoProto, preprocess: Preprocess) -> str:
    """Changes the model: the input keeps its name and becomes bytes, and what read it reads the normalized image.

    Returns the name of that.
    """
    import onnx

    from calibration.names import FreshNames

    names = FreshNames(model)
    normalized = names.like(f"{image.name}_normalized")
    _read_instead(model.graph, image.name, normalized)
    front, last = [], image.name
    for operator, constant, attributes in _steps(preprocess):
        result = names.like(f"{image.name}_{operator.lower()}")
        operands = [last]
        if constant is not None:
            operands.append(names.like(f"{result}_by"))
            model.graph.initializer.append(onnx.numpy_helper.from_array(constant, operands[1]))
        front.append(onnx.helper.make_node(operator, operands, [result], name=result, **attributes))
        last = result
    front[-1].output[0] = normalized
    behind = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*front, *behind])
    image.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    _as_nhwc(image)
    return normalized


def _steps(preprocess: Preprocess) -> Iterator[tuple[str, NDArray[np.float32] | None, Mapping[str, Any]]]:
    """Operator, second operand and attributes; what would change no value is left out."""
    import onnx

    scale, mean, std = (
        np.asarray(values, np.float32).reshape(-1, 1, 1)
        for values in (preprocess.scale, preprocess.mean, preprocess.std)
    )
    yield "Cast", None, {"to": onnx.TensorProto.FLOAT}
    yield "Transpose", None, {"perm": [0, 3, 1, 2]}
    if preprocess.scale != 1:
        yield "Mul", scale, {}
    if any(preprocess.mean):
        yield "Sub", mean, {}
    if any(each != 1 for each in preprocess.std):
        yield "Div", std, {}


def _as_nhwc(image: onnx.ValueInfoProto) -> None:
    import onnx

    shape = onnx.TensorShapeProto()
    dims = image.type.tensor_type.shape.dim
    shape.dim.extend(dims[at] for at in (0, 2, 3, 1))
    image.type.tensor_type.shape.CopyFrom(shape)


def _read_instead(graph: onnx.GraphProto, name: str, other: str) -> None:
    """Of this graph and of what it holds inside."""
    from calibration.graph import subgraphs

    for node in graph.node:
        for at, each in enumerate(node.input):
            if each == name:
                node.input[at] = other
        for inner in subgraphs(node):
            _read_instead(inner, name, other)
            for output in inner.output:
                output.name = other if output.name == name else output.name


def _in_bfloat16(model: onnx.ModelProto) -> bool:
    import onnx

    brain = onnx.TensorProto.BFLOAT16
    casts = (each for node in model.graph.node if node.op_type == "Cast" for each in node.attribute)
    weights = (weight.data_type == brain for weight in model.graph.initializer)
    return any(weights) or any(each.name == "to" and each.i == brain for each in casts)


def _require_normalized(
    model: onnx.ModelProto, name: str, normalized: str, folded: Path, preprocess: Preprocess
) -> None:
    """What stands in front of the network makes of random bytes what `preprocess` makes of them."""
    import onnx

    front = onnx.ModelProto()
    front.CopyFrom(model)
    last = next(at for at, node in enumerate(model.graph.node) if normalized in node.output)
    for field, kept in (("node", model.graph.node[: last + 1]), ("value_info", ()), ("output", ())):
        front.graph.ClearField(field)
        getattr(front.graph, field).extend(kept)
    front.graph.output.append(onnx.helper.make_tensor_value_info(normalized, onnx.TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory(prefix="edgestill-") as aside:
        alone = Path(aside) / folded.name
        onnx.save(front, alone)
        feeds = _random_bytes(alone, name, preprocess)
        [answered] = ReferenceSession(alone, 1).run(feeds).values()
    expected = np.stack([preprocess.normalized_bytes(image) for image in feeds[name]])
    error, _, within = compare(expected, answered, _SAME)
    if not within:
        raise NotAcceptable(
            f"{folded.name}: with {UINT8_NHWC} input, the normalized image differs by {error:.3g}; leave 'input' out "
            "of the target"
        )


def _random_bytes(folded: Path, name: str, preprocess: Preprocess) -> dict[str, NDArray[Any]]:
    [info] = tensor_infos(folded, {})
    sample = tuple(each if each > 0 else _tried_size(at, preprocess) for at, each in enumerate(info.shape[1:]))
    return random_feeds([info], fixed_batch([info]) or TRIED_BATCH, seed=0, shapes={name: sample})


def _require_same(graph: Path, folded: Path, name: str, preprocess: Preprocess) -> None:
    """Both graphs answer alike, one on random bytes, the other on what `preprocess` makes of them."""
    feeds = _random_bytes(folded, name, preprocess)
    floats = np.stack([preprocess.normalized_bytes(image) for image in feeds[name]])
    wanted, answered = ReferenceSession(graph, 1).run({name: floats}), ReferenceSession(folded, 1).run(feeds)
    for output, expected in wanted.items():
        if not np.issubdtype(expected.dtype, np.number):
            continue
        error, _, within = compare(expected, answered[output], _SAME)
        if not within:
            raise NotAcceptable(
                f"{graph.name}: with {UINT8_NHWC} input, output '{output}' differs by {error:.3g} from that of the "
                "normalized image; leave 'input' out of the target"
            )


def _tried_size(at: int, preprocess: Preprocess) -> int:
    """Pixels of a dynamic height (0) or width (1)."""
    size = preprocess.crop or preprocess.resize
    return _UNKNOWN_SIZE if size is None else size[at]
