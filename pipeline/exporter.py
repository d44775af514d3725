"""torch -> ONNX through the dynamo exporter: dynamic batch, one file, the same bytes from every folder."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import NotAcceptable

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT = "input"
# protobuf's limit is 2 GiB; the headroom is for what quantization adds.
LARGEST_FILE_BYTES = 1_500_000_000


def exported(network: nn.Module, shape: Sequence[int], outputs: Sequence[str], opset: int) -> onnx.ModelProto:
    """The network's graph in FP32, still with the exporter's metadata.

    Raises NotAcceptable where the network cannot be exported or the exporter writes another opset than asked for.
    """
    import torch

    example = torch.zeros((2, *shape))
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NotAcceptable(f"the network cannot be exported: {_reason(error)}") from error
    if program is None:
        raise NotAcceptable("the network cannot be exported: the exporter returned nothing")
    model: onnx.ModelProto = program.model_proto
    found = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if found != opset:
        raise NotAcceptable(f"opset {opset} was asked for and the exporter wrote {found}; set [export] opset = {found}")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise NotAcceptable(
            f"the exported graph takes batches of {batch.dim_value} alone: the network turns its batch size into a "
            "number, as len(x) and int(x.shape[0]) do; use x.flatten(1) or x.reshape(x.shape[0], -1)"
        )
    if model.ByteSize() > LARGEST_FILE_BYTES:
        raise NotAcceptable(f"the graph has {model.ByteSize():,} bytes; one file holds {LARGEST_FILE_BYTES:,}")
    return model


def source_modules(model: onnx.ModelProto) -> dict[str, str]:
    """Node name -> path of the module it came from, such as `stages.1.conv2`; `` is the network itself."""
    return {node.name: _module_of(node.metadata_props) for node in model.graph.node}


def strip_metadata(model: onnx.ModelProto) -> None:
    """Removes what the exporter notes for people: it holds absolute paths, so bytes would differ by folder."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer, *_values(model), *model.functions):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output, *model.graph.value_info]


def _module_of(properties: Sequence[onnx.StringStringEntryProto]) -> str:
    text = next((entry.value for entry in properties if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    # ['', 'stages', 'stages.0', 'stages.0.conv1', 'conv2d']: the last is the operation, not a module.
    scopes = [str(scope) for scope in ast.literal_eval(text)]
    return scopes[-2] if len(scopes) > 1 else ""


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    # What it says of absent torchvision operators and of its own deprecations is not for the user.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
