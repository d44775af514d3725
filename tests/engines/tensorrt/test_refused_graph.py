"""Each graph here is one that TensorRT-RTX refuses, and the sentence says what to do about it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest
from tensorrt_graphs import RTX, needs_tensorrt_rtx

from engines.base import Target
from engines.errors import BuildFailed

MODEL = '<ir_version: 9, opset_import: ["" : {opset}]> g '

REFUSED: dict[str, tuple[int, str, str]] = {
    "NonZero": (
        *(18, "(float[2,3] x) => (int64[2,n] y) { y = NonZero(x) }"),
        "its shape depends on the data: move what follows it out of the graph, or load a NonZero plugin",
    ),
    "Unique": (
        *(18, "(float[6] x) => (float[n] y) { y, a, b, c = Unique(x) }"),
        "node number 0 (Unique): TensorRT does not have this operator; its shape depends on the data",
    ),
    "Compress": (18, "(float[4] x, bool[4] c) => (float[n] y) { y = Compress(x, c) }", "or mask instead"),
    "text": (18, "(string[2] x) => (string[2] y) { y = Identity(x) }", "cast inputs and outputs to float32, float16"),
    "int16": (18, "(int16[2] x) => (int16[2] y) { y = Neg(x) }", "text and 16-bit integers it has not"),
    "DFT": (
        *(18, "(float[1,8,1] x) => (float[1,8,2] y) { y = DFT<axis=1>(x) }"),
        "compute the spectrum outside the graph, or as a product with a constant matrix",
    ),
    "Bernoulli": (
        18,
        "(float[2] x) => (float[2] y) { y = Bernoulli(x) }",
        "draw them outside and give them as an input",
    ),
    "sequence": (
        *(
            18,
            "(float[2] x) => (float[2] y) { s = SequenceConstruct(x) i = Constant<value_int=0>() "
            "y = SequenceAt(s, i) }",
        ),
        "write them as Concat, Split or Slice before exporting",
    ),
    "size as input": (
        *(18, "(float[1,10] x, int64[1] k) => (float[1,n] y, int64[1,n] i) { y, i = TopK(x, k) }"),
        "an input of the graph says a size (a K, a shape, pads, repeats): make it a constant when exporting",
    ),
    "TopK of many": (
        *(
            18,
            "(float[1,9000] x) => (float[1,n] y, int64[1,n] i) { k = Constant<value_ints=[5000]>() y, i = TopK(x, k) }",
        ),
        "take the largest in two steps, or sort outside the graph",
    ),
    "Resize": (
        18,
        "(float[1,1,4,4] x) => (float[1,1,8,8] y) { s = Constant<value_floats=[1.0,1.0,2.0,2.0]>() "
        'y = Resize<mode="cubic", coordinate_transformation_mode="tf_crop_and_resize">(x, , s) }',
        "export Resize with align_corners or half_pixel; crop with Slice",
    ),
    "MaxPool with indices": (
        18,
        "(float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) { y, i = MaxPool<kernel_shape=[2,2]>(x) }",
        "export pooling without return_indices",
    ),
    "MaxUnpool": (
        18,
        "(float[1,1,2,2] x, int64[1,1,2,2] i) => (float[1,1,4,4] y) { y = MaxUnpool<kernel_shape=[2,2]>(x, i) }",
        "write it as Resize, or ConvTranspose, before exporting",
    ),
    "RoiAlign": (
        *(18, "(float[1,2,8,8] x, float[3,4] r, int64[3] b) => (float[3,2,1,1] y) { y = RoiAlign(x, r, b) }"),
        "load the ROIAlign plugin of TensorRT's plugin library, or pool regions outside the graph",
    ),
    "DeformConv": (
        19,
        "(float[1,1,4,4] x, float[1,1,3,3] w, float[1,18,2,2] o) => (float[1,1,2,2] y) "
        "{ y = DeformConv<kernel_shape=[3,3]>(x, w, o) }",
        "its library must be loaded before: TensorRT looks it up by name and version",
    ),
    "Col2Im": (
        18,
        "(float[1,4,4] x) => (float[1,1,4,4] y) { i = Constant<value_ints=[4,4]>() b = Constant<value_ints=[2,2]>() "
        "y = Col2Im<strides=[2,2]>(x, i, b) }",
        "write torch.nn.Fold as ConvTranspose, or reshapes and sums, before exporting",
    ),
    "Det": (18, "(float[2,3,3] x) => (float[2] y) { y = Det(x) }", "or compute it outside the graph"),
    "DynamicQuantizeLinear": (
        *(18, "(float[4] x) => (uint8[4] y) { y, s, z = DynamicQuantizeLinear(x) }"),
        "give TensorRT the float graph, or what `edgestill quantize` makes of it",
    ),
    "BatchNormalization in training": (
        15,
        "(float[2,3,4,4] x, float[3] a) => (float[2,3,4,4] y) "
        "{ y, m, v = BatchNormalization<training_mode=1>(x, a, a, a, a) }",
        "export the network after model.eval()",
    ),
    "If of two ranks": (
        18,
        "(bool c, float[2,3] x) => (float[a,b] y) { y = If(c)<then_branch = t() => (float[2,3] p) { p = Identity(x) }, "
        "else_branch = e() => (float[6] q) { s = Constant<value_ints=[6]>() q = Reshape(x, s) }> }",
        "let both branches of If give tensors of one rank, or make the condition a constant",
    ),
    "Attention in FP32": (
        *(
            23,
            "(float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) { y = Attention(q, k, v) }",
        ),
        "the Attention operator of opset 23 builds in FP16 alone: build fp16, or export an older opset",
    ),
    "an input of nobody's": (
        *(18, "(float[2] x) => (float[2] y) { y = Add(x, nowhere) }"),
        "one of its inputs is written by no node before it; the graph contradicts itself: onnx.checker.check_model",
    ),
    "shapes that do not fit": (
        *(18, "(float[2,3] x, float[4,5] z) => (float[2,5] y) { y = MatMul(x, z) }"),
        "the graph contradicts itself: onnx.checker.check_model(path, full_check=True) says where",
    ),
}


@needs_tensorrt_rtx
@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_is_refused_is_told_what_to_do(name: str, tmp_path: Path) -> None:
    opset, body, said = REFUSED[name]
    graph = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL.format(opset=opset) + body), graph)
    with pytest.raises(BuildFailed) as caught:
        RTX.build(graph, "fp32", Target("rtx", "tensorrt-rtx"), tmp_path / "e.plan")
    assert said in str(caught.value)
    assert not (tmp_path / "e.plan").exists()
