"""torch -> ONNX through the dynamo exporter: named dynamic axes, one file, the same bytes from every folder."""

from __future__ import annotations

import ast
import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engines.base import BATCH
from pipeline.errors import NotAcceptable
from pipeline.models.interface import InputSpec, Interface

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

# protobuf's limit is 2 GiB; the headroom is for what quantization adds.
LARGEST_FILE_BYTES = 1_500_000_000


def exported(
    network: nn.Module, interface: Interface, outputs: Sequence[str], opset: int, dynamic: Sequence[str] = (BATCH,)
) -> onnx.ModelProto:
    """The network's graph in FP32, still with the exporter's metadata; its dimensions carry the names in `dynamic`.

    Raises NotAcceptable where the network cannot be exported, turns one of these axes into a number, or the exporter
    writes another opset than asked for.
    """
    model = _as_exported(network, interface, outputs, opset, dynamic)
    found = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if found != opset:
        raise NotAcceptable(f"opset {opset} was asked for and the exporter wrote {found}; set [export] opset = {found}")
    for spec in interface.inputs:
        _require_dynamic(model, spec, dynamic)
    _put_in_order(model, outputs)
    if model.ByteSize() > LARGEST_FILE_BYTES:
        raise NotAcceptable(f"the graph has {model.ByteSize():,} bytes; one file holds {LARGEST_FILE_BYTES:,}")
    return model


def resized(interface: Interface, sizes: Mapping[str, int]) -> Interface:
    """With other sizes of some named axes."""
    inputs = tuple(
        replace(spec, shape=tuple(sizes.get(name, size) for name, size in spec.axes_sizes().items()))
        for spec in interface.inputs
    )
    return replace(interface, inputs=inputs)


def _as_exported(
    network: nn.Module, interface: Interface, outputs: Sequence[str], opset: int, dynamic: Sequence[str]
) -> onnx.ModelProto:
    import torch

    from pipeline.networks.repvgg import with_merged_branches

    network = with_merged_branches(network)
    examples = _examples(interface, dynamic)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                network.eval(),
                examples,
                dynamo=True,
                opset_version=opset,
                input_names=list(interface.input_names),
                output_names=_names_as_returned(network, examples, outputs),
                dynamic_shapes=_dynamic_shapes(network, interface, dynamic),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NotAcceptable(f"the network cannot be exported: {_reason(error)}") from error
    if program is None:
        raise NotAcceptable("the network cannot be exported: the exporter returned nothing")
    return program.model_proto


def _examples(interface: Interface, dynamic: Sequence[str]) -> tuple[Tensor, ...]:
    """Two samples. A dynamic axis of size 1 gets 2: torch.export takes sizes of 0 and 1 for constants."""
    sizes = {name: max(size, 2) for name, size in interface.axes().items() if name in dynamic}
    return resized(interface, sizes).zeros(2)


def _dynamic_shapes(network: nn.Module, interface: Interface, dynamic: Sequence[str]) -> tuple[Any, ...]:
    """For each input, which of its dimensions is which axis: one `Dim` an axis, so equal names are equal sizes."""
    import torch

    axes = {name: torch.export.Dim(name) for name in dynamic}
    shapes = tuple(
        {at: axes[name] for at, name in enumerate((BATCH, *spec.axes)) if name in axes} for spec in interface.inputs
    )
    first = next(iter(inspect.signature(network.forward).parameters.values()))
    return (shapes,) if first.kind is inspect.Parameter.VAR_POSITIONAL else shapes


def _names_as_returned(network: nn.Module, examples: tuple[Tensor, ...], outputs: Sequence[str]) -> list[str]:
    """A dict is flattened in its own order, which need not be the task's."""
    import torch

    with torch.no_grad():
        found = network(*examples)
    return list(found) if isinstance(found, Mapping) else list(outputs)


def _put_in_order(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    by_name = {value.name: value for value in model.graph.output}
    if set(by_name) != set(outputs):
        raise NotAcceptable(f"the exported graph gives {', '.join(by_name)}; the task wants {', '.join(outputs)}")
    ordered = [by_name[name] for name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(ordered)


def _require_dynamic(model: onnx.ModelProto, spec: InputSpec, dynamic: Sequence[str]) -> None:
    """The exporter makes an axis constant, or two axes one, where the network leaves it no choice, and says nothing."""
    value = next(value for value in model.graph.input if value.name == spec.name)
    for dim, axis in zip(value.type.tensor_type.shape.dim, (BATCH, *spec.axes), strict=True):
        if axis not in dynamic or dim.dim_param == axis:
            continue
        if dim.dim_param:
            raise NotAcceptable(
                f"the network takes inputs '{spec.name}' only where '{axis}' is {dim.dim_param}; "
                f"take '{axis}' out of [export] dynamic, or let the network take any"
            )
        if axis == BATCH:
            raise NotAcceptable(
                f"the exported graph takes batches of {dim.dim_value} alone: the network turns its batch size into a "
                "number, as len(x) and int(x.shape[0]) do; use x.flatten(1) or x.reshape(x.shape[0], -1)"
            )
        raise NotAcceptable(
            f"the exported graph takes '{spec.name}' of {axis} {dim.dim_value} alone: the network turns its {axis} "
            "into a number, as int(x.shape[i]), x.chunk(n) and a parameter of that size do; compute with x.shape[i] "
            f"and with scale factors, or take '{axis}' out of [export] dynamic"
        )


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
