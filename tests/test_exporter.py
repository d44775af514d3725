"""torch -> ONNX: dynamic batch or an error, the opset that was asked for, no paths inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import NotAcceptable
from pipeline.exporter import exported, source_modules, strip_metadata
from pipeline.networks import PlainNetwork


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.reshape(int(images.shape[0]), -1)) + torch.zeros(len(images), 1)
        return logits


class Sorting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        # What depends on values cannot be traced.
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize("opset", [18, 23])
def test_the_graph_has_the_opset_that_was_asked_for_a_dynamic_batch_and_its_modules(opset: int) -> None:
    model = exported(PlainNetwork(1, [4, 8], 3), (1, 8, 8), ("logits",), opset)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {"stages.0.1", "stages.1.1", "head"} <= set(source_modules(model).values())

    strip_metadata(model)

    text = model.SerializeToString()
    assert b"networks.py" not in text
    assert b"stack_trace" not in text


def test_a_batch_that_is_turned_into_a_number_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(NotAcceptable, match=r"takes batches of 2 alone: .* use x\.flatten\(1\)"):
        exported(FixedBatch(), (1, 8, 8), ("logits",), 18)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(NotAcceptable, match=r"^the network cannot be exported: "):
        exported(Sorting(), (1, 8, 8), ("logits",), 18)
