"""How near a quantized graph comes to the float one, computed as the graph is written, whatever the machine.

A CPU may round or saturate inside its INT8 kernels in ways of its own (AVX2 without VNNI saturates products of 8-bit
weights), so Q and DQ are run as they stand, around float kernels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError, GraphRefused
from calibration.external_data import session_of
from calibration.statistics.collect import Batch

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OutputQuality:
    """Of one output of the graph."""

    sqnr_db: float
    """10 log10(sum of squares of the float answer / sum of squares of the difference); inf where there is none."""
    agreement: float | None
    """Share of rows whose largest class is the same one; None where the output has no axis of classes."""


@dataclass(frozen=True)
class Quality:
    """Of a graph's answers beside the float graph's."""

    images: int
    outputs: Mapping[str, OutputQuality]

    @property
    def sqnr_db(self) -> float:
        """Of the output that has lost most."""
        return min(output.sqnr_db for output in self.outputs.values())

    @property
    def agreement(self) -> float | None:
        """Of the output that agrees least, among those with classes."""
        shares = [output.agreement for output in self.outputs.values() if output.agreement is not None]
        return min(shares, default=None)


def session_as_written(model: ModelProto, threads: int) -> Any:
    """An onnxruntime session in which each Q and DQ rounds as the graph says. Raises GraphRefused."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # float kernels between Q and DQ
    try:
        return session_of(model, options)
    except Exception as error:  # onnxruntime's own errors share no base class
        raise GraphRefused(f"onnxruntime cannot load the graph to compare it: {error}") from error


def answers(session: Any, batch: Batch) -> dict[str, NDArray[Any]]:
    """The outputs of a session by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(batch.feeds)), strict=True))


@final
class FloatReference:
    """The float graph's answers on some batches, kept, so that one graph after another is compared with them."""

    def __init__(self, model: ModelProto, batches: Sequence[Batch], threads: int) -> None:
        """Holds the batches and the answers: give a few."""
        session = session_as_written(model, threads)
        self._batches = tuple(batches)
        self._answers = tuple(answers(session, batch) for batch in self._batches)
        self._threads = threads

    def quality_of(self, model: ModelProto) -> Quality:
        """Of another graph with the same inputs and outputs."""
        session = session_as_written(model, self._threads)
        comparison = Comparison()
        for batch, wanted in zip(self._batches, self._answers, strict=True):
            comparison.add(wanted, answers(session, batch), len(batch.ids))
        return comparison.quality()


def compared(reference: ModelProto, model: ModelProto, batches: Iterable[Batch], threads: int) -> Quality:
    """Two graphs with the same inputs and outputs on any number of batches, one after another: flat memory."""
    wanted, found = session_as_written(reference, threads), session_as_written(model, threads)
    comparison = Comparison()
    for batch in batches:
        comparison.add(answers(wanted, batch), answers(found, batch), len(batch.ids))
    return comparison.quality()


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    rows: int = 0
    equal: int = 0


@dataclass
class Comparison:
    """Sums over the batches so far."""

    images: int = 0
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, wanted: Outputs, found: Outputs, images: int) -> None:
        """Counts the answers to one batch. Raises CalibrationError where an output is not of the same shape."""
        self.images += images
        for name, reference in wanted.items():
            if name not in found or found[name].shape != reference.shape:
                shape = found[name].shape if name in found else "missing"
                raise CalibrationError(f"output {name!r} is {shape}, and {reference.shape} in the float graph")
            _count(self._sums.setdefault(name, _Sums()), reference, found[name])

    def quality(self) -> Quality:
        """Raises CalibrationError where nothing was compared."""
        if not self.images:
            raise CalibrationError("no image to compare the graphs on; give at least one")
        outputs = {name: OutputQuality(decibels(s.signal, s.noise), _share(s)) for name, s in self._sums.items()}
        return Quality(self.images, outputs)


def sqnr_db(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """10 log10(signal / noise) of one array beside another; inf where they are equal."""
    sums = _Sums()
    _count(sums, wanted, found)
    return decibels(sums.signal, sums.noise)


def _count(sums: _Sums, wanted: NDArray[Any], found: NDArray[Any]) -> None:
    difference = wanted.astype(np.float64) - found
    sums.signal += float(np.square(wanted, dtype=np.float64).sum())
    sums.noise += float(np.square(difference).sum())
    axis = class_axis(wanted)
    if axis is not None:
        same = wanted.argmax(axis) == found.argmax(axis)
        sums.rows += same.size
        sums.equal += int(np.count_nonzero(same))


def class_axis(output: NDArray[Any]) -> int | None:
    """Where classes stand: axis 1 of (batch, classes) and of images, the last of (batch, length, classes)."""
    axis = {2: 1, 3: 2, 4: 1}.get(output.ndim)
    return axis if axis is not None and output.shape[axis] > 1 else None


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): inf without noise, -inf without signal or where the noise is not finite."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


def _share(sums: _Sums) -> float | None:
    return sums.equal / sums.rows if sums.rows else None
