"""What TensorRT says of a graph that it refuses, in words that name the node and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from engines.tensorrt.api import ParserError
from engines.tensorrt.log import readable

_NOISE = (
    (re.compile(r"\s*\[checkMacros\.cpp::catchCudaError.*?\(cudaError 35: [^)]*\)\)"), ""),  # no driver here
    (re.compile(r"^Invalid Node - \S+ "), ""),
    (re.compile(r"In node -1 with name: +and operator: +\(\w+\): \w+: "), ""),
    (re.compile(r"\bAssertion failed: .*?: (?=\S)"), ""),
    (re.compile(r'^.*? && "(.*)"$', re.DOTALL), r"\1"),
    (re.compile(r"^(Failed to import initializer: )\1"), r"\1"),
    (re.compile(r"^false$"), "TensorRT does not have this operator"),
    (re.compile(r"Node input was not registered"), "one of its inputs is written by no node before it"),
    (re.compile(r"\bONNX date type\b"), "ONNX data type"),
    (re.compile(r'" +"'), ""),  # of text that C++ joins
    (re.compile(r", are the plugin name, version, and namespace correct\?"), ""),
    (re.compile(r"doesn't support mode than 1 outputs"), "supports one output alone"),
)

_PLUGINS: Mapping[str, str] = {
    "NonZero": "its shape depends on the data: move what follows it out of the graph, or load a NonZero plugin",
    "RoiAlign": "load the ROIAlign plugin of TensorRT's plugin library, or pool regions outside the graph",
    "DeformConv": "load a plugin of that name, or put a plain convolution in its place",
    "NonMaxSuppression": "leave it out of the graph and run it on the boxes, or use the EfficientNMS plugin",
}

_OPERATORS: Mapping[str, str] = {
    **dict.fromkeys(
        ("SequenceConstruct", "SequenceAt", "SplitToSequence", "ConcatFromSequence", "SequenceEmpty"),
        "sequences are lists of tensors of any shape: write them as Concat, Split or Slice before exporting",
    ),
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"),
        "an engine that draws random numbers repeats nothing: draw them outside and give them as an input",
    ),
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
        "it is onnxruntime's way to quantize: give TensorRT the float graph, or what `edgestill quantize` makes of it",
    ),
    **dict.fromkeys(
        ("Unique", "Compress"), "its shape depends on the data: move what follows it out of the graph, or mask instead"
    ),
    "MaxUnpool": "write it as Resize, or ConvTranspose, before exporting",
    "Col2Im": "write torch.nn.Fold as ConvTranspose, or reshapes and sums, before exporting",
    "Det": "write it as products and sums, or compute it outside the graph",
    "DFT": "compute the spectrum outside the graph, or as a product with a constant matrix",
    "CenterCropPad": "write it as Slice and Pad of constant sizes before exporting",
    "BitShift": "multiply or divide by powers of two, in int32",
}

_ADVICE = (
    (re.compile(r"has type Int32 but must have type FP8"), "leave biases in float, they need no DequantizeLinear"),
    (re.compile(r"Non-zero zero point"), "calibrate for the family of this runtime: signed, symmetric, zero-point 0"),
    (re.compile(r"Failed to import initializer"), "weights in a file of their own must lie beside the graph"),
    (re.compile(r"kOPT values for profile"), "choose other opt sizes for the batch and axes of the target"),
    (re.compile(r"within workspace limit"), "raise workspace_mb of the target"),
    (re.compile(r"for Turing \(SM75\): FP32"), "take 7.5 out of compute_capabilities, or give it a graph in FP16"),
    (
        re.compile(r"no optimization profile has been defined"),
        "an input of the graph says a size (a K, a shape, pads, repeats): make it a constant when exporting",
    ),
    (re.compile(r"K exceeds the maximum value"), "take the largest in two steps, or sort outside the graph"),
    (
        re.compile(r"Failed to convert ONNX data type"),
        "cast inputs and outputs to float32, float16, int32 or int64 in the graph; text and 16-bit integers it has not",
    ),
    (
        re.compile(r"TensorRT only supports half_pixel, pytorch_half_pixel"),
        "export Resize with align_corners or half_pixel; crop with Slice",
    ),
    (re.compile(r"supports one output alone for MaxPool"), "export pooling without return_indices"),
    (
        re.compile(r"training_mode == 1|in training mode|one output alone for BatchNormalization"),
        "export the network after model.eval()",
    ),
    (
        re.compile(r"Must have inputs with equal ranks when condition"),
        "let both branches of If give tensors of one rank, or make the condition a constant",
    ),
    (
        re.compile(r"Attention operation was not supported by a dedicated kernel"),
        "the Attention operator of opset 23 builds in FP16 alone: build fp16, or export an older opset",
    ),
    (
        re.compile(r"one of its inputs is written by no node|misalign with the channel size|but must match"),
        "the graph contradicts itself: onnx.checker.check_model(path, full_check=True) says where",
    ),
    (
        re.compile(r"[Pp]lugin (?:not found|was not found|creator)"),
        "where it is a plugin of yours, its library must be loaded before: TensorRT looks it up by name and version",
    ),
)


def complaint(error: ParserError) -> str:
    """One error of the parser: the node, its operator, what is wrong, and what helps that operator."""
    said = readable(error.desc())
    for noise, rest in _NOISE:
        said = noise.sub(rest, said)
    operator = error.node_operator()
    if not operator:
        return said
    node = repr(error.node_name()) if error.node_name() else f"number {error.node()}"
    what_helps = _OPERATORS.get(operator) or (_PLUGINS.get(operator) if "lugin" in said else None)
    return f"node {node} ({operator}): {said.rstrip('.!')}" + (f"; {what_helps}" if what_helps else "")


def with_advice(said: Sequence[str]) -> str:
    """What was said, each thing once, and what to do where that is known."""
    advice = [what for pattern, what in _ADVICE if any(pattern.search(line) for line in said)]
    return "; ".join(dict.fromkeys((*said, *advice))) or "it did not say why"
