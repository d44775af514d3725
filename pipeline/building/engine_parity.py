"""Whether an engine that runs here answers as the graph that it was built from does, on real samples.

The graph is run by onnxruntime without optimization. A runtime fuses Q/DQ pairs into integer kernels and rounds
elsewhere, so quantized and half-precision engines differ from it by a little, rightly. What is asked for:

- FP32: each value within 1e-3 of the largest magnitude of its output;
- every other precision: 20 dB of signal to noise at each output, a tenth of the signal's magnitude;
- every precision: 99 % of the task's decisions (classes, pixels, labels) the same; one may always differ.

BF16 is held against the FP32 graph, because onnxruntime has no BF16 kernels. INT8 from ranges has no graph of its own
but the FP32 one: what is lost against it is recorded, and not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines import ENGINES
from engines.base import BuiltEngine, Target
from engines.errors import EngineError
from pipeline.errors import NotAcceptable
from pipeline.exporting.parity import ReferenceSession
from pipeline.quantizing.judging.evaluation import MOST_DB, finite_db
from pipeline.tasks.task import Task

Arrays = Mapping[str, NDArray[Any]]
Pair = tuple[Arrays, Arrays]
"""The same samples as the engine takes them, and as the graph does."""

SAMPLES = 32
BATCH_SIZE = 8
FLOAT32_TOLERANCE = 1e-3
LEAST_SQNR_DB = 20.0
LEAST_AGREEMENT = 0.99


@dataclass(frozen=True)
class EngineParity:
    """What the comparison found, or why there was none."""

    state: Literal["same", "differs", "recorded", "not_run"]
    reason: str = ""
    """What differs, or why it was not run, or not judged."""
    samples: int = 0
    max_abs_error: float | None = None
    sqnr_db: float | None = None
    """Of the output that differs most."""
    decisions: int = 0
    agreement: float | None = None
    """Share of the decisions that are the same; None where the outputs hold none."""

    def to_json(self) -> dict[str, Any]:
        """A document for `json.dumps`."""
        return asdict(self)

    def sentence(self) -> str:
        """For a log and a report."""
        if self.state == "not_run":
            return f"answers not compared with its graph's: {self.reason}"
        return f"answers beside its graph's: {self.found}"

    @property
    def found(self) -> str:
        """The same where it was run, without the words that say of what."""
        if not self.samples:
            return f"none; {self.reason}"
        agreed = "" if self.agreement is None else f"{self.agreement:.2%} of {self.decisions} decisions the same, "
        said = f"{agreed}largest difference {self.max_abs_error:.2g} ({self.sqnr_db:.0f} dB) on {self.samples} samples"
        return said + (f"; {self.reason}" if self.reason else "")


def not_run(target: Target) -> EngineParity | None:
    """Why an engine of the target is not run here; None where it is."""
    why = ENGINES[target.runtime].why_not_run(target)
    return None if why is None else EngineParity("not_run", f"not run here: {why}")


def parity_of(
    engine: BuiltEngine,
    precision: str,
    target: Target,
    reference: ReferenceSession,
    pairs: Callable[[int], Iterable[tuple[int, Pair]]],
    task: Task | None,
) -> EngineParity:
    """The comparison; `pairs` gives batches of a size that the engine takes, each with how many samples of it count.

    Raises EngineError where the engine does not run, NotAcceptable where onnxruntime does not run the graph.
    """
    compared = _Compared(task)
    with ENGINES[target.runtime].open(engine.file, engine.sha256, target) as session:
        for count, (taken, given) in pairs(_batch_size(target)):
            wanted, found = reference.run(given), session.run(taken)
            compared.add({name: wanted[name][:count] for name in wanted}, found, count)
    return compared.judged(precision, target)


def tried(parity: Callable[[], EngineParity]) -> EngineParity:
    """A comparison, in which an engine that does not run differs, and a graph that does not compares with nothing."""
    try:
        return parity()
    except NotAcceptable as error:
        return EngineParity("not_run", f"there is nothing to compare with: {error}")
    except EngineError as error:
        return EngineParity("differs", f"it was built, and does not run here: {error}")


def _batch_size(target: Target) -> int:
    """That the first profile takes; a CPU takes any."""
    if not ENGINES[target.runtime].for_gpu:
        return BATCH_SIZE
    return max(min(BATCH_SIZE, target.batch.max), target.batch.min)


class _Compared:
    """Outputs of the engine and of the graph so far."""

    def __init__(self, task: Task | None) -> None:
        self._task = task
        self._samples = 0
        self._outputs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
        self._same: list[NDArray[np.bool_]] = []

    def add(self, wanted: Arrays, found: Arrays, count: int) -> None:
        self._samples += count
        cut = {name: np.asarray(found[name])[:count] for name in wanted}
        for name, array in wanted.items():
            if array.dtype.kind in "fiub":
                self._outputs.setdefault(name, []).append((array, cut[name]))
        if self._task is not None and all(cut[name].shape == array.shape for name, array in wanted.items()):
            self._same.append(self._task.same_decisions(cut, wanted))

    def judged(self, precision: str, target: Target) -> EngineParity:
        if not self._samples:
            return EngineParity("not_run", "there are no samples to compare on")
        same = np.concatenate(self._same) if self._same else np.zeros(0, np.bool_)
        errors = {name: _error(pairs) for name, pairs in self._outputs.items()}
        problem = next(_problems(precision, errors, same), None)
        recorded = target.takes_ranges(precision)
        return EngineParity(
            state="recorded" if recorded else "same" if problem is None else "differs",
            reason="its INT8 is in no graph, so this is what INT8 costs" if recorded else problem or "",
            samples=self._samples,
            max_abs_error=max((each.largest for each in errors.values()), default=0.0),
            sqnr_db=min((each.sqnr_db for each in errors.values()), default=MOST_DB),
            decisions=len(same),
            agreement=float(same.mean()) if len(same) else None,
        )


@dataclass(frozen=True)
class _Error:
    """Of one output."""

    largest: float
    magnitude: float
    """The largest that was wanted."""
    sqnr_db: float


_FAR = float(np.finfo(np.float32).max)


def _error(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> _Error:
    """Of (wanted, found); another shape, and NaN or infinity where the other has none, are as far as can be said."""
    from calibration.quality import decibels

    if any(wanted.shape != found.shape for wanted, found in pairs):
        return _Error(_FAR, 0.0, -MOST_DB)
    signal, answer = (np.concatenate([np.ravel(pair[at]) for pair in pairs]).astype(np.float64) for at in (0, 1))
    alike = (signal == answer) | (np.isnan(signal) & np.isnan(answer))
    with np.errstate(invalid="ignore"):
        gap = np.where(alike, 0.0, np.abs(answer - signal))
    gap = np.nan_to_num(gap, nan=_FAR, posinf=_FAR)
    finite = signal[np.isfinite(signal)]
    return _Error(
        float(gap.max(initial=0.0)),
        float(np.abs(finite).max(initial=0.0)),
        finite_db(decibels(float((finite**2).sum()), float((gap**2).sum()))),
    )


def _problems(precision: str, errors: Mapping[str, _Error], same: NDArray[np.bool_]) -> Iterator[str]:
    for name, error in errors.items():
        if precision == "fp32" and error.largest > FLOAT32_TOLERANCE * error.magnitude:
            yield (
                f"output '{name}' differs by {error.largest:.3g} where its graph's reaches {error.magnitude:.3g}; "
                f"FP32 may differ by {FLOAT32_TOLERANCE:g} of that"
            )
        if precision != "fp32" and error.sqnr_db < LEAST_SQNR_DB:
            yield (
                f"output '{name}' has {error.sqnr_db:.1f} dB of signal to noise beside its graph's, "
                f"{LEAST_SQNR_DB:.0f} dB are asked for"
            )
    different = int(np.count_nonzero(~same))
    if different > max(1, int((1 - LEAST_AGREEMENT) * len(same))):
        yield (
            f"{different} of {len(same)} decisions are not its graph's; {LEAST_AGREEMENT:.0%} must be, "
            "and one may always differ"
        )
