"""The published networks: the size that their papers and their weights have, and what of them reaches the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.errors import RecipeError
from pipeline.exporting.exporter import exported
from pipeline.models.interface import IMAGE, IMAGE_AXES, InputSpec, Interface, Shape
from pipeline.models.model import Model, make_model, parameter_count
from pipeline.networks import RepVgg, VisionTransformer
from pipeline.networks.inverted_residual import Activations, BlockShape, InvertedResidual, divisible
from pipeline.networks.repvgg import RepVggBlock, with_merged_branches

MODEL: TypeAdapter[Any] = TypeAdapter(Model)

TINY: dict[str, dict[str, Any]] = {
    "mobilenet": {"size": "small", "width": 0.25},
    "efficientnet": {"width": 0.25, "depth": 0.1},
    "repvgg": {"widths": [8, 12], "depths": [2, 1]},
    "vision_transformer": {"patch": 8, "width": 12, "depth": 2, "heads": 3},
}


def of_image(shape: Shape = (3, 32, 32), output: Shape = (5,)) -> Interface:
    return Interface((InputSpec(IMAGE, "float32", shape, IMAGE_AXES),), {"logits": output}, output[0])


def made(interface: Interface, **model: Any) -> nn.Module:
    torch.manual_seed(0)
    return make_model(MODEL.validate_python(model), interface, Path()).eval()


def with_random_statistics(network: nn.Module) -> nn.Module:
    """As after a training: fresh batch norms change nothing, and a mistake in folding them would not show."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                assert isinstance(tensor, Tensor)
                tensor.uniform_(low, high)
    return network


def assert_same_in_onnxruntime(model: onnx.ModelProto, network: nn.Module, images: Tensor) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(images).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "side", "parameters"),
    [
        # torchvision's mobilenet_v3_large, mobilenet_v3_small, efficientnet_b0 and efficientnet_b1.
        ({"name": "mobilenet"}, 32, 5_483_032),
        ({"name": "mobilenet", "size": "small"}, 32, 2_542_856),
        ({"name": "efficientnet"}, 32, 5_288_548),
        ({"name": "efficientnet", "depth": 1.1}, 32, 7_794_184),
        # timm's repvgg_a0 while it trains, and DeiT-tiny.
        ({"name": "repvgg", "widths": [48, 96, 192, 1280], "depths": [2, 4, 14, 1]}, 32, 9_108_968),
        ({"name": "vision_transformer"}, 224, 5_717_416),
    ],
)
def test_a_published_network_has_the_parameters_that_it_is_published_with(
    model: dict[str, Any], side: int, parameters: int
) -> None:
    assert parameter_count(made(of_image((3, side, side), (1000,)), **model)) == parameters


class OfOneBlock(nn.Module):
    """A whole network of this block takes the exporter half a minute."""

    def __init__(self, activations: Activations) -> None:
        super().__init__()
        self.block = InvertedResidual(BlockShape(3, 8, 3, 5, 1, 4), activations, "batch")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.block(images)
        return features.mean((2, 3))


@pytest.mark.parametrize(
    ("network", "operators"),
    [
        (
            OfOneBlock(Activations(nn.Hardswish, nn.ReLU, nn.Hardsigmoid)),
            {"Conv", "HardSwish", "HardSigmoid", "Relu", "ReduceMean", "Mul", "Add"},
        ),
        (OfOneBlock(Activations(nn.SiLU, nn.SiLU, nn.Sigmoid)), {"Conv", "Sigmoid", "ReduceMean", "Mul", "Add"}),
        (RepVgg(3, [8, 12], [2, 1], 2, 3), {"Conv", "Relu", "ReduceMean", "Gemm"}),
        (VisionTransformer(3, 16, 16, 8, 12, 1, 3, 4, 3), {"Conv", "MatMul", "Softmax", "LayerNormalization"}),
    ],
    ids=["mobilenet", "efficientnet", "repvgg", "vision_transformer"],
)
def test_an_exported_network_gives_the_same_for_other_batches(network: nn.Module, operators: set[str]) -> None:
    with_random_statistics(network).eval()
    model = exported(network, of_image((3, 16, 16), (3,)), ("logits",), 18)
    found = {node.op_type for node in model.graph.node}
    assert found >= operators if "MatMul" in operators else found == operators
    for batch in (1, 3):
        assert_same_in_onnxruntime(model, network, torch.rand(batch, 3, 16, 16))
    if isinstance(network, RepVgg):
        # A convolution a block in the graph; the network that trains on keeps its branches.
        assert [node.op_type for node in model.graph.node].count("Conv") == 4
        assert sum(isinstance(module, RepVggBlock) for module in network.modules()) == 4


