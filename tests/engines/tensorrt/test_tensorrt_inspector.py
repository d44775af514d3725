"""What EngineInspector tells of a loaded engine, beside the builder's log of the same one.

Written in the forms that NVIDIA documents: there is no GPU here to load an engine and ask it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tensorrt_session import FakeTensorRT
from host_cuda import HostCuda
from plans import plan_bytes
from test_tensorrt_layers import TENSORRT_10

from engines import cuda as cuda_package
from engines.audit import Kind, summarize
from engines.base import Target
from engines.errors import BuildFailed, EngineDamaged, EngineError
from engines.files import sha256_of_file
from engines.tensorrt import TensorRTRTX
from engines.tensorrt.build import _evidence
from engines.tensorrt.inspector import layers_from_json
from engines.tensorrt.layers import UnreadableLayers, realized_layers
from engines.tensorrt.log import Recorder

# TensorRT 10: the layer of TENSORRT_10, as its inspector writes it.
OLDER: dict[str, Any] = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "x",
                    "Location": "Device",
                    "Dimensions": [1, 16, 8, 8],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
                }
            ],
            "Outputs": [
                {
                    "Name": "y",
                    "Location": "Device",
                    "Dimensions": [1, 64, 8, 8],
                    "Format/Datatype": "Row major linear FP32",
                }
            ],
            "ParameterType": "Convolution",
            "Kernel": [3, 3],
            "Weights": {"Type": "Int8", "Count": 9216},
            "Bias": {"Type": "Float", "Count": 64},
            "TacticName": "sm80_xmma_fprop",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        }
    ],
    "Bindings": ["x", "y"],
}

# TensorRT-RTX and 11: a kernel that quantizes, a convolution of it, and the log of the same.
NHWC = {"Strides": [1024, 1, 128, 16], "StrideOrder": [3, 0, 2, 1], "Format": "(NHWC) Channel major format"}
NEWER: dict[str, Any] = {
    "Layers": [
        {
            "Name": "__myl_MulMinMaxRounCast_myl0_1",
            "LayerType": "kgen",
            "Inputs": [{"Name": "x", "Dimensions": [-1, 16, 8, 8], **NHWC, "Datatype": "Float"}],
            "Constants": [],
            "Outputs": [{"Name": "q", "Dimensions": [-1, 16, 8, 8], **NHWC, "Datatype": "Int8"}],
            "TacticName": "__myl_MulMinMaxRounCast_0xead8",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: quantize]\x1f[ONNX Layer: small]",
        },
        {
            "Name": "conv1_myl0_2",
            "LayerType": "correlation",
            "Inputs": [{"Name": "q", "Dimensions": [-1, 16, 8, 8], **NHWC, "Datatype": "Int8"}],
            "Constants": [{"Name": "w", "Dimensions": [16, 16, 3, 3], **NHWC, "Datatype": "Int8"}],
            "Outputs": [{"Name": "y", "Dimensions": [-1, 16, 8, 8], **NHWC, "Datatype": "Float"}],
            "TacticName": "__myelin_CASK_STUB",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: w_dq]",
        },
    ],
    "I/O Tensors": [],
}
PRODUCTS: dict[str, Kind] = {"conv1": "convolution", "small": "matmul"}


def logged(document: dict[str, Any]) -> str:
    """The same layers as the builder's log of TensorRT-RTX lists them."""

    def tensors(found: list[dict[str, Any]]) -> str:
        texts = [
            f"{{ Name: {each['Name']}, Dimensions: {each['Dimensions']}, Strides: {each['Strides']}, StrideOrder: "
            f"{each['StrideOrder']}, Datatype: {each['Datatype']}, Format: {each['Format']} }}"
            for each in found
        ]
        return re.sub(r"(?<=\d), (?=[-\d])", ",", ", ".join(texts))

    lines = [
        f"Name: {layer['Name']}, LayerType: {layer['LayerType']}, "
        + ", ".join(f"{key}: [ {tensors(layer[key])}]" if layer[key] else f"{key}: []" for key in LISTS)
        + f", TacticName: {layer['TacticName']}, StreamId: 0, Metadata: {layer['Metadata']}"
        for layer in document["Layers"]
    ]
    return "\n".join(["Layers:", *lines])


LISTS = ("Inputs", "Constants", "Outputs")


def test_the_inspector_of_tensorrt_10_tells_what_its_builder_logged() -> None:
    found = layers_from_json(json.dumps(OLDER), PRODUCTS)
    assert found == realized_layers(TENSORRT_10, PRODUCTS)
    assert summarize(found).int8 == 1


