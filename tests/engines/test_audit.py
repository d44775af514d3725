"""What an audit says of realized layers, whichever runtime they come from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.audit import Audit, Kind, RealizedLayer, RealizedTensor, compare_to_fp16, product_dtype, summarize

ACTIVATION = (-1, 16, 8, 8)


def tensor(dtype: str, *dims: int, constant: bool = False) -> RealizedTensor:
    return RealizedTensor(f"{dtype}{dims}", dtype, dims, constant=constant)


def convolution(activation: str, weight: str, *more: RealizedTensor, out: str = "float32") -> RealizedLayer:
    inputs = (tensor(activation, *ACTIVATION), tensor(weight, 16, 16, 3, 3, constant=True), *more)
    return RealizedLayer("conv_kernel", "convolution", "conv", inputs, (tensor(out, *ACTIVATION),), ("conv", "relu"))


def product(kind: Kind, *inputs: RealizedTensor, out: tuple[int, ...] = (-1, 8, 10)) -> RealizedLayer:
    return RealizedLayer("kernel", kind, "gemm", inputs, (tensor("float32", *out),), ("product",))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_convolution_with_8_bit_operands_counts_as_int8(dtype: str) -> None:
    assert summarize([convolution(dtype, "int8")]).int8 == 1


@pytest.mark.parametrize(("activation", "weight"), [("float32", "int8"), ("int8", "float32")])
def test_one_8_bit_operand_alone_is_no_int8(activation: str, weight: str) -> None:
    audit = summarize([convolution(activation, weight)])
    assert (audit.int8, audit.float32) == (0, 1)
    assert audit.float_products == ("conv", "relu")


def test_names_of_products_leave_out_what_was_fused_into_them() -> None:
    layer = RealizedLayer(
        "k", "convolution", "conv", (tensor("float16", 1, 2),), (), onnx_nodes=("relu", "conv"), products=("conv",)
    )
    assert summarize([layer, layer]).float_products == ("conv",)


def test_scales_a_bias_and_a_fused_float_residual_do_not_make_an_int8_convolution_float() -> None:
    scale, bias = tensor("float32", 1, 16, 1, 1, constant=True), tensor("int32", 16, constant=True)
    residual = tensor("float32", *ACTIVATION)
    assert product_dtype(convolution("int8", "int8", scale, bias, residual)) == "int8"


def test_a_product_of_two_activations_takes_its_type_from_both() -> None:
    bias = tensor("float32", 1, 10, constant=True)
    quantized, float_ = tensor("int8", -1, 8, 16), tensor("float32", -1, 16, 10)
    assert product_dtype(product("matmul", quantized, tensor("int8", -1, 16, 10), bias)) == "int8"
    assert product_dtype(product("matmul", quantized, float_, bias)) == "float32"


def test_a_bias_listed_before_the_weight_is_not_taken_for_it() -> None:
    bias, weight = tensor("float32", 1, 10, constant=True), tensor("int8", 16, 10, constant=True)
    assert product_dtype(product("matmul", tensor("int8", -1, 16), bias, weight, out=(-1, 10))) == "int8"


def test_fused_attention_is_int8_only_where_all_three_operands_are() -> None:
    three = [tensor("int8", -1, 8, 16) for _ in range(3)]
    assert product_dtype(product("matmul", *three)) == "int8"
    assert product_dtype(product("matmul", *three[:2], tensor("float16", -1, 8, 16))) == "float16"


def test_a_single_known_operand_proves_nothing() -> None:
    assert summarize([product("matmul", tensor("int8", 8, 8))]).other == 1
    assert summarize([product("matmul")]).other == 1


def test_bytes_are_those_of_activations_at_batch_1() -> None:
    # 16 x 8 x 8 int8 in, float32 out; the weight is not counted.
    assert summarize([convolution("int8", "int8")]).activation_bytes == 1024 * (1 + 4)
    assert summarize([RealizedLayer("k", "other", "k", (tensor("int4", 3),), ())]).activation_bytes == 2


def test_what_moves_no_tensor_is_no_kernel() -> None:
    wait = RealizedLayer("wait", "other", "wait", (), ())
    assert summarize([wait, convolution("int8", "int8"), wait]).kernels == 1


def test_an_audit_is_written_as_plain_json() -> None:
    written = json.loads(json.dumps(summarize([convolution("float16", "float16", out="float16")]).to_json()))
    assert Audit.from_json(written) == summarize([convolution("float16", "float16", out="float16")])
    assert written == {
        "kernels": 1,
        "products": 1,
        "int8": 0,
        "float16": 1,
        "float32": 0,
        "other": 0,
        "float_products": ["conv", "relu"],
        "activation_bytes": 4096,
        "float8": 0,
        "multiply_adds": 147456,
        "int8_multiply_adds": 0,
        "float8_multiply_adds": 0,
        "bfloat16": 0,
    }


DTYPES = st.sampled_from(["int8", "uint8", "float16", "float32", "bfloat16", "float8_e4m3fn", "unknown"])


@given(st.lists(st.tuples(DTYPES, DTYPES), max_size=8))
def test_every_product_is_counted_once(pairs: list[tuple[str, str]]) -> None:
    audit = summarize([convolution(activation, weight) for activation, weight in pairs])
    assert audit.int8 + audit.float16 + audit.float32 + audit.other == audit.products == len(pairs)
    assert audit.int8 == sum({a, w} <= {"int8", "uint8"} for a, w in pairs)


def audit_of(**fields: object) -> Audit:
    plain = Audit(10, 4, 4, 0, 0, 0, (), 1_000_000)
    return Audit(**{**plain.__dict__, **fields})


def test_nothing_speaks_against_int8_that_moves_less_in_as_many_kernels() -> None:
    assert compare_to_fp16(audit_of(activation_bytes=500_000), audit_of()) == []


def test_more_bytes_than_fp16_are_said_with_both_figures() -> None:
    assert compare_to_fp16(audit_of(activation_bytes=1_900_000), audit_of()) == [
        "INT8 moves 1.9 times the bytes of FP16 here (1.9 MB against 1 MB per sample); expect no gain"
    ]


def test_more_kernels_than_fp16_are_said() -> None:
    assert compare_to_fp16(audit_of(kernels=23), audit_of()) == ["INT8 launches 23 kernels where FP16 launches 10"]


def test_products_left_in_float_are_named_the_first_few_of_them() -> None:
    names = tuple(f"conv_{i}" for i in range(7))
    [sentence] = compare_to_fp16(audit_of(products=9, int8=2, float16=7, float_products=names), audit_of())
    assert sentence == (
        "7 of 9 convolutions and products run in float: conv_0, conv_1, conv_2, conv_3, conv_4 and 2 more"
    )


def test_an_int8_engine_without_int8_is_called_that() -> None:
    found = compare_to_fp16(audit_of(int8=0, float16=4), audit_of())
    assert found == ["none of the 4 convolutions and products takes INT8; this is no INT8 engine"]
