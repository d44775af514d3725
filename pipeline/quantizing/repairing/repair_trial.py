"""What a repair brought, and whether it is kept for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.quantizing.judging.evaluation import finite_db
from pipeline.quantizing.repairing.repair_metric import MetricChange

if TYPE_CHECKING:
    from calibration.quality import Quality

LEAST_GAIN_DB = 0.1
"""Of output SQNR, below which a repair is left out: it is no more than another choice of samples makes."""


@dataclass(frozen=True)
class Trial:
    """What one repair brought to one family's graph."""

    repair: str
    family: str
    before: Quality
    after: Quality
    kept: bool
    metric: MetricChange | None = None
    """Of the task, where there are labels."""
    decided_by: Literal["output error", "metric"] = "output error"
    """What the samples show of the metric goes first; the output error decides what they leave open."""

    @property
    def gain_db(self) -> float:
        """Of output SQNR."""
        return self.after.sqnr_db - self.before.sqnr_db

    def in_words(self) -> str:
        """`repair bias (cpu): output SQNR 14.2 -> 16.4 dB, agreement 91 % -> 94 % on 32 samples: kept`."""
        agreement = ""
        if self.before.agreement is not None and self.after.agreement is not None:
            agreement = f", agreement {self.before.agreement:.1%} -> {self.after.agreement:.1%}"
        metric = "" if self.metric is None else f"; {self.metric.in_words()}"
        decision = "kept" if self.kept else "left out"
        if self.metric is not None and self.decided_by == "metric":
            own = self.metric.improves if self.kept else self.metric.worsens
            whose = "" if own else "another family's "
            decision += f", because {whose}{self.metric.metric} is {'better' if self.kept else 'worse'} with it"
        return (
            f"repair {self.repair} ({self.family}): output SQNR {self.before.sqnr_db:.1f} -> "
            f"{self.after.sqnr_db:.1f} dB{agreement} on {self.before.images} samples{metric}: {decision}"
        )

    def to_json(self) -> dict[str, Any]:
        """An entry of placement.json."""
        return {
            "repair": self.repair,
            "family": self.family,
            "samples": self.before.images,
            "sqnr_db": {"before": finite_db(self.before.sqnr_db), "after": finite_db(self.after.sqnr_db)},
            "agreement": {"before": self.before.agreement, "after": self.after.agreement},
            "metric": None if self.metric is None else self.metric.to_json(),
            "decided_by": self.decided_by,
            "kept": self.kept,
        }


def decided_together(tried: Sequence[Trial]) -> list[Trial]:
    """Of a repair that all families share: none may lose by it."""
    by_metric = [trial for trial in tried if trial.decided_by == "metric"]
    if by_metric:
        kept = all(trial.kept for trial in by_metric)
        return [replace(trial, kept=kept, decided_by="metric") for trial in tried]
    gains = [trial.gain_db for trial in tried]
    kept = sum(gains) / len(gains) >= LEAST_GAIN_DB and min(gains) > -LEAST_GAIN_DB
    return [replace(trial, kept=kept) for trial in tried]
