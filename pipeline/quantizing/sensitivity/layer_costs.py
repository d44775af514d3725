"""What each layer and each block of one graph costs in INT8, for one placement family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.judging.evaluation import Evaluation, Evaluator, Remembered, finite_db
from pipeline.quantizing.judging.yardstick import JudgingData, Yardstick

if TYPE_CHECKING:
    import onnx

    from calibration.layers import Layer
    from calibration.placement.place import Placement
    from calibration.ranges import Ranges
    from calibration.statistics import Sketches
    from calibration.statistics.collect import Batch

Sensitivity = Literal["off", "local", "worst", "exact"]
"""`local`: what each layer makes of float inputs, in one pass. `worst`: and whole graphs for the `MOST_SENSITIVE`
layers and the `MOST_SENSITIVE_BLOCKS`. `exact`: for each layer and block."""

LOCAL_SAMPLES = 64
MOST_SENSITIVE = 8
"""How many layers `worst` judges by whole graphs, as a budget does at least before it tries placements."""
MOST_SENSITIVE_BLOCKS = 4
ALONE = "judged alone"

Spared = frozenset[str]
Unit = tuple[str, ...]
"""The nodes of a layer, which is one, or of a block."""


@dataclass(frozen=True)
class Subject:
    """One graph for one family."""

    family: str
    """As it was asked for."""
    model: onnx.ModelProto
    """Prepared, in float."""
    ranges: Ranges
    sketches: Sketches
    layers: tuple[Layer, ...]
    quantized: Callable[[Mapping[str, str]], tuple[Placement, onnx.ModelProto]]
    """With these nodes in float, each for its reason, and without repairs."""
    as_calibrated: tuple[Placement, onnx.ModelProto]
    """All that the family's rules quantize, with the repairs that were kept."""

    @cached_property
    def whole(self) -> tuple[Placement, onnx.ModelProto]:
        """All that the family's rules quantize, without repairs."""
        return self.quantized({})

    @cached_property
    def candidates(self) -> tuple[Layer, ...]:
        """The layers that the family's rules quantize."""
        placed = set(self.whole[0].quantized_nodes)
        return tuple(layer for layer in self.layers if layer.node in placed)

    def share(self, spared: Spared) -> float:
        """Of the multiply-adds in INT8."""
        total = sum(layer.multiply_adds for layer in self.layers)
        return sum(each.multiply_adds for each in self.candidates if each.node not in spared) / max(1, total)

    def blocks(self) -> dict[str, Unit]:
        """Nodes by block, of the blocks that hold several."""
        found: dict[str, list[str]] = {}
        for layer in self.candidates:
            found.setdefault(layer.group, []).append(layer.node)
        return {name: tuple(nodes) for name, nodes in found.items() if len(nodes) > 1}


@final
class Judge:
    """Evaluates placements of a subject, each once, and remembers them."""

    def __init__(
        self,
        subject: Subject,
        data: JudgingData,
        yardstick: Yardstick | None,
        remembered: Remembered,
        threads: int,
        cancellation: Cancellation,
    ) -> None:
        self._subject, self._data, self._yardstick = subject, data, yardstick
        self._remembered, self._threads, self._cancellation = remembered, threads, cancellation

    @property
    def metric(self) -> str | None:
        """In words."""
        return None if self._yardstick is None else self._yardstick.metric

    @property
    def samples(self) -> int:
        return self._data.samples

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self._subject.model, self._data, self._yardstick, self._threads, self._cancellation)

    def of(self, spared: Spared) -> Evaluation:
        """Of the placement that spares these layers."""
        key = [*self._key, sorted(spared)]
        known = self._remembered.get(key)
        if known is None:
            self._cancellation.check()
            subject = self._subject
            _, graph = subject.quantized(dict.fromkeys(spared, ALONE)) if spared else subject.as_calibrated
            known = self._evaluator.of(graph)
            self._remembered.put(key, known)
        return known

    def of_only(self, nodes: Sequence[str]) -> Evaluation:
        """With these layers alone in INT8."""
        return self.of(frozenset(each.node for each in self._subject.candidates) - frozenset(nodes))

    @cached_property
    def _key(self) -> list[str]:
        """Everything that shapes an evaluation beside the placement."""
        from calibration.external_data import digest

        graphs = (self._subject.as_calibrated[1], self._subject.whole[1], self._subject.model)
        return [*map(digest, graphs), self._data.identity, str(self._data.samples), self.metric or ""]