@pytest.mark.parametrize("name", TINY)
def test_every_weight_takes_part(name: str) -> None:
    network = made(of_image(), name=name, **TINY[name]).train()
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not idle


@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "repvgg"])
def test_a_stem_of_stride_1_leaves_twice_the_height_and_width(name: str) -> None:
    images = torch.rand(1, 3, 32, 32)
    sides = []
    for stride in (1, 2):
        network = made(of_image(), name=name, stem_stride=stride, **TINY[name])
        stem = network.get_submodule("stem")
        sides.append(stem(images).shape[-1])
    assert sides == [32, 16]


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 1), (4, 4, 2), (4, 6, 1), (3, 5, 2)])
def test_a_merged_block_gives_what_its_branches_gave(in_channels: int, out_channels: int, stride: int) -> None:
    block = with_random_statistics(RepVggBlock(in_channels, out_channels, stride)).eval()
    assert isinstance(block, RepVggBlock)
    assert (block.identity is not None) == (in_channels == out_channels and stride == 1)
    images = torch.randn(2, in_channels, 9, 7)
    torch.testing.assert_close(block.merged()(images), block(images), rtol=1e-5, atol=1e-5)


def test_a_network_without_such_blocks_is_not_copied() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3))
    assert with_merged_branches(network) is network
    assert with_merged_branches(RepVgg(1, [4], [1], 2, 3)).get_submodule("stem.0")


def test_a_unet_puts_the_encoders_features_beside_its_own() -> None:
    network = with_random_statistics(
        made(of_image((1, 8, 8), (3, 8, 8)), name="segmenter", widths=[4, 6], join="concatenate")
    )
    deep, skip = torch.rand(1, 6, 4, 4), torch.rand(1, 4, 8, 8)
    block = network.get_submodule("decoder.0")
    assert not torch.equal(block(deep, skip), block(deep, torch.zeros_like(skip)))
    assert block.get_submodule("conv2").weight.shape == (4, 8, 3, 3)
    for shape in ((1, 1, 8, 8), (2, 1, 20, 4)):
        assert network(torch.rand(shape)).shape == (shape[0], 3, *shape[2:])


@given(st.floats(1, 5000))
def test_channels_are_a_multiple_of_8_that_keeps_nine_tenths(channels: float) -> None:
    rounded = divisible(channels)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels
    assert rounded <= channels + 8


@pytest.mark.parametrize(
    ("shape", "model", "message"),
    [
        (
            (3, 32, 24),
            {"name": "vision_transformer"},
            "model vision_transformer: patches of 16 need a height and a width divisible by it, the images are 32x24; "
            "resize them in [data] preprocess, or give another patch",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused_with_what_to_do(shape: Shape, model: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(of_image(shape), **model)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"name": "vision_transformer", "width": 190},
            "width 190 is not divisible by heads 3; give a multiple of it",
        ),
        ({"name": "repvgg", "widths": [4, 8], "depths": [1]}, "depths has 1 values and widths 2; give one a width"),
        ({"name": "mobilenet", "size": "medium"}, "size must be 'large' or 'small', found 'medium'"),
        ({"name": "efficientnet", "stem_stride": 4}, "stem_stride must be 1 or 2, found 4"),
        ({"name": "segmenter", "widths": [4], "join": "sum"}, "join must be 'add' or 'concatenate', found 'sum'"),
    ],
)
def test_options_that_do_not_fit_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MODEL.validate_python(model)
    assert message in str(caught.value)
