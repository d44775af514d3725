"""A calibration cache and what it is held against: its own record, a graph, a version of TensorRT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from onnx import ModelProto, NodeProto

from calibration.external_data import inferred
from calibration.graph import Graph
from calibration.runtime_types import with_runtime_types
from calibration.tensorrt_cache.cache import ParsedCache, parsed_cache
from calibration.tensorrt_cache.origin import CacheOrigin
from calibration.tensorrt_cache.version import CacheVersion

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class LintedGraph:
    """The graph that a cache is for."""

    model: ModelProto
    sha256: str
    """Of its file."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Of everything that is written or given: activations, weights, shapes."""
        graph = self.model.graph
        written = {name for node in graph.node for name in node.output}
        return frozenset({*written, *(value.name for value in graph.input), *(each.name for each in graph.initializer)})

    @cached_property
    def float_tensors(self) -> dict[str, bool]:
        """Those that depend on the input, in order: whether a convolution or product reads or writes each, or writes it
        through the Relu or Clip that it is fused with."""
        index = Graph(with_runtime_types(inferred(self.model)))
        alive = {name for name in index.inputs if name not in index.initializers}
        for node in index.nodes:
            if any(name in alive for name in node.input):
                alive |= {name for name in node.output if name}
        ordered = (*index.inputs, *(name for node in index.nodes for name in node.output))
        multiplying = [node for node in index.nodes if node.op_type in _PRODUCTS]
        products = {name for node in multiplying for name in (*node.input, *node.output, index.tail(node))}
        return {name: name in products for name in ordered if name in alive and index.is_float(name)}

    @cached_property
    def writer(self) -> dict[str, NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}


@dataclass(frozen=True)
class Subject:
    """One cache under the linter."""

    data: bytes
    origin: CacheOrigin | None
    graph: LintedGraph | None
    wanted: CacheVersion | None
    """The TensorRT that is to take it."""

    @cached_property
    def parsed(self) -> ParsedCache:
        return parsed_cache(self.data)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


Found = Iterator[tuple[str, str]]
"""(where: a line, a tensor or nothing; what is wrong there)."""


@dataclass(frozen=True)
class CacheRule:
    """`finds` looks, the rest is what a person is told."""

    name: str
    severity: Literal["error", "warning"]
    why: str
    advice: str
    source: str
    finds: Callable[[Subject], Found]
