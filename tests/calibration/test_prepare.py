"""The prepared graph: folded, named, equal for equal models, and what it refuses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_networks import NetworkBuilder, images, residual

from calibration.errors import GraphRefused
from calibration.prepare import prepared


def run(model: ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image})[0]
    return output


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def with_batch_norm() -> ModelProto:
    """Conv-BN-Relu-Conv-BN, with an Identity, a Constant node, nameless nodes and documentation strings."""
    net = NetworkBuilder()
    x = net.node("Relu", net.batch_norm(net.conv("image", 3, 8), 8))
    x = net.batch_norm(net.node("Identity", net.conv(x, 8, 4)), 4)
    two = net.node("Constant", value=numpy_helper.from_array(np.array(2, np.float32)))
    net.node("Mul", x, two, output="features")
    model = net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 4, 8, 8]})
    for node in model.graph.node:
        node.name, node.doc_string = "", "from /home/somebody/train.py"
    return model


def test_batch_norms_identities_and_constants_are_folded_and_the_result_is_the_same() -> None:
    model = with_batch_norm()
    folded = prepared(model)
    assert operators(folded) == {"Conv": 2, "Relu": 1, "Mul": 1}
    image = images(2, 3, 8, 8)
    np.testing.assert_allclose(run(folded, image), run(model, image), rtol=1e-4, atol=1e-5)


def test_preparing_twice_changes_nothing_and_equal_models_give_equal_bytes() -> None:
    once = prepared(with_batch_norm())
    assert prepared(once).SerializeToString() == once.SerializeToString()
    assert prepared(with_batch_norm()).SerializeToString() == once.SerializeToString()


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = with_batch_norm()
    before = model.SerializeToString()
    prepared(model)
    assert model.SerializeToString() == before


def test_inputs_and_outputs_keep_their_names_and_every_node_has_a_name_of_its_own() -> None:
    folded = prepared(with_batch_norm())
    assert [value.name for value in (*folded.graph.input, *folded.graph.output)] == ["image", "features"]
    names = [node.name for node in folded.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert b"/home" not in folded.SerializeToString()


def test_every_activation_has_a_known_type() -> None:
    folded = prepared(residual())
    known = {value.name for value in (*folded.graph.value_info, *folded.graph.output)}
    assert known == {name for node in folded.graph.node for name in node.output}


def test_an_output_that_an_identity_writes_keeps_its_name() -> None:
    net = NetworkBuilder()
    net.node("Identity", net.conv("image", 1, 4), output="features")
    folded = prepared(net.model({"image": ["batch", 1, 8, 8]}, {"features": ["batch", 4, 8, 8]}))
    assert [node.output[0] for node in folded.graph.node] == ["features"]


def test_a_batch_norm_behind_something_else_stays() -> None:
    net = NetworkBuilder()
    net.conv(net.batch_norm("image", 3), 3, 4, output="features")
    folded = prepared(net.model({"image": ["batch", 3, 8, 8]}, {"features": ["batch", 4, 8, 8]}))
    assert operators(folded) == {"BatchNormalization": 1, "Conv": 1}


_HEADER = '<ir_version: 10, opset_import: ["" : %d]> network '

_REFUSED = {
    "an early opset": (
        _HEADER % 12 + "(float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }",
        "opset 12; INT8 per channel needs 13 or later: export again",
    ),
    "a quantized graph": (
        _HEADER % 18
        + "(float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float s = {1}, int8 z = {0}> "
        + "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
        "is QuantizeLinear: the graph is quantized already; give the FP32 one",
    ),
    "no product": (
        _HEADER % 18 + "(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }",
        "the graph has no Conv, Gemm, MatMul: there is nothing to quantize",
    ),
    "operands that do not fit": (
        _HEADER % 18 + "(float[N, 2] x) => (float[N, 2] y) <float[3, 2] w = {1,2,3,4,5,6}> { y = MatMul(x, w) }",
        "shapes or types of the graph do not fit together",
    ),
    "a tensor that nobody writes": (
        _HEADER % 18 + "(float[N, 2] x) => (float[N, 2] y) { y = MatMul(x, nowhere) }",
        "the graph is not valid ONNX: .*nowhere",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_cannot_be_quantized_is_refused(case: str) -> None:
    text, message = _REFUSED[case]
    with pytest.raises(GraphRefused, match=message):
        prepared(onnx.parser.parse_model(text))


def test_weights_that_are_nan_half_precision_or_elsewhere_are_refused_by_name() -> None:
    model = residual(widths=(4,))
    weight = model.graph.initializer[0]
    sound = TensorProto.FromString(weight.SerializeToString())

    weight.CopyFrom(numpy_helper.from_array(np.full(sound.dims, np.nan, np.float32), weight.name))
    with pytest.raises(GraphRefused, match="weight 'weight_0' contains NaN; the training has diverged"):
        prepared(model)

    weight.CopyFrom(numpy_helper.from_array(np.zeros(sound.dims, np.float16), weight.name))
    with pytest.raises(GraphRefused, match="weight 'weight_0' is in half precision; give the FP32 export"):
        prepared(model)

    weight.CopyFrom(helper.make_tensor(weight.name, TensorProto.FLOAT, [0], []))
    weight.data_location = TensorProto.EXTERNAL
    with pytest.raises(GraphRefused, match=r"weight 'weight_0' is in another file; load the model with onnx\.load"):
        prepared(model)
