"""An engine of a user's own ONNX file beside that file, on random inputs: there are no real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.base import UINT8_NHWC, BuiltEngine, Target, TensorInfo
from engines.errors import EngineError
from engines.feeds import random_feeds
from pipeline.building.engine_parity import EngineParity, Pair, not_run, parity_of, tried
from pipeline.data.preprocess import Preprocess
from pipeline.exporting.parity import ReferenceSession
from pipeline.quantizing.inputs.graph_inputs import fixed_batch, tensor_infos


def random_parity(
    engine: BuiltEngine, precision: str, target: Target, graph: Path, images: Preprocess | None
) -> EngineParity:
    """The comparison on one random batch.

    Only FP32 is judged: what is random lies outside the ranges that INT8 and FP16 were made for.
    """
    if (elsewhere := not_run(target)) is not None:
        return elsewhere
    infos = tensor_infos(graph, {name: axis.opt for name, axis in target.axes.items()})
    try:
        _pair(infos, 1, target, images)
    except EngineError as error:
        return EngineParity("not_run", f"there is nothing to compare on: {error}")

    def pairs(size: int) -> Iterator[tuple[int, Pair]]:
        pair = _pair(infos, size, target, images)
        yield len(next(iter(pair[0].values()))), pair

    found = tried(lambda: parity_of(engine, precision, target, ReferenceSession(graph, 1), pairs, None))
    if found.state == "differs" and found.samples and precision != "fp32":
        return replace(found, state="recorded", reason=f"random inputs judge FP32 alone, and {found.reason}")
    return found


def _pair(infos: tuple[TensorInfo, ...], size: int, target: Target, images: Preprocess | None) -> Pair:
    """What the engine and the graph take; the batch is the graph's own where it is fixed."""
    batch = fixed_batch(infos) or size
    if target.input != UINT8_NHWC or images is None:
        feeds = random_feeds(infos, batch, seed=0)
        return feeds, feeds
    [(name, shape)] = [(info.name, info.shape) for info in infos]
    bytes_info = TensorInfo(name, "uint8", tuple(shape[at] for at in (0, 2, 3, 1)))
    taken = random_feeds([bytes_info], batch, seed=0)
    return taken, {name: np.stack([images.normalized_bytes(image) for image in taken[name].astype(np.uint8)])}