def test_the_inspector_of_newer_ones_tells_what_their_builder_logged() -> None:
    found = layers_from_json(json.dumps(NEWER), PRODUCTS)
    assert found == realized_layers(logged(NEWER), PRODUCTS)
    assert [(layer.kind, layer.products) for layer in found] == [("matmul", ("small",)), ("convolution", ("conv1",))]
    assert found[1].onnx_nodes == ("conv1", "w_dq")


def test_without_the_network_a_product_is_told_by_its_kernel_alone() -> None:
    found = layers_from_json(json.dumps(NEWER), {})
    assert [layer.kind for layer in found] == ["other", "convolution"]
    assert (summarize(found).products, summarize(found).int8) == (1, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Layers:", "it is no JSON"),
        ("[]", "it lists no layer"),
        ('{"Layers": []}', "it lists no layer"),
        ('{"Layers": ["conv1 + relu1"]}', "of layer 'conv1 \\+ relu1' it tells the name alone: build with DETAILED"),
        (json.dumps(OLDER).replace('"Outputs"', '"Results"'), r"layer 'conv1 \+ relu1' has another form \(KeyError"),
        (json.dumps(OLDER).replace("Row major linear FP32", "Row major"), "no datatype in 'Row major'"),
        (json.dumps(NEWER).replace('"Float"', '"Posit8"'), "datatype 'Posit8' is unknown"),
        (json.dumps(NEWER).replace("[-1, 16, 8, 8]", "null"), "has another form"),
    ],
)
def test_another_form_is_called_unreadable_and_never_guessed(text: str, said: str) -> None:
    with pytest.raises(UnreadableLayers, match=said):
        layers_from_json(text, PRODUCTS)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the inspector of a stand-in for TensorRT-RTX answers, on a machine with a GPU."""
    trt, told = FakeTensorRT(HostCuda()), {"text": json.dumps(NEWER)}
    trt.LayerInformationFormat = SimpleNamespace(JSON="json")
    inspector = SimpleNamespace(get_engine_information=lambda form: told["text"] if form == "json" else "")
    trt.engine.create_engine_inspector = lambda: inspector  # type: ignore[attr-defined]
    monkeypatch.setattr(cuda_package, "why_no_gpu", lambda: None)
    monkeypatch.setattr(cuda_package, "compute_capability", lambda: "8.6")
    monkeypatch.setattr(cuda_package, "why_no_adapter", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    return told


def test_an_engine_is_inspected_once_its_digest_is_verified(told: dict[str, Any], tmp_path: Path) -> None:
    plan, target = tmp_path / "e.plan", Target("rtx", "tensorrt-rtx")
    plan.write_bytes(plan_bytes())
    digest = sha256_of_file(plan)
    found = TensorRTRTX().inspect(plan, digest, target, PRODUCTS)
    assert found == layers_from_json(told["text"], PRODUCTS)
    told["text"] = '{"Layers": ["conv1"]}'
    with pytest.raises(EngineError, match=r"e\.plan: what fake_tensorrt\w+ 10\.3\.0 tells of its layers is not"):
        TensorRTRTX().inspect(plan, digest, target)
    plan.write_bytes(b"evil")
    with pytest.raises(EngineDamaged, match="it was not loaded"):
        TensorRTRTX().inspect(plan, digest, target)


def test_a_build_whose_log_lists_no_layers_is_told_by_the_inspector_where_there_is_a_gpu(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt: Any = sys.modules["tensorrt_rtx"]
    graph = Path("m.onnx")
    kinds = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
    trt.LayerType = SimpleNamespace(**{kind: kind for kind in kinds})
    network = SimpleNamespace(
        num_layers=1, get_layer=lambda _: SimpleNamespace(type="CONVOLUTION", metadata="[ONNX Layer: conv1]")
    )
    found = _evidence(trt, network, b"plan", graph, Recorder())
    assert found == layers_from_json(told["text"], {"conv1": "convolution"})
    logged_lines = Recorder([("note", logged({"Layers": NEWER["Layers"][1:]}))])
    assert _evidence(trt, network, b"plan", graph, logged_lines) == found[1:]
    monkeypatch.setattr(cuda_package, "why_no_gpu", lambda: "there is no NVIDIA driver here")
    with pytest.raises(BuildFailed, match=r"m\.onnx: built, but TensorRT's log did not list its layers"):
        _evidence(trt, network, b"plan", graph, Recorder())
