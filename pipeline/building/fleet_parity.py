"""The engines of a fleet beside their graphs, on samples of the calibration split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from engines.base import UINT8_NHWC, BuiltEngine, Target
from pipeline.artifact import Artifacts, Splits
from pipeline.building.engine_parity import SAMPLES, EngineParity, Pair, not_run, parity_of, tried
from pipeline.building.fleet import TargetBuilt, graph_of
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.errors import NotAcceptable
from pipeline.exporting.parity import ReferenceSession


@dataclass(frozen=True)
class Compared:
    """A fleet without the engines that answer otherwise than their graphs."""

    fleet: tuple[TargetBuilt, ...]
    parity: Mapping[tuple[str, str], EngineParity]
    """By target and precision, of the engines that were built."""


def compared(fleet: Sequence[TargetBuilt], inputs: Artifacts, context: Context) -> Compared:
    """Runs what can run here; an engine that answers otherwise is removed, and its NotAcceptable stands for it."""
    samples = _Samples(inputs, context)
    found, parities = [], {}
    for built in fleet:
        engines = dict(built.engines)
        for precision, engine in built.engines.items():
            if not isinstance(engine, BuiltEngine):
                continue
            context.cancellation.check()
            elsewhere = not_run(built.target)
            parity = elsewhere or _tried(samples, built.target, precision, engine)
            parities[built.target.name, precision] = parity
            if elsewhere is None:
                context.say(f"{built.target.name} {precision}: {parity.sentence()}")
            if parity.state == "differs":
                engine.file.unlink()
                engines[precision] = NotAcceptable(_refused(built.target, precision, parity))
        found.append(replace(built, engines=engines))
    return Compared(tuple(found), parities)


def _tried(samples: _Samples, target: Target, precision: str, engine: BuiltEngine) -> EngineParity:
    return tried(lambda: samples.parity(target, precision, engine))


def reference_graph(inputs: Artifacts, target: Target, precision: str) -> Path:
    """The graph that an engine's answers are held against: its own, of BF16 the exported one, because onnxruntime has
    no BF16 kernels."""
    return graph_of(inputs, target, "fp32" if precision == "bf16" else precision)


def _refused(target: Target, precision: str, parity: EngineParity) -> str:
    return (
        f"target {target.name}, {precision}: on the calibration split the engine does not answer as its graph does: "
        f"{parity.reason}; what the runtime made of the graph computes something else on this machine: take "
        f"'{precision}' out of precisions, or another version of the runtime"
    )


@final
class _Samples:
    """A few of the calibration split, opened once an engine wants them."""

    def __init__(self, inputs: Artifacts, context: Context) -> None:
        self._inputs, self._context = inputs, context
        self._dataset: Dataset | None = None

    def parity(self, target: Target, precision: str, engine: BuiltEngine) -> EngineParity:
        reference = ReferenceSession(reference_graph(self._inputs, target, precision), self._context.threads)
        takes_bytes = target.input == UINT8_NHWC

        def pairs(size: int) -> Iterator[tuple[int, Pair]]:
            return self._pairs(size, takes_bytes)

        return parity_of(engine, precision, target, reference, pairs, self._context.task)

    def _pairs(self, size: int, takes_bytes: bool) -> Iterator[tuple[int, Pair]]:
        """In batches of `size`: the last one is filled by repetition, which does not count."""
        dataset = self._opened()
        picked = _spread(dataset.indices("calibration"))
        for start in range(0, len(picked), size):
            part = picked[start : start + size]
            filled = np.resize(part, size)
            yield len(part), _as_bytes(dataset, filled) if takes_bytes else (dataset.inputs(filled),) * 2

    def _opened(self) -> Dataset:
        if self._dataset is None:
            self._dataset = open_dataset(self._inputs[Splits], self._context)
        return self._dataset


def _spread(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Evenly over the split, which may be sorted by class."""
    at = np.linspace(0, len(indices) - 1, min(SAMPLES, len(indices))).astype(np.int64)
    picked: NDArray[np.int64] = indices[at]
    return picked


def _as_bytes(dataset: Dataset, indices: NDArray[np.int64]) -> Pair:
    """The bytes for the engine, and what preprocessing makes of the same bytes for the graph."""
    taken = dataset.bytes_of(indices)
    return taken, dataset.normalized(taken)
