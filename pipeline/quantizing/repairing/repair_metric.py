"""What a repair does to the task's metric: the graph before it and after it on the same labelled samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.judging.evaluation import statistics_of
from pipeline.quantizing.judging.yardstick import JudgingData, Yardstick
from pipeline.tasks.intervals import Interval
from pipeline.tasks.task import Statistics

if TYPE_CHECKING:
    from onnx import ModelProto

METRIC_SAMPLES = 256
"""The most that a repair is judged on: of an accuracy they show 1.6 points, and each graph costs their forward pass."""
_POINTS = 100


@dataclass(frozen=True)
class MetricChange:
    """Of the metric, by one repair."""

    metric: str
    judged_on: str
    """What the samples are, such as `validation split`."""
    of_samples: int
    """How many there are, of which some were taken."""
    before: float
    after: float
    gain: Interval
    """After less before, paired over the samples."""

    @property
    def worsens(self) -> bool:
        """Beyond what the choice of samples explains."""
        return self.gain.high < 0

    @property
    def improves(self) -> bool:
        """Beyond what the choice of samples explains."""
        return self.gain.low > 0

    def in_words(self) -> str:
        """`accuracy 97.8 % -> 97.2 % (-0.56 points [-1.70, +0.40]) on 180 samples of the validation split`."""
        of_all = f"{self.gain.n} " if self.gain.n == self.of_samples else f"{self.gain.n} of {self.of_samples:,} "
        value, low, high = (_POINTS * end + 0.0 for end in (self.gain.value, self.gain.low, self.gain.high))
        return (
            f"{self.metric} {self.before:.1%} -> {self.after:.1%} ({value:+.2f} points [{low:+.2f}, {high:+.2f}]) "
            f"on {of_all}samples of the {self.judged_on}"
        )

    def to_json(self) -> dict[str, Any]:
        """Of an entry of placement.json; the gain in points."""
        return {
            "name": self.metric,
            "judged_on": self.judged_on,
            "samples": self.gain.n,
            "of_samples": self.of_samples,
            "before": self.before,
            "after": self.after,
            "gain_points": {end: _POINTS * getattr(self.gain, end) for end in ("value", "low", "high")},
            "confidence": self.gain.confidence,
        }


@final
class RepairJudge:
    """Runs each graph once over the samples; the float graph is not run, for two graphs stand against each other."""

    def __init__(
        self,
        data: JudgingData,
        yardstick: Yardstick,
        threads: int,
        progress: Progress,
        cancellation: Cancellation,
    ) -> None:
        """`data` has labels, and as many samples as each graph is to run on."""
        self._data, self._yardstick, self._threads = data, yardstick, threads
        self._progress, self._cancellation = progress, cancellation
        self._known: dict[str, Statistics] = {}

    def change(self, before: ModelProto, after: ModelProto) -> MetricChange:
        """From one graph to the other."""
        first, second = self._statistics(before), self._statistics(after)
        drop = self._yardstick.drop(second, first)
        gain = Interval(-drop.value + 0.0, -drop.high + 0.0, -drop.low + 0.0, drop.n, drop.confidence)
        values = self._yardstick.value(first), self._yardstick.value(second)
        of_samples = self._data.of_samples or self._data.samples
        return MetricChange(self._yardstick.metric, self._data.called, of_samples, *values, gain)

    def _statistics(self, graph: ModelProto) -> Statistics:
        from calibration.external_data import digest

        key = digest(graph)
        if key not in self._known:
            with self._progress.phase("judging repairs", self._data.samples) as phase:

                def on_batch(done: int) -> None:
                    self._cancellation.check()
                    phase.reach(done)

                self._known[key] = statistics_of(graph, self._data, self._yardstick, self._threads, on_batch)
        return self._known[key]
