"""Realized layers of a loaded engine, from TensorRT's EngineInspector: the same records as from the builder's log.

Documented for TensorRT 10, which says `Format/Datatype` in words and gives a convolution's weights as type and count,
and for 11 and TensorRT-RTX, which separate `Datatype` from `Format` and list constants; `trtexec --exportLayerInfo`
writes the same. It takes a GPU to load an engine, so none was seen here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engines.audit import Kind, RealizedLayer, RealizedTensor
from engines.tensorrt.api import EngineInspector, ICudaEngine, Module
from engines.tensorrt.layers import (
    UnreadableLayers,
    onnx_nodes,
    realized_layer,
    realized_tensor,
    weights_tensor,
    with_products_in_generated_kernels,
)


def inspected_layers(trt: Module, engine: ICudaEngine, products: Mapping[str, Kind]) -> tuple[RealizedLayer, ...]:
    """Of an engine that was built with detailed profiling verbosity; raises UnreadableLayers for any other.

    `products` are the ONNX names of the network's convolutions and matrix products, as far as they are known: without
    them, a product inside a generated kernel is told by the kernel's name alone.
    """
    inspector: EngineInspector = engine.create_engine_inspector()
    return layers_from_json(inspector.get_engine_information(trt.LayerInformationFormat.JSON), products)


def layers_from_json(text: str, products: Mapping[str, Kind]) -> tuple[RealizedLayer, ...]:
    """In execution order; raises UnreadableLayers where a layer is not told in full."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UnreadableLayers(f"it is no JSON ({error})") from error
    found = document.get("Layers") if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not found:
        raise UnreadableLayers("it lists no layer")
    return tuple(with_products_in_generated_kernels([_layer(each, products) for each in found], products))


def _layer(document: Any, products: Mapping[str, Kind]) -> RealizedLayer:
    if not isinstance(document, Mapping):
        name = str(document)[:80]
        raise UnreadableLayers(f"of layer {name!r} it tells the name alone: build with DETAILED verbosity")
    try:
        name, layer_type = str(document["Name"]), str(document["LayerType"])
        inputs = (
            *(_tensor(each) for each in document["Inputs"]),
            *(_tensor(each, constant=True) for each in document.get("Constants", ())),
            *_weights(document.get("Weights")),
        )
        outputs = tuple(_tensor(each) for each in document["Outputs"])
    except UnreadableLayers:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableLayers(f"layer {str(document.get('Name'))[:80]!r} has another form ({error!r})") from error
    nodes = onnx_nodes(str(document.get("Metadata", "")))
    return realized_layer(name, layer_type, inputs, outputs, nodes, products)


def _tensor(document: Mapping[str, Any], constant: bool = False) -> RealizedTensor:
    dims = tuple(int(size) for size in document["Dimensions"])
    if "Datatype" in document:
        return realized_tensor(document["Name"], dims, document["Datatype"], document["Format"], constant)
    return realized_tensor(document["Name"], dims, None, document["Format/Datatype"], constant)


def _weights(document: Mapping[str, Any] | None) -> tuple[RealizedTensor, ...]:
    return () if document is None else (weights_tensor(document["Type"], int(document["Count"])),)
