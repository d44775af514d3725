"""What a person is told of the ranges: how sure they are, and which images set one alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from calibration.confidence import Alone, Confidence
    from calibration.evidence import Evidence
    from calibration.statistics import Origin

MOST_NAMED = 5
"""Images that alone set a range; ranges.json has them all."""


def images_notes(origin: Origin, confidence: Confidence | None) -> Iterator[str]:
    """How many images were enough, where the pass was to find out."""
    if origin.until_tight is None:
        return
    used = origin.stop - origin.start
    if confidence is not None and confidence.is_tight:
        yield f"{used} of {origin.samples} images were enough for tight ranges"
    else:
        yield f"the ranges are not tight, with all {used} images that there are: give more"


def confidence_notes(evidence: Evidence, model: onnx.ModelProto, modules: Mapping[str, str]) -> Iterator[str]:
    """A line on all ranges together, and one for each of the images that matter most."""
    if evidence.confidence is not None:
        yield evidence.confidence.in_words()
    called = names_of_tensors(model, modules)
    by_image: dict[str, list[Alone]] = {}
    for each in evidence.alone:
        by_image.setdefault(each.image, []).append(each)
    for first, *others in list(by_image.values())[:MOST_NAMED]:
        also = f" and of {len(others)} more" if others else ""
        yield first.in_words(called.get(first.tensor, repr(first.tensor)) + also)
    if (more := len(by_image) - MOST_NAMED) > 0:
        yield f"{more} more images set a range alone; ranges.json names them"


def names_of_tensors(model: onnx.ModelProto, modules: Mapping[str, str]) -> dict[str, str]:
    """What a person knows a tensor by: the source module of the node that writes it, else that node, and itself."""
    inputs = {entry.name: f"input {entry.name!r}" for entry in model.graph.input}
    return inputs | {
        name: f"{modules.get(node.name) or node.name} (tensor {name!r})"
        for node in model.graph.node
        for name in node.output
        if name
    }