@dataclass
class LayerCosts:
    """What was found, filled as it is found."""

    local_sqnr_db: dict[str, float] = field(default_factory=dict)
    saturation: dict[str, float] = field(default_factory=dict)
    """Share of the values of a layer's input that lie outside its range."""
    only: dict[Unit, Evaluation] = field(default_factory=dict)
    """With the layer or block alone in INT8."""
    without: dict[Unit, Evaluation] = field(default_factory=dict)
    """With all but it."""
    whole: Evaluation | None = None
    """With all that the family's rules quantize."""

    def noise(self, nodes: Sequence[str]) -> dict[str, float]:
        """Noise over signal at the output of each layer alone; where it was not judged, from its own result.

        What a layer loses at its own result reaches the output scaled; the scale of those that were judged stands in
        for the others'.
        """
        local = {node: 10 ** (-self.local_sqnr_db[node] / 10) for node in nodes}
        exact = {node: 10 ** (-self.only[node,].sqnr_db / 10) for node in nodes if (node,) in self.only}
        scales = [found / local[node] for node, found in exact.items() if local[node] > 0]
        scale = float(np.median(scales)) if scales else 1.0
        return {node: exact.get(node, scale * local[node]) for node in nodes}


def local_costs(
    subject: Subject, data: JudgingData, threads: int, progress: Progress, check: Callable[[], None]
) -> LayerCosts:
    """What each layer loses by itself, on the first `LOCAL_SAMPLES` samples."""
    from calibration.sensitivity import local_sqnr_db, saturation

    nodes = [layer.node for layer in subject.candidates]
    first = _first(data, LOCAL_SAMPLES)
    with progress.phase(f"{subject.family}: each layer by itself", min(LOCAL_SAMPLES, data.samples)) as phase:

        def on_batch(done: int) -> None:
            check()
            phase.reach(done)

        found = local_sqnr_db(subject.model, subject.whole[1], nodes, first, threads=threads, on_batch=on_batch)
    return LayerCosts(
        {node: finite_db(value) for node, value in found.items()},
        {
            layer.node: saturation(subject.sketches.tensors[layer.input], subject.ranges.of(layer.input))
            for layer in subject.candidates
        },
    )


def exact_costs(
    subject: Subject, judge: Judge, costs: LayerCosts, sensitivity: Sensitivity, progress: Progress
) -> None:
    """Whole graphs: of the most sensitive layers at least, as a search wants them, alone and left out."""
    nodes = [layer.node for layer in subject.candidates]
    units = _judged_units(subject, costs, sensitivity)
    with progress.phase(f"{subject.family}: whole graphs", 1 + 2 * len(units)) as phase:
        costs.whole = judge.of(frozenset())
        phase.advance(figures=in_words(costs.whole, judge.metric))
        for unit in units:
            costs.only[unit] = judge.of_only(unit)
            phase.advance(figures=f"{unit[0]} alone: {in_words(costs.only[unit], judge.metric)}")
            if len(unit) < len(nodes):
                costs.without[unit] = judge.of(frozenset(unit))
            phase.advance()


def _judged_units(subject: Subject, costs: LayerCosts, sensitivity: Sensitivity) -> list[Unit]:
    """Layers, then blocks; those that cost most by their own results, unless all are wanted."""
    nodes = [layer.node for layer in subject.candidates]
    blocks = list(subject.blocks().values())
    if sensitivity == "exact":
        return [*((node,) for node in nodes), *blocks]
    worst = sorted(nodes, key=lambda node: (costs.local_sqnr_db[node], node))[:MOST_SENSITIVE]
    units: list[Unit] = [(node,) for node in worst]
    if sensitivity == "worst":
        noise = costs.noise(nodes)
        units += sorted(blocks, key=lambda block: -sum(noise[node] for node in block))[:MOST_SENSITIVE_BLOCKS]
    return units


def in_words(evaluation: Evaluation, metric: str | None) -> str:
    """Such as `SQNR 31.2 dB, accuracy -0.28 points`."""
    drop = "" if evaluation.drop is None else f", {metric} {-100 * evaluation.drop.value + 0.0:+.2f} points"
    return f"SQNR {evaluation.sqnr_db:.1f} dB{drop}"


def _first(data: JudgingData, most: int) -> Iterator[Batch]:
    taken = 0
    for batch in data.batches():
        if taken >= most:
            return
        taken += len(batch.ids)
        yield batch
