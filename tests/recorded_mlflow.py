"""MLflow's client as far as the tracker uses it, for machines without MLflow: what the real one was seen to do.

The tests of the tracker take the real package where it is installed, so the two can be held against each other:
`pip install 'edgestill[mlflow]'`, then `pytest tests/pipeline/tracking/test_tracking.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

MOST_PARAMS, MOST_METRICS, LONGEST_PARAM = 100, 1000, 6000
NAME = re.compile(r"[/\w.\- :]+")


class MlflowException(Exception):
    """What the real client raises for all it refuses."""


@dataclass
class Metric:
    """One number."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class Param:
    """One setting."""

    key: str
    value: str


@dataclass
class Run:
    """With what was logged to it, in order."""

    experiment: str
    info: SimpleNamespace
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)

    @property
    def data(self) -> SimpleNamespace:
        """As the real one shows it: of each metric the latest."""
        return SimpleNamespace(
            params=self.params, tags=self.tags, metrics={metric.key: metric.value for metric in self.metrics}
        )


@dataclass
class Store:
    """What lies behind one address."""

    experiments: dict[str, SimpleNamespace] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)


class Client:
    """`MlflowClient`."""

    stores: dict[str, Store]

    def __init__(self, uri: str) -> None:
        if uri.startswith("http"):
            raise MlflowException(f"API request to {uri} failed with exception ConnectionError\nand much more")
        self._store = self.stores.setdefault(uri, Store())

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return self._store.experiments.get(name)

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        number = str(len(self._store.experiments) + 1)
        self._store.experiments[name] = SimpleNamespace(
            experiment_id=number, lifecycle_stage="active", artifact_location=artifact_location
        )
        return number

    def delete_experiment(self, number: str) -> None:
        for each in self._store.experiments.values():
            if each.experiment_id == number:
                each.lifecycle_stage = "deleted"

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Run:
        info = SimpleNamespace(run_id=f"run{len(self._store.runs)}", run_name=run_name, status="RUNNING")
        return self._store.runs.setdefault(info.run_id, Run(experiment, info, dict(tags)))

    def search_runs(self, experiments: list[str], filter_string: str = "", max_results: int = 1000) -> list[Run]:
        runs = [run for run in self._store.runs.values() if run.experiment in experiments]
        if filter_string:
            wanted = re.fullmatch(r"tags\.`([^`]+)` = '([^']+)'", filter_string)
            assert wanted, filter_string
            runs = [run for run in runs if run.tags.get(wanted[1]) == wanted[2]]
        return runs[:max_results]

    def log_batch(self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = ()) -> None:
        if len(params) > MOST_PARAMS or len(metrics) > MOST_METRICS:
            raise MlflowException("INVALID_PARAMETER_VALUE: too many in one request")
        run = self._store.runs[run_id]
        for key in (*(metric.key for metric in metrics), *(param.key for param in params)):
            if not NAME.fullmatch(key):
                raise MlflowException(f"INVALID_PARAMETER_VALUE: Invalid name {key!r}")
        for param in params:
            if run.params.setdefault(param.key, param.value) != param.value or len(param.value) > LONGEST_PARAM:
                raise MlflowException(f"INVALID_PARAMETER_VALUE: {param.key}")
        run.metrics.extend(metrics)

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return [metric for metric in self._store.runs[run_id].metrics if metric.key == key]

    def update_run(self, run_id: str, status: str) -> None:
        self._store.runs[run_id].info.status = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._store.runs[run_id].info.status = status


def modules() -> dict[str, Any]:
    """For `sys.modules`: `mlflow` and `mlflow.entities`, with stores of their own."""
    top, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    client = type("MlflowClient", (Client,), {"stores": {}})
    top.__dict__.update({"MlflowClient": client, "entities": entities})
    entities.__dict__.update({"Metric": Metric, "Param": Param})
    return {"mlflow": top, "mlflow.entities": entities}
