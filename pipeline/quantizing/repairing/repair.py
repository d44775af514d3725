"""Repairs of a quantized graph, each judged by what it brings, and left out where it brings nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, final

from calibration.errors import CalibrationError
from pipeline.quantizing.repairing.families import products_of_all, room_of, takes_shift
from pipeline.quantizing.repairing.repair_metric import RepairJudge
from pipeline.quantizing.repairing.repair_trial import LEAST_GAIN_DB, Trial, decided_together
from pipeline.quantizing.settings import BEST, CalibrationData, QuantizationSettings, Repair, part_of, resolved_family

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.placement.place import Placement
    from calibration.ranges import Ranges
    from calibration.repairs.rounding import Roundings
    from calibration.statistics import Sketches
    from calibration.statistics.collect import Batch

HELD_SAMPLES = 64
"""What a repair looks at, whatever the calibration holds: half of it makes the repair, the other half judges it. What
is kept of roundings and biases is then made again, from all of them."""
LEAST_SAMPLES = 8
"""In either half: with fewer, no repair is tried. Of bias corrections of four networks, made of and judged on so many
random images, the verdict was not that on 256 others in 39 of 120 draws with 4, 24 with 8, 13 with 16, 8 with 32."""
SAME_FUNCTION_DB = 60.0
"""SQNR between two float graphs that only round differently."""


@final
class Repairs:
    """Tries what the settings ask for, on a few samples that it holds, and on labelled ones where there is a judge."""

    def __init__(
        self, model: ModelProto, data: CalibrationData, settings: QuantizationSettings, judge: RepairJudge | None = None
    ) -> None:
        from calibration.quality import FloatReference

        self.trials: list[Trial] = []
        self.untried: list[str] = []
        """What was asked for and is not for these families or samples, in words."""
        self._as_it_is: tuple[ModelProto, Mapping[str, ModelProto]] | None = None
        """The model that all families share by now, and its graphs."""
        self._judge = judge
        self._settings = settings
        self._held = data.first(HELD_SAMPLES)
        self._made_from, judged = _halves(self._held, data.images_a_run)
        self.wanted: tuple[Repair, ...] = settings.repair
        """What is to be tried: all that was asked for, or nothing where the samples are too few."""
        if min(_samples(self._made_from), _samples(judged)) < LEAST_SAMPLES:
            self.wanted = ()
            self.untried.append(_too_few(settings.repair, _samples(self._held), data.images_a_run))
        self._reference = FloatReference(model, judged, settings.threads)

    def equalized(self, model: ModelProto) -> ModelProto | None:
        """The model with its channels equalized, where that brings something over all families; else None."""
        from calibration.repairs.equalization import equalized, is_equalizable

        if not is_equalizable(model):
            return None
        return self._where_it_gains("equalize", model, equalized(model, self._made_from, self._settings.threads))

    def shifted(self, model: ModelProto) -> ModelProto | None:
        """The model with its channels in the middle of the grid, where that brings something; else None.

        Grids with a zero-point need no shift, and their runtimes would pay for the nodes that it may add: where one of
        the families has them it is not tried, which `untried` says.
        """
        from calibration.repairs.shifting import is_shiftable, shifted

        if unfit := [family for family in self._settings.families if not takes_shift(family)]:
            apart = " too; calibrate the families apart" if len(unfit) < len(self._settings.families) else ""
            self.untried.append(
                "repair shift: not tried, because it is for TensorRT's grids without zero-point, and the graph is for "
                f"{' and '.join(unfit)}{apart}"
            )
            return None
        products, room = products_of_all(model, self._settings.families), room_of(self._settings.families)
        if not is_shiftable(model, products, room):
            return None
        found = shifted(model, products, self._made_from, self._settings.threads, room)
        return self._where_it_gains("shift", model, found)

    def _where_it_gains(self, repair: Repair, model: ModelProto, found: ModelProto) -> ModelProto | None:
        """A model that all families share, where it is the same function and brings something over all of them."""
        same = self._reference.quality_of(found).sqnr_db
        if same < SAME_FUNCTION_DB:
            raise CalibrationError(
                f"repair '{repair}' changes what the float graph answers (SQNR {same:.1f} dB beside it); leave it out"
            )
        before = self._as_it_is[1] if self._as_it_is and self._as_it_is[0] is model else self._by_family(model)
        if not before:  # all families stay in float
            return None
        after = self._by_family(found)
        tried = [self._tried(repair, family, before[family], after[family]) for family in before]
        self.trials += decided_together(tried)
        kept = self.trials[-1].kept
        self._as_it_is = (found, after) if kept else (model, before)
        return found if kept else None

    def widened(
        self,
        model: ModelProto,
        sketches: Sketches,
        ranges: Ranges,
        placements: Mapping[str, Placement],
        clipped: Mapping[str, ModelProto],
    ) -> tuple[Ranges, dict[str, ModelProto]] | None:
        """Ranges that cut nothing off, and the graphs with them, where that gains over all families; else None.

        A percentile cuts off the same share of every tensor, whatever hangs on it; only the output shows that. Other
        methods are taken at their word, which `untried` says.
        """
        from calibration.qdq import quantize
        from calibration.ranges import ranges_from_sketches

        if not ranges.method.startswith("percentile"):
            if ranges.method != "minmax":
                asked = f"'{ranges.method}' was asked for"
                self.untried.append(f"repair widen: not tried, because it is for percentiles, and {asked}")
            return None
        wide = ranges_from_sketches(sketches, "minmax")
        if not placements or wide.tensors == ranges.tensors:
            return None
        weights = self._settings.weights
        found = {family: quantize(model, wide, each, weights=weights) for family, each in placements.items()}
        tried = [self._tried("widen", family, clipped[family], graph) for family, graph in found.items()]
        self.trials += decided_together(tried)
        return (wide, found) if self.trials[-1].kept else None

    def rounded(
        self,
        model: ModelProto,
        ranges: Ranges,
        placements: Mapping[str, Placement],
        nearest: Mapping[str, ModelProto],
    ) -> tuple[dict[str, Roundings], dict[str, ModelProto]]:
        """Weights rounded with what they are multiplied with in view, and their graphs, of the families that gain.

        `nearest` are the graphs whose weights were each rounded to the nearest integer.
        """
        from calibration.qdq import quantize
        from calibration.repairs.rounding import roundings_of

        method, threads = self._settings.weights, self._settings.threads
        found = roundings_of(model, placements, self._made_from, threads, method)
        kept: dict[str, ModelProto] = {}
        for family, placement in placements.items():
            graph = quantize(model, ranges, placement, weights=method, roundings=found[family])
            if self._gains("rounding", family, nearest[family], graph):
                kept[family] = graph
        return {family: found[family] for family in kept}, kept

    def bias_corrected(
        self,
        model: ModelProto,
        ranges: Ranges,
        family: str,
        placement: Placement,
        quantized: ModelProto,
        roundings: Roundings,
    ) -> tuple[ModelProto, ModelProto]:
        """The model with corrected biases and its quantized graph, where that brings something; else both as given."""
        corrected = self._corrected(model, placement, quantized, self._made_from)
        found = self._quantized(corrected, ranges, family, roundings)
        return (corrected, found) if self._gains("bias", family, quantized, found) else (model, quantized)

    def made_of_all(
        self, model: ModelProto, ranges: Ranges, placements: Mapping[str, Placement]
    ) -> tuple[dict[str, Roundings], dict[str, tuple[ModelProto, ModelProto]]]:
        """What was kept of roundings and biases, made again from all samples that are held.

        The roundings, and by family the model and its quantized graph; of families that keep none of both, nothing.
        """
        from calibration.repairs.rounding import roundings_of

        rounded, corrected = (
            {family: each for family, each in placements.items() if self._is_kept(repair, family)}
            for repair in ("rounding", "bias")
        )
        threads = self._settings.threads
        roundings = roundings_of(model, rounded, self._held, threads, self._settings.weights) if rounded else {}
        found = {}
        for family, placement in {**rounded, **corrected}.items():
            source, of_family = model, roundings.get(family, {})
            graph = self._quantized(source, ranges, family, of_family)
            if family in corrected:
                source = self._corrected(model, placement, graph, self._held)
                graph = self._quantized(source, ranges, family, of_family)
            found[family] = source, graph
        return roundings, found

    def _is_kept(self, repair: str, family: str) -> bool:
        return any(trial.kept for trial in self.trials if (trial.repair, trial.family) == (repair, family))

    def _gains(self, repair: str, family: str, before: ModelProto, after: ModelProto) -> bool:
        """Whether the second graph is better, which is noted."""
        trial = self._tried(repair, family, before, after)
        self.trials.append(trial)
        return trial.kept

    def _tried(self, repair: str, family: str, before: ModelProto, after: ModelProto) -> Trial:
        """Kept where the metric is better with it, or, where the samples leave that open, the output."""
        found, repaired = self._reference.quality_of(before), self._reference.quality_of(after)
        change = None if self._judge is None else self._judge.change(before, after)
        if change is not None and (change.improves or change.worsens):
            return Trial(repair, family, found, repaired, change.improves, change, "metric")
        return Trial(repair, family, found, repaired, repaired.sqnr_db - found.sqnr_db >= LEAST_GAIN_DB, change)

    def _by_family(self, model: ModelProto) -> Mapping[str, ModelProto]:
        """With ranges from the samples that are held: a whole pass is for the graph that is kept.

        With corrected biases where they are asked for and bring something: weights err on the mean that a shift leaves.
        """
        from calibration.placement.place import place
        from calibration.ranges import ranges_from_sketches
        from calibration.statistics.collect import collect

        sketches = collect(model, self._held, threads=self._settings.threads)
        method = self._settings.method if self._settings.method != BEST else "mse"
        ranges = ranges_from_sketches(sketches, method)
        found = {}
        for family in self._settings.families:
            placement = place(model, resolved_family(family))
            if not placement.is_float:
                found[family] = self._quantized(model, ranges, family, {})
                if "bias" in self._settings.repair:
                    corrected = self._corrected(model, placement, found[family], self._made_from)
                    found[family] = self._better(found[family], self._quantized(corrected, ranges, family, {}))
        return found

    def _better(self, one: ModelProto, other: ModelProto) -> ModelProto:
        return max((one, other), key=lambda graph: self._reference.quality_of(graph).sqnr_db)

    def _corrected(
        self, model: ModelProto, placement: Placement, quantized: ModelProto, batches: Sequence[Batch]
    ) -> ModelProto:
        from calibration.repairs.bias_correction import bias_corrected

        nodes = [weight.node for weight in placement.weights]
        return bias_corrected(model, quantized, nodes, batches, self._settings.threads)

    def _quantized(self, model: ModelProto, ranges: Ranges, family: str, roundings: Roundings) -> ModelProto:
        from calibration.placement.place import place
        from calibration.qdq import quantize

        placement = place(model, resolved_family(family))
        return quantize(model, ranges, placement, weights=self._settings.weights, roundings=roundings)


def _halves(batches: Sequence[Batch], images_a_run: int) -> tuple[Sequence[Batch], Sequence[Batch]]:
    """What makes a repair, and what judges it: no sample does both.

    Whole batches where either half has enough of them, else a batch is cut, between two runs of the graph.
    """
    middle = len(batches) // 2
    first, second = batches[:middle], batches[middle:]
    if min(_samples(first), _samples(second)) >= LEAST_SAMPLES:
        return first, second
    samples = _samples(batches)
    cut = samples // 2 // images_a_run * images_a_run
    return list(part_of(batches, 0, cut)), list(part_of(batches, cut, samples))


def _samples(batches: Sequence[Batch]) -> int:
    return sum(len(batch.ids) for batch in batches)


def _too_few(repairs: Sequence[str], samples: int, images_a_run: int) -> str:
    least = 2 * images_a_run * -(-LEAST_SAMPLES // images_a_run)
    at_once = f", {images_a_run} of which the graph takes at once," if images_a_run > 1 else ""
    called = "repairs" if len(repairs) > 1 else "repair"
    return (
        f"{called} {', '.join(repairs)}: not tried, because one half of the samples "
        f"makes a repair and the other judges it, and halves of {samples} samples{at_once} are too few to tell a gain "
        f"from chance; give at least {least}"
    )
