"""How a session runs what was built, and what of that a measured time depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Execution providers of onnxruntime's."""

GRAPH_OPTIMIZATIONS = ("disabled", "basic", "extended", "all")
"""Of onnxruntime's, the least first."""


@dataclass(frozen=True)
class RunOptions:
    """Each as it is where it is left alone."""

    cuda_graph: bool = False
    """TensorRT's work is captured once and launched in one call while shapes repeat."""
    spin_wait: bool = True
    """The thread that waits for the GPU keeps a core busy; else it sleeps, and wakes a little later."""
    provider: str = "cpu"
    """Of `PROVIDERS`: what runs onnxruntime's engines, for certain."""
    graph_optimization: str = "all"
    """Of `GRAPH_OPTIMIZATIONS`: how far onnxruntime may rewrite the graph."""

    def asked(self) -> tuple[str, ...]:
        """Names of the options that are not as they are by themselves."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) != each.default)


@dataclass(frozen=True)
class RunConditions:
    """What the time of a run holds and depends on: times that differ in it are not compared. A CPU has none of it."""

    transfers: bool = False
    """The copies to the GPU and back are part of a run."""
    cuda_graph: bool = False
    spin_wait: bool = False


@dataclass(frozen=True)
class Phases:
    """Where the time of one run on a GPU went, in trtexec's words: milliseconds by the GPU's clock."""

    h2d_ms: float
    """Host to device: zero where every input lay on the GPU already."""
    gpu_compute_ms: float
    d2h_ms: float
    """Device to host."""
    enqueue_ms: float
    """By the host's clock: ordering the work, beside which the GPU may already run it."""

    @property
    def latency_ms(self) -> float:
        """As trtexec has it: the sum of what the GPU did."""
        return self.h2d_ms + self.gpu_compute_ms + self.d2h_ms
