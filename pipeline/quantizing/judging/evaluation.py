"""What one quantized graph loses against the float one on the same samples, computed as the graphs are written."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from pipeline.files import atomic
from pipeline.files.digest import sha256_of_value
from pipeline.files.workspace import disk_errors_explained
from pipeline.process.cancellation import Cancellation
from pipeline.quantizing.judging.yardstick import JudgingData, Yardstick
from pipeline.tasks.intervals import Interval
from pipeline.tasks.task import Arrays, Statistics

if TYPE_CHECKING:
    import onnx

    from calibration.statistics.collect import Batch

# The float graph's answers are kept up to here, and computed anew beside each graph above it.
KEPT_BYTES = 1 << 29
MOST_DB = 200.0
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """Of one graph."""

    sqnr_db: float
    """Of the output that has lost most; `MOST_DB` where nothing is lost."""
    metric: float | None
    """Of the yardstick; None where there is none."""
    drop: Interval | None
    """Of the metric against FP32's, as a share of 1; below 0 where it rises."""

    def to_json(self) -> dict[str, Any]:
        """A document for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Evaluation:
        """What `to_json` made."""
        drop = document["drop"]
        return cls(document["sqnr_db"], document["metric"], None if drop is None else Interval(**drop))


@final
class Evaluator:
    """Runs graphs on the samples, each beside the float graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        data: JudgingData,
        yardstick: Yardstick | None,
        threads: int,
        cancellation: Cancellation,
    ) -> None:
        from calibration.quality import session_as_written

        self._data, self._yardstick, self._threads, self._cancellation = data, yardstick, threads, cancellation
        self._reference = session_as_written(model, threads)
        self._kept: list[dict[str, NDArray[Any]]] | None = []
        self._statistics = self._of_reference()

    @property
    def metric(self) -> float | None:
        """The float graph's."""
        return None if self._yardstick is None else self._yardstick.value(self._statistics)

    def of(self, graph: onnx.ModelProto) -> Evaluation:
        """Another graph with the same inputs and outputs."""
        from calibration.quality import Comparison, answers, session_as_written

        session, comparison = session_as_written(graph, self._threads), Comparison()
        counted = _Counted(self._yardstick, self._data.labels)
        for index, batch in enumerate(self._batches()):
            wanted, found = self._wanted(index, batch), answers(session, batch)
            comparison.add(wanted, found, len(batch.ids))
            counted.add(found, wanted, len(batch.ids))
        sqnr_db = finite_db(comparison.quality().sqnr_db)
        if self._yardstick is None:
            return Evaluation(sqnr_db, None, None)
        statistics = counted.statistics()
        return Evaluation(
            sqnr_db, self._yardstick.value(statistics), self._yardstick.drop(statistics, self._statistics)
        )

    def _of_reference(self) -> Statistics:
        from calibration.quality import answers

        counted, size = _Counted(self._yardstick, self._data.labels), 0
        for batch in self._batches():
            found = answers(self._reference, batch)
            size += sum(array.nbytes for array in found.values())
            self._kept = None if self._kept is None or size > KEPT_BYTES else [*self._kept, found]
            counted.add(found, found, len(batch.ids))
        return counted.statistics()

    def _wanted(self, index: int, batch: Batch) -> dict[str, NDArray[Any]]:
        from calibration.quality import answers

        return answers(self._reference, batch) if self._kept is None else self._kept[index]

    def _batches(self) -> Iterator[Batch]:
        for batch in self._data.batches():
            self._cancellation.check()
            yield batch


def statistics_of(
    graph: onnx.ModelProto, data: JudgingData, yardstick: Yardstick, threads: int, on_batch: Callable[[int], None]
) -> Statistics:
    """(samples, k) of a graph's own answers, for a yardstick that looks at labels alone.

    `on_batch` is told how many samples are done, and may raise to stop.
    """
    from calibration.quality import answers, session_as_written

    session, counted, done = session_as_written(graph, threads), _Counted(yardstick, data.labels), 0
    for batch in data.batches():
        found = answers(session, batch)
        done += len(batch.ids)
        counted.add(found, found, len(batch.ids))
        on_batch(done)
    return counted.statistics()


class _Counted:
    """Statistics of the answers so far."""

    def __init__(self, yardstick: Yardstick | None, labels: NDArray[Any] | None) -> None:
        self._yardstick, self._labels = yardstick, labels
        self._done = 0
        self._parts: list[Statistics] = []
        self._outputs: list[dict[str, NDArray[Any]]] = []

    def add(self, found: Arrays, wanted: Arrays, samples: int) -> None:
        start, self._done = self._done, self._done + samples
        if self._yardstick is None:
            return
        if self._yardstick.outputs:
            self._outputs.append({name: found[name] for name in self._yardstick.outputs})
        else:
            labels = None if self._labels is None else self._labels[start : self._done]
            self._parts.append(self._yardstick.statistics(found, wanted, labels))

    def statistics(self) -> Statistics:
        """(samples, k); nothing without a yardstick."""
        if self._yardstick is None:
            return np.zeros((0, 0))
        if self._parts:
            return np.concatenate(self._parts)
        found = {name: np.concatenate([part[name] for part in self._outputs]) for name in self._yardstick.outputs}
        return self._yardstick.statistics(found, found, self._labels)


@final
class Remembered:
    """Evaluations in a file, each written as it is found: a kill loses one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}
        # What cannot be read is found again.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema_version"] == _SCHEMA_VERSION:
                self._entries = dict(document["entries"])

    def get(self, key: Any) -> Evaluation | None:
        """The evaluation of a JSON value that says what was evaluated."""
        entry = self._entries.get(sha256_of_value(key))
        return None if entry is None else Evaluation.from_json(entry)

    def put(self, key: Any, evaluation: Evaluation) -> None:
        """Keeps it."""
        self._entries[sha256_of_value(key)] = evaluation.to_json()
        with disk_errors_explained(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(self._path, {"schema_version": _SCHEMA_VERSION, "entries": self._entries})


def finite_db(value: float) -> float:
    """Within what JSON holds: `MOST_DB` for no noise at all."""
    return min(max(value, -MOST_DB), MOST_DB) if not math.isnan(value) else -MOST_DB
