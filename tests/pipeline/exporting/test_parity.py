"""Torch against onnxruntime: what differs is named, and no number is left to guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import NotAcceptable
from pipeline.exporting.parity import OutputParity, ReferenceSession, Tolerance, compare, require_parity

TOLERANCE = Tolerance(1e-4, 1e-4)


def parity(expected: object, found: object) -> OutputParity:
    one, other = np.asarray(expected, np.float32), np.asarray(found, np.float32)
    return OutputParity("random", 8, {}, "logits", *compare(one, other, TOLERANCE), one.shape, other.shape)


def refusal(expected: object, found: object) -> str:
    with pytest.raises(NotAcceptable) as caught:
        require_parity([parity([1.0], [1.0]), parity(expected, found)], TOLERANCE)
    return str(caught.value)


def test_equal_outputs_and_outputs_within_the_tolerance_pass() -> None:
    require_parity([parity([0.0, 1000.0], [1e-4, 1000.1])], TOLERANCE)


def test_the_first_output_that_differs_is_named_with_by_how_much() -> None:
    assert refusal([1.0, 2.0], [1.0, 2.5]) == (
        "the exported graph does not compute what the network does: output 'logits' on random inputs, batch 8, differs "
        "by 0.5 (relative 0.25); allowed are atol 0.0001 and rtol 0.0001 ([export] parity)"
    )


def test_the_size_at_which_an_output_differs_is_told_with_the_name_of_its_axis() -> None:
    result = replace(parity([1.0], [2.0]), sizes={"height": 16, "width": 48})
    with pytest.raises(NotAcceptable, match="on random inputs, batch 8, height 16, width 48, differs by 1 "):
        require_parity([result], TOLERANCE)


@pytest.mark.parametrize(("expected", "found"), [([1.0], [np.nan]), ([np.nan], [np.nan]), ([np.inf], [1.0])])
def test_nan_and_infinity_never_pass(expected: object, found: object) -> None:
    with np.errstate(invalid="ignore"):
        assert "batch 8, holds NaN or infinite values, in the graph or in the network;" in refusal(expected, found)


def test_another_shape_is_said_as_one() -> None:
    assert "batch 8, has shape (1, 2), the network's has (2,);" in refusal([1.0, 2.0], [[1.0, 2.0]])


def test_a_graph_that_does_not_run_on_the_inputs_is_not_acceptable(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])],
        "fixed",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    reference = ReferenceSession(tmp_path / "m.onnx", threads=1)
    assert set(reference.run({"input": np.zeros((2, 3), np.float32)})) == {"logits"}
    with pytest.raises(NotAcceptable, match=r"(?s)does not run on input \(1, 3\): .*Expected: 2"):
        reference.run({"input": np.zeros((1, 3), np.float32)})
