"""What the linter of calibration caches looks for beside a graph: whose cache it is, and which tensors it reaches."""

from __future__ import annotations

from calibration.counting import counted
from calibration.methods.closest import renamed
from calibration.scale import INT8_LEVELS
from calibration.tensorrt_cache.rules import FORMAT, INVENTED, SILENT
from calibration.tensorrt_cache.subject import CacheRule, Found, Subject

_LISTED = 10
"""Tensors that a finding names; the rest is counted."""

_AT_MOST_1 = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Tanh"})
_ABOVE_1 = 2.0
"""An amax that no calibration gives to what is at most 1."""
_RECORD = "the record beside the cache: calibration/tensorrt_cache/origin.py"
_IN_FLOAT = "TensorRT runs a layer whose tensors have no scale in float, without a word"


def _changed(subject: Subject) -> Found:
    if subject.origin is not None and subject.origin.sha256 != subject.sha256:
        yield "", f"its SHA-256 is {subject.sha256[:12]}…, {subject.origin.sha256[:12]}… was written"


def _other_model(subject: Subject) -> Found:
    origin, graph = subject.origin, subject.graph
    if origin is not None and graph is not None and graph.sha256 not in (origin.graph.sha256, origin.source.sha256):
        yield "", f"it is of {origin.graph.name}, calibrated from {origin.source.name}; the graph given is neither"
    elif graph is not None and subject.parsed.entries and not graph.names & set(subject.parsed.scales):
        yield "", f"none of its {counted(len(subject.parsed.entries), 'tensor')} is in the graph"


def _source_model(subject: Subject) -> Found:
    origin, graph = subject.origin, subject.graph
    if origin is not None and graph is not None and graph.sha256 == origin.source.sha256 != origin.graph.sha256:
        yield "", f"the graph given was calibrated, and the one that was measured is {origin.graph.name}"


def _missing_product(subject: Subject) -> Found:
    return _missing(subject, of_products=True)


def _missing_elsewhere(subject: Subject) -> Found:
    return _missing(subject, of_products=False)


def _missing(subject: Subject, *, of_products: bool) -> Found:
    graph, listed = subject.graph, subject.parsed.scales
    if graph is None or not graph.names & set(listed):
        return
    unknown = [name for name in listed if name not in graph.names]
    every = [name for name in graph.float_tensors if name not in listed]
    missing = [name for name in every if graph.float_tensors[name] == of_products]
    if missing:
        has = "has" if len(missing) == 1 else "have"
        told = _told(missing, every, unknown, "was it renamed to")
        yield "", f"{counted(len(missing), 'tensor')} of the graph {has} no scale: {told}"


def _unknown(subject: Subject) -> Found:
    graph, listed = subject.graph, subject.parsed.scales
    if graph is None or not graph.names & set(listed):
        return
    every = [name for name in listed if name not in graph.names]
    unknown = [name for name in every if not INVENTED.search(name)]
    missing = [name for name in graph.float_tensors if name not in listed]
    if unknown:
        are = "is" if len(unknown) == 1 else "are"
        yield "", f"{counted(len(unknown), 'tensor')} {are} not in the graph: {_told(unknown, every, missing, 'is it')}"


def _told(tensors: list[str], every: list[str], candidates: list[str], question: str) -> str:
    """`every` has those too that another finding tells of: one of them may be the one that a candidate is."""
    said = []
    for tensor in tensors[:_LISTED]:
        likely = renamed(tensor, every, candidates)
        said.append(repr(tensor) + (f" ({question} {likely!r}?)" if likely else ""))
    return ", ".join(said) + (f" and {len(tensors) - _LISTED} more" if len(tensors) > _LISTED else "")


def _amax_for_scale(subject: Subject) -> Found:
    if subject.graph is None:
        return
    for tensor, scale in subject.parsed.scales.items():
        writer, amax = subject.graph.writer.get(tensor), float(scale) * INT8_LEVELS
        if writer is not None and writer.op_type in _AT_MOST_1 and amax > _ABOVE_1:
            yield (
                f"tensor {tensor!r}",
                f"its scale {scale:g} covers up to {amax:g}, and {writer.op_type} gives at most 1",
            )


GRAPH_RULES: tuple[CacheRule, ...] = (
    CacheRule(
        "changed",
        "error",
        "a scale that somebody edited is in no record",
        "write the cache again, or take its record away if the change is meant",
        _RECORD,
        _changed,
    ),
    CacheRule(
        "other-model",
        "error",
        "a cache binds by name to any graph: where names fall together, one network's ranges cut off another's values",
        "give TensorRT the cache of this graph: edgestill quantize MODEL.onnx --data ... --tensorrt-version",
        SILENT,
        _other_model,
    ),
    CacheRule(
        "unmeasured-graph",
        "warning",
        "batch-norms are folded in the graph that was measured: this one has tensors before them that have no scale",
        "give TensorRT the measured graph, which lies beside the cache",
        _RECORD,
        _source_model,
    ),
    CacheRule(
        "missing-tensor",
        "error",
        f"a convolution or product reads or writes it. {_IN_FLOAT}",
        "calibrate this very graph, or build its Q/DQ graph",
        SILENT,
        _missing_product,
    ),
    CacheRule(
        "missing-elsewhere",
        "warning",
        _IN_FLOAT,
        "calibrate this very graph, or build its Q/DQ graph",
        SILENT,
        _missing_elsewhere,
    ),
    CacheRule(
        "unknown-tensor",
        "warning",
        "TensorRT passes over it without a word",
        "the tensor was renamed since, or the cache is of another export: calibrate this very graph",
        SILENT,
        _unknown,
    ),
    CacheRule(
        "amax-for-scale",
        "error",
        "TensorRT multiplies by the scale: with amax in its place all values but the largest become 0",
        "write amax / 127",
        FORMAT,
        _amax_for_scale,
    ),
)
"""To add one: a function above that finds it, and an entry here."""
