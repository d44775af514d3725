"""Small seeded networks in ONNX for the tests of calibration: no torch, no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class NetworkBuilder:
    """Adds layers one after another; each returns the name of the tensor it writes."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def weight(self, values: NDArray[np.generic], name: str | None = None) -> str:
        name = name or f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (self._random.standard_normal(shape) * scale).astype(np.float32)

    def conv(
        self, x: str, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, group: int = 1, output: str | None = None
    ) -> str:
        weight = self.normal(c_out, c_in // group, kernel, kernel, scale=(2 / (c_in // group * kernel * kernel)) ** 0.5)
        pads = [kernel // 2] * 4
        inputs = (x, self.weight(weight), self.weight(self.normal(c_out, scale=0.1)))
        return self.node("Conv", *inputs, output=output, pads=pads, strides=[stride] * 2, group=group)

    def batch_norm(self, x: str, channels: int) -> str:
        parameters = (
            1 + self.normal(channels, scale=0.1),
            self.normal(channels, scale=0.1),
            self.normal(channels, scale=0.1),
            1 + np.abs(self.normal(channels, scale=0.1)),
        )
        return self.node("BatchNormalization", x, *(self.weight(p) for p in parameters), epsilon=1e-5)

    def block(self, x: str, c_in: int, c_out: int, stride: int) -> str:
        """conv-relu-conv plus the skip, which is a 1x1 convolution where the shape changes."""
        main = self.node("Relu", self.conv(x, c_in, c_out, stride=stride))
        main = self.conv(main, c_out, c_out)
        skip = x if stride == 1 and c_in == c_out else self.conv(x, c_in, c_out, kernel=1, stride=stride)
        return self.node("Relu", self.node("Add", main, skip))

    def linear(self, x: str, c_in: int, c_out: int, output: str | None = None) -> str:
        weight = self.weight(self.normal(c_out, c_in, scale=c_in**-0.5))
        return self.node("Gemm", x, weight, self.weight(self.normal(c_out, scale=0.1)), output=output, transB=1)

    def spatial_mean(self, x: str) -> str:
        return self.node("ReduceMean", x, self.weight(np.array([2, 3], np.int64)), keepdims=0)

    def model(
        self,
        inputs: dict[str, Sequence[int | str]],
        outputs: dict[str, Sequence[int | str]],
        opset: int = 18,
    ) -> ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def residual(widths: Sequence[int] = (32, 64, 128), seed: int = 0, size: int = 8) -> ModelProto:
    """The digits student's shape: stem, one basic block a stage, mean, linear."""
    net = NetworkBuilder(seed)
    x = net.node("Relu", net.conv("image", 1, widths[0]))
    for stage, (c_in, c_out) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        x = net.block(x, c_in, c_out, stride=1 if stage == 0 else 2)
    net.linear(net.spatial_mean(x), widths[-1], 10, output="logits")
    return net.model({"image": ["batch", 1, size, size]}, {"logits": ["batch", 10]})


def attention(tokens: int = 16, width: int = 32, blocks: int = 1, seed: int = 0) -> ModelProto:
    """Pre-norm transformer blocks of one head, then a linear layer on the mean of the tokens."""
    net = NetworkBuilder(seed)
    x = "tokens"
    for _ in range(blocks):
        h = net.node("LayerNormalization", x, *_norm_weights(net, width), axis=-1)
        q, k, v = (net.node("MatMul", h, net.weight(net.normal(width, width, scale=width**-0.5))) for _ in range(3))
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
        scores = net.node("Mul", scores, net.weight(np.array(width**-0.5, np.float32)))
        h = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
        x = net.node("Add", x, net.node("MatMul", h, net.weight(net.normal(width, width, scale=width**-0.5))))
        h = net.node("LayerNormalization", x, *_norm_weights(net, width), axis=-1)
        h = net.node("MatMul", h, net.weight(net.normal(width, 4 * width, scale=width**-0.5)))
        h = net.node("Relu", net.node("Add", h, net.weight(net.normal(4 * width, scale=0.1))))
        h = net.node("MatMul", h, net.weight(net.normal(4 * width, width, scale=(4 * width) ** -0.5)))
        x = net.node("Add", x, h)
    mean = net.node("ReduceMean", x, net.weight(np.array([1], np.int64)), keepdims=0)
    net.linear(mean, width, 32, output="logits")
    return net.model({"tokens": ["batch", tokens, width]}, {"logits": ["batch", 32]})


def _norm_weights(net: NetworkBuilder, width: int) -> tuple[str, str]:
    return net.weight(1 + net.normal(width, scale=0.1)), net.weight(net.normal(width, scale=0.1))


def images(count: int, *shape: int, seed: int = 1) -> NDArray[np.float32]:
    """(count, *shape) smooth random images."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
