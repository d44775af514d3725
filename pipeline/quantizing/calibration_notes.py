"""What a person is told of the ranges: how sure they are, and which images set one alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.reporting.result import Finding

if TYPE_CHECKING:
    import onnx

    from calibration.statistics import Origin, Sketches
    from calibration.statistics.confidence import Alone, Confidence
    from calibration.statistics.evidence import Evidence

_SCALING_OPERATORS = frozenset({"Add", "BatchNormalization", "Div", "InstanceNormalization", "Mul", "Sub"})
MOST_NAMED = 5
"""Images that alone set a range; ranges.json has them all."""


def images_notes(origin: Origin, confidence: Confidence | None) -> Iterator[Finding]:
    """How many images were enough, where the pass was to find out."""
    if origin.until_tight is None:
        return
    used = origin.stop - origin.start
    if confidence is not None and confidence.is_tight:
        yield _note(f"{used} of {origin.samples} images were enough for tight ranges")
    else:
        yield _warning(f"the ranges are not tight, with all {used} images that there are: give more")


def confidence_notes(evidence: Evidence, model: onnx.ModelProto, modules: Mapping[str, str]) -> Iterator[Finding]:
    """A line on all ranges together, and one for each of the images that matter most."""
    if evidence.confidence is not None:
        yield _note(evidence.confidence.in_words())
    called = names_of_tensors(model, modules)
    by_image: dict[str, list[Alone]] = {}
    for each in evidence.alone:
        by_image.setdefault(each.image, []).append(each)
    for first, *others in list(by_image.values())[:MOST_NAMED]:
        also = f" and of {len(others)} more" if others else ""
        yield _warning(first.in_words(called.get(first.tensor, repr(first.tensor)) + also))
    if (more := len(by_image) - MOST_NAMED) > 0:
        yield _warning(f"{more} more images set a range alone; ranges.json names them")


def value_notes(sketches: Sketches, model: onnx.ModelProto, modules: Mapping[str, str]) -> Iterator[Finding]:
    """What the values say of the network or of what it was fed: a person decides whether that is meant."""
    outputs = {entry.name for entry in model.graph.output}
    constant = [name for name, each in sketches.tensors.items() if each.minimum == each.maximum and each.count > 1]
    called = names_of_tensors(model, modules)
    lines = [
        f"{called.get(name, repr(name))} is {sketches.tensors[name].minimum:.4g} for all images: "
        + ("the network answers nothing" if name in outputs else "nothing that reads it depends on the image")
        for name in sorted(constant, key=lambda name: (name not in outputs, name))
    ]
    yield from map(_warning, lines[:MOST_NAMED])
    if len(lines) > MOST_NAMED:
        yield _warning(f"{len(lines) - MOST_NAMED} more tensors have one value for all images")
    yield from _raw_pixels(sketches, model)


def _raw_pixels(sketches: Sketches, model: onnx.ModelProto) -> Iterator[Finding]:
    """Where an input of images holds what pixels are in a file, and the graph does not scale it itself."""
    for entry in model.graph.input:
        sketch, dimensions = sketches.tensors.get(entry.name), len(entry.type.tensor_type.shape.dim)
        readers = {node.op_type for node in model.graph.node if entry.name in node.input}
        if sketch is None or dimensions != 4 or readers & _SCALING_OPERATORS:
            continue
        if sketch.minimum >= 0 and 128 < sketch.maximum <= 255:
            yield _warning(
                f"input {entry.name!r} holds values from {sketch.minimum:g} to {sketch.maximum:g}, as raw pixels do, "
                "and the graph does not scale them: was it trained on these?"
            )


def _note(message: str) -> Finding:
    return Finding(severity="note", message=message)


def _warning(message: str) -> Finding:
    return Finding(severity="warning", message=message)


def names_of_tensors(model: onnx.ModelProto, modules: Mapping[str, str]) -> dict[str, str]:
    """What a person knows a tensor by: the source module of the node that writes it, else that node, and itself."""
    inputs = {entry.name: f"input {entry.name!r}" for entry in model.graph.input}
    return inputs | {
        name: f"{modules.get(node.name) or node.name} (tensor {name!r})"
        for node in model.graph.node
        for name in node.output
        if name
    }
