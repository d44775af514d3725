"""Graphs in older opsets: converted where that changes no answer, and refused where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from pipeline.building import older_opset
from pipeline.building.older_opset import at_opset, opset_of
from pipeline.errors import NotAcceptable
from pipeline.exporting.parity import ReferenceSession


def graph_in(folder: Path, body: str, opset: int = 18) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> g {body}'), path)
    return path


MEAN = (
    "(float[N,L,4] x) => (float[N,L,1] y) { a = Constant<value_ints=[2]>() "
    "m = ReduceMean<noop_with_empty_axes=0>(x, a) y = Relu(m) }"
)


def test_a_graph_that_is_old_enough_stays_as_it_is(tmp_path: Path) -> None:
    graph = graph_in(tmp_path, MEAN)
    assert at_opset(graph, 18, tmp_path / "other.onnx", {}) == graph
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("opset", [17, 15])
def test_a_converted_graph_answers_alike_whatever_the_length(opset: int, tmp_path: Path) -> None:
    graph = graph_in(tmp_path, MEAN)
    older = at_opset(graph, opset, tmp_path / "older.onnx", {"L": 5})
    assert opset_of(older) == opset
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    expected, found = (ReferenceSession(each, 1).run({"x": x})["y"] for each in (graph, older))
    np.testing.assert_array_equal(found, expected)


def test_a_graph_of_a_fixed_batch_is_tried_at_that_batch(tmp_path: Path) -> None:
    graph = graph_in(tmp_path, MEAN.replace("[N,L,4]", "[1,5,4]").replace("[N,L,1]", "[1,5,1]"))
    assert opset_of(at_opset(graph, 17, tmp_path / "older.onnx", {})) == 17


def test_an_operator_without_an_older_form_is_refused_with_its_reason(tmp_path: Path) -> None:
    graph = graph_in(tmp_path, "(float[2,4] x) => (float[2,4] y) { y = Mish(x) }")
    with pytest.raises(
        NotAcceptable, match=r"model\.onnx: has no form in opset 17 \(.*\); export opset 18 for a newer"
    ):
        at_opset(graph, 17, tmp_path / "older.onnx", {})


def test_a_conversion_that_changes_an_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_in(tmp_path, MEAN)

    def wrong(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        converted = onnx.ModelProto()
        converted.CopyFrom(model)
        converted.opset_import[0].version = opset
        converted.graph.node[-1].op_type = "Neg"
        reduce = converted.graph.node[1]
        reduce.input.pop()
        reduce.attribute.append(onnx.helper.make_attribute("axes", [2]))
        return converted

    monkeypatch.setattr(older_opset_converter(), "convert_version", wrong)
    with pytest.raises(NotAcceptable, match=r"converted from opset 18 to 17, output 'y' differs by"):
        at_opset(graph, 17, tmp_path / "older.onnx", {"L": 5})


def older_opset_converter() -> object:
    from onnx import version_converter

    assert older_opset.TRIED_BATCH > 1
    return version_converter
