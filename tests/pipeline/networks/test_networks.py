"""The built-in networks: their size, what they take, and the same answers from the exported graph at other sizes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.export import Dim

from pipeline.errors import RecipeError
from pipeline.models.interface import IMAGE, IMAGE_AXES, MASK, InputSpec, Interface, Shape
from pipeline.models.model import Model, make_model, parameter_count
from pipeline.networks import PlainNetwork, ResidualNetwork, TransformerNetwork
from pipeline.networks.transformer import Attention, sinusoids

MODEL: TypeAdapter[Any] = TypeAdapter(Model)
SMALL: dict[str, Any] = {"name": "transformer", "width": 8, "depth": 2, "heads": 2, "longest": 32}


def of_image(shape: Shape = (1, 8, 8), output: Shape = (3,)) -> Interface:
    return Interface((InputSpec(IMAGE, "float32", shape, IMAGE_AXES),), {"logits": output}, 3)


def of_sequence(output: Shape = (3,), *, mask: bool = True, ids: bool = False, length: int = 8) -> Interface:
    first = (
        InputSpec("tokens", "int64", (length,), ("length",))
        if ids
        else InputSpec("rows", "float32", (length, 6), ("length", "features"))
    )
    masks = (InputSpec(MASK, "float32", (length,), ("length",)),) if mask else ()
    return Interface((first, *masks), {"logits": output}, 3)


def made(interface: Interface, seed: int = 0, **model: Any) -> Any:
    torch.manual_seed(seed)
    return make_model(MODEL.validate_python(model), interface, Path()).eval()


def refused(interface: Interface, **model: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        made(interface, **model)
    return str(caught.value)


def exported(network: nn.Module, inputs: Sequence[Tensor], dynamic: Sequence[dict[int, Any]]) -> onnx.ModelProto:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter's own, of its own deprecations.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, tuple(inputs), dynamo=True, opset_version=18, dynamic_shapes=tuple(dynamic), verbose=False
        )
    logger.setLevel(level)
    assert program is not None
    return program.model_proto


def assert_same_in_onnxruntime(model: onnx.ModelProto, network: nn.Module, *inputs: Tensor) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(found), network(*inputs).detach(), rtol=1e-4, atol=1e-4)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def conv_and_norm(prefix: str, conv: str, norm: str, module: nn.Conv2d) -> dict[str, Tensor]:
    """Of a convolution without a bias and a fresh batch normalization behind it."""
    state = {f"{prefix}{conv}.weight": module.weight}
    fresh = nn.BatchNorm2d(module.out_channels).state_dict()
    return state | {f"{prefix}{norm}.{name}": tensor for name, tensor in fresh.items()}


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_residual_network_of_one_basic_block_a_width_has_the_weights_and_names_it_always_had() -> None:
    torch.manual_seed(4)
    expected = conv_and_norm("stem.", "0", "1", nn.Conv2d(2, 4, 3, bias=False))
    for stage, (narrow, wide) in enumerate([(4, 4), (4, 8)]):
        prefix = f"stages.{stage}."
        expected |= conv_and_norm(prefix, "conv1", "norm1", nn.Conv2d(narrow, wide, 3, bias=False))
        expected |= conv_and_norm(prefix, "conv2", "norm2", nn.Conv2d(wide, wide, 3, bias=False))
        if narrow != wide:
            expected |= conv_and_norm(prefix + "skip.", "0", "1", nn.Conv2d(narrow, wide, 1, bias=False))
    head = nn.Linear(8, 3)
    expected |= {"head.weight": head.weight, "head.bias": head.bias}

    torch.manual_seed(4)
    assert_same_state(ResidualNetwork(2, [4, 8], 3).state_dict(), expected)


def test_a_plain_network_has_the_weights_and_names_it_always_had() -> None:
    torch.manual_seed(4)
    expected = conv_and_norm("stages.0.", "0", "1", nn.Conv2d(2, 4, 3, bias=False))
    expected |= conv_and_norm("stages.1.", "0", "1", nn.Conv2d(4, 8, 3, bias=False))
    head = nn.Linear(8, 3)
    expected |= {"head.weight": head.weight, "head.bias": head.bias}

    torch.manual_seed(4)
    assert_same_state(PlainNetwork(2, [4, 8], 3).state_dict(), expected)


def test_four_widths_of_bottlenecks_are_resnet_50() -> None:
    network = made(
        of_image((3, 64, 64), (1000,)),
        name="residual",
        block="bottleneck",
        depths=[3, 4, 6, 3],
        widths=[256, 512, 1024, 2048],
        stem_stride=4,
    )
    # torchvision's resnet50: 25,557,032, of which its head has 2048 * 1000 + 1000.
    assert parameter_count(network) == 25_557_032
    assert parameter_count(network) - parameter_count(network.head) == 23_508_032
    assert [len(stage) for stage in network.stages] == [3, 4, 6, 3]
    assert network.stages(network.stem(torch.zeros(1, 3, 64, 64))).shape == (1, 2048, 2, 2)
    # The stride is the 3x3 convolution's.
    assert (network.stages[1][0].conv1.stride, network.stages[1][0].conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(("stride", "side"), [(1, 16), (2, 8), (4, 4)])
def test_a_stem_divides_height_and_width_by_its_stride(stride: int, side: int) -> None:
    network = made(of_image((1, 16, 16)), name="residual", widths=[4], stem_stride=stride)
    assert network.stem(torch.zeros(1, 1, 16, 16)).shape == (1, 4, side, side)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"widths": [4, 8], "depths": [1]}, "depths has 1 values and widths 2; give one a width"),
        ({"widths": [4, 6], "block": "bottleneck"}, "widths holds 6; a bottleneck's width is divisible by 4"),
        ({"widths": [4], "stem_stride": 3}, "stem_stride must be 1, 2 or 4, found 3"),
        ({"widths": [4], "normalization": "layer"}, "normalization must be 'batch' or 'group', found 'layer'"),
    ],
)
def test_options_of_a_residual_network_that_do_not_fit_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MODEL.validate_python({"name": "residual", **model})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["residual", "plain", "segmenter"])
def test_with_group_normalization_a_sample_does_not_see_its_batch_even_in_training(name: str) -> None:
    interface = of_image(output=(3, 8, 8) if name == "segmenter" else (3,))
    images = torch.rand(4, 1, 8, 8)
    for kind, alone in (("group", True), ("batch", False)):
        network = made(interface, name=name, widths=[8, 12], normalization=kind).train()
        assert any(isinstance(module, nn.GroupNorm) for module in network.modules()) == alone
        assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()) != alone
        assert torch.allclose(network(images)[:2], network(images[:2]), atol=1e-6) == alone


@given(st.integers(1, 300))
def test_a_group_has_four_channels_or_all(channels: int) -> None:
    from pipeline.networks.normalization import normalization_of

    norm = normalization_of("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_a_segmenter_gives_a_vector_for_every_pixel(widths: list[int], high: int, broad: int) -> None:
    step = 2 ** (len(widths) - 1)
    height, width = step * high, step * broad
    # make_model refuses another shape than this.
    network = made(of_image((2, height, width), (5, height, width)), name="segmenter", widths=widths)
    assert network(torch.zeros(1, 2, height, width)).shape == (1, 5, height, width)


def test_every_width_of_a_segmenter_reaches_its_output() -> None:
    network = made(of_image((1, 16, 16), (3, 16, 16)), name="segmenter", widths=[4, 6, 8])
    network.train()(torch.rand(2, 1, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_a_segmenter_of_images_that_do_not_halve_is_refused_with_what_to_do() -> None:
    assert refused(of_image((1, 12, 18), (3, 12, 18)), name="segmenter", widths=[4, 4, 4]) == (
        "model segmenter: 3 widths need a height and a width divisible by 4, the images are 12x18; "
        "resize them in [data] preprocess, or give fewer widths"
    )


@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_an_exported_segmenter_takes_other_heights_and_widths(normalization: str) -> None:
    network = made(of_image((1, 16, 16), (3, 16, 16)), name="segmenter", widths=[4, 6, 8], normalization=normalization)
    dynamic = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    model = exported(network, [torch.zeros(2, 1, 16, 16)], [dynamic])
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert len(resizes) == 2
    # Linear, it would be a float island in an INT8 engine, as a transposed convolution is.
    assert {attribute.s for node in resizes for attribute in node.attribute if attribute.name == "mode"} == {b"nearest"}
    assert "ConvTranspose" not in operators(model)
    for shape in ((1, 1, 16, 16), (3, 1, 8, 24), (2, 1, 40, 4)):
        assert_same_in_onnxruntime(model, network, torch.rand(shape))


SEQUENCES = [
    pytest.param(of_sequence(), {}, id="rows and mask"),
    pytest.param(of_sequence(mask=False), {}, id="rows"),
    pytest.param(of_sequence((8, 3)), {}, id="one vector a token"),
    pytest.param(of_sequence(ids=True), {"vocabulary": 11}, id="ids and mask"),
    pytest.param(of_sequence((8, 3), ids=True, mask=False), {"vocabulary": 11}, id="ids, one vector a token"),
]


def sequences(interface: Interface, batch: int, length: int) -> tuple[Tensor, ...]:
    """Of one real token, of two, ..., and the last of none."""
    torch.manual_seed(length)
    ids = interface.inputs[0].dtype == "int64"
    first = torch.randint(0, 11, (batch, length)) if ids else torch.randn(batch, length, 6)
    mask = (torch.arange(length) < torch.tensor([*range(1, batch), 0])[:, None]).float()
    return (first, mask)[: len(interface.inputs)]


@pytest.mark.parametrize(("interface", "options"), SEQUENCES)
def test_an_exported_transformer_takes_other_batches_and_lengths(interface: Interface, options: dict[str, Any]) -> None:
    network = made(interface, **SMALL, **options)
    dynamic = {0: Dim("batch"), 1: Dim("length")}
    model = exported(network, interface.zeros(2), [dynamic] * len(interface.inputs))
    # Two explicit products an attention: the fused one takes no INT8.
    assert {"MatMul", "Softmax"} <= operators(model)
    assert not operators(model) & {"Attention", "MultiHeadAttention"}
    for batch, length in ((1, 1), (3, 8), (2, 32)):
        assert_same_in_onnxruntime(model, network, *sequences(interface, batch, length))


@pytest.mark.parametrize("output", [(3,), (8, 3)])
@pytest.mark.parametrize("ids", [False, True])
def test_what_is_padding_does_not_change_what_is_real(output: Shape, ids: bool) -> None:
    interface = of_sequence(output, ids=ids)
    network = made(interface, **SMALL, **({"vocabulary": 11} if ids else {}))
    first, _ = sequences(interface, 2, 8)
    mask = (torch.arange(8) < 5).float().expand(2, 8)
    other = first.clone()
    other[:, 5:] = 7
    assert not torch.equal(first, other)
    rows = slice(None, 5 if len(output) == 2 else None)
    torch.testing.assert_close(network(first, mask)[:, rows], network(other, mask)[:, rows])
    # And the same sequences without their padding.
    torch.testing.assert_close(network(first, mask)[:, rows], network(first[:, :5])[:, rows])


def test_the_order_of_a_sequence_counts() -> None:
    interface = of_sequence(mask=False)
    network = made(interface, **SMALL)
    (rows,) = sequences(interface, 2, 8)
    assert not torch.allclose(network(rows), network(rows.flip(1)), atol=1e-4)


@pytest.mark.parametrize("output", [(3,), (8, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_sequence_of_padding_alone_gives_finite_outputs_and_gradients_in_half_precision(
    output: Shape, dtype: torch.dtype
) -> None:
    network = made(of_sequence(output), **SMALL).to(dtype)
    rows = torch.randn(2, 8, 6, dtype=dtype)
    found = network(rows, torch.zeros(2, 8, dtype=dtype))
    found.sum().backward()
    assert found.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_a_mask_is_taken_in_any_type(dtype: torch.dtype) -> None:
    interface = of_sequence()
    network = made(interface, **SMALL)
    rows, mask = sequences(interface, 3, 8)
    assert torch.equal(network(rows, mask.to(dtype)), network(rows, mask))


def test_attention_can_be_computed_again_from_its_queries_and_keys() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2), torch.randn(3, 5, 8)
    given = {name: module(tokens) for name, module in attention.named_children() if name != "output"}
    query, key, value = (given[name].reshape(3, 5, 2, 4).movedim(2, 1) for name in ("query", "key", "value"))
    maps = (torch.einsum("bhqd,bhkd->bhqk", query, key) / 4**0.5).softmax(-1)
    expected = attention.output(torch.einsum("bhqk,bhkd->bqhd", maps, value).reshape(3, 5, 8))
    torch.testing.assert_close(attention(tokens, None), expected)


def test_positions_are_the_papers_and_no_weights() -> None:
    table = sinusoids(20, 7)
    assert table.shape == (20, 7)
    assert table[3, 0] == pytest.approx(torch.tensor(3.0).sin())
    assert table[3, 4 + 1] == pytest.approx(torch.tensor(3 / 10_000 ** (2 / 7)).cos())
    network = made(of_sequence(), **SMALL)
    assert not [name for name in network.state_dict() if "position" in name]


def test_longest_is_the_datas_length_where_it_is_not_given_and_more_is_an_error() -> None:
    network = made(of_sequence(mask=False, length=8), **{**SMALL, "longest": None})
    with pytest.raises(RuntimeError, match="must match the size"):
        network(torch.zeros(1, 9, 6))
    single = made(of_sequence(mask=False, length=1), **{**SMALL, "longest": None})
    with pytest.raises(RuntimeError, match="must match the size"):
        single(torch.zeros(1, 3, 6))


@pytest.mark.parametrize(
    ("interface", "options", "message"),
    [
        (of_sequence(), {"longest": 7}, "longest is 7, the data has sequences of 8; raise it"),
        (of_sequence(), {"vocabulary": 5}, "'rows' is a sequence of features; leave out vocabulary"),
        (of_sequence(ids=True), {}, "'tokens' is a sequence of ids; give vocabulary"),
    ],
)
def test_a_transformer_that_does_not_fit_the_sequences_is_refused(
    interface: Interface, options: dict[str, Any], message: str
) -> None:
    assert refused(interface, **{**SMALL, **options}) == f"model transformer: {message}"


def test_a_width_that_its_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match="width 8 is not divisible by heads 3; give a multiple of it"):
        MODEL.validate_python({**SMALL, "heads": 3})


FOR_IMAGES = "efficientnet, mobilenet, plain, repvgg, residual, vision_transformer"
OWN = '{ file = "models.py:function" }'
CONVOLUTIONAL = {"widths": [4]}
TWO_IMAGES = Interface(
    tuple(InputSpec(name, "float32", (1, 8, 8), IMAGE_AXES) for name in ("left", "right")), {"logits": (3,)}, 3
)
FREE = Interface(of_image().inputs, {"boxes": None}, 3)
TWO_OUTPUTS = Interface(of_image().inputs, {"boxes": (4,), "logits": (3,)}, 3)
LABELLED_ROWS = Interface((of_sequence().inputs[0], InputSpec("extra", "float32", (8,), ("length",))), {"y": (3,)}, 3)


@pytest.mark.parametrize(
    ("interface", "model", "message"),
    [
        (
            of_image(output=(3, 8, 8)),
            {"name": "residual", **CONVOLUTIONAL},
            f"input (1, 8, 8) -> logits (3, 8, 8); use segmenter, or make one in a file of your own, {OWN}",
        ),
        (
            of_image(),
            {"name": "segmenter", **CONVOLUTIONAL},
            f"input (1, 8, 8) -> logits (3,); use {FOR_IMAGES}, or make one in a file of your own, {OWN}",
        ),
        (
            of_sequence(),
            {"name": "plain", **CONVOLUTIONAL},
            f"rows (8, 6), mask (8,) -> logits (3,); use transformer, or make one in a file of your own, {OWN}",
        ),
        (
            of_image(),
            SMALL,
            f"input (1, 8, 8) -> logits (3,); use {FOR_IMAGES}, or make one in a file of your own, {OWN}",
        ),
        (
            TWO_IMAGES,
            {"name": "residual", **CONVOLUTIONAL},
            "left (1, 8, 8), right (1, 8, 8) -> logits (3,); "
            f"no built-in network is: make one in a file of your own, {OWN}",
        ),
        (
            FREE,
            {"name": "plain", **CONVOLUTIONAL},
            f"input (1, 8, 8) -> boxes of any shape; no built-in network is: make one in a file of your own, {OWN}",
        ),
        (
            TWO_OUTPUTS,
            {"name": "plain", **CONVOLUTIONAL},
            "input (1, 8, 8) -> boxes (4,), logits (3,); "
            f"no built-in network is: make one in a file of your own, {OWN}",
        ),
        (
            LABELLED_ROWS,
            SMALL,
            f"rows (8, 6), extra (8,) -> y (3,); no built-in network is: make one in a file of your own, {OWN}",
        ),
        (
            of_sequence((9, 3)),
            SMALL,
            f"rows (8, 6), mask (8,) -> logits (9, 3); no built-in network is: make one in a file of your own, {OWN}",
        ),
    ],
)
def test_a_network_of_another_kind_of_data_is_refused_with_the_right_one(
    interface: Interface, model: dict[str, Any], message: str
) -> None:
    assert refused(interface, **model) == f"model {model['name']}: is not made for {message}"


def test_the_random_state_alone_decides_the_weights_of_every_network() -> None:
    for interface, model in (
        (of_image(output=(3, 8, 8)), {"name": "segmenter", "widths": [4, 8]}),
        (of_sequence(), SMALL),
    ):
        one, same, other = (made(interface, seed, **model).state_dict() for seed in (1, 1, 2))
        assert_same_state(one, same)
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_layers_have_the_names_that_a_recipe_writes() -> None:
    network = made(of_sequence(), **SMALL)
    assert isinstance(network, TransformerNetwork)
    names = dict(network.named_modules())
    assert {"blocks.0", "blocks.1.attention.query", "blocks.1.attention.key", "blocks.1.attention.value"} <= set(names)
    segmenter = made(of_image(output=(3, 8, 8)), name="segmenter", widths=[4, 8])
    assert {"stem", "encoder.0", "encoder.1", "decoder.0", "head"} <= set(dict(segmenter.named_modules()))
