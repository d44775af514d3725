"""MLflow: one experiment a recipe, one run a training; through its client, on a server or in a database file."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final
from urllib.parse import urlsplit

from pipeline.errors import MachineLacks, RecipeError
from pipeline.tracking.tracker import Event, State, TrackedTraining, Tracker

TAG = "edgestill.training"
"""Which training a run is: its name."""
DATABASE = "mlflow.db"
STATUS: dict[State, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

MOST_PARAMS_A_REQUEST = 100
LONGEST_PARAM = 500
"""Characters that every server takes; a longer one ends in an ellipsis."""

ENVIRONMENT = {
    # MLflow reports what is used of it unless told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It would tell of each table that it makes.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # By itself it waits two minutes for an answer and asks eight times: a training cannot.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""What MLflow reads at its import; what the user has set stays."""

Item = TypeVar("Item")


@dataclass
class _Open:
    run: str
    """MLflow's identifier."""
    status: str
    epochs: set[int] = field(default_factory=set)
    """That are written."""


@final
class MLflow(Tracker):
    """`--track mlflow=http://host:5000`, a database's URI, or a folder, which then holds an SQLite database."""

    name: ClassVar[str] = "mlflow"

    def __init__(self, place: str, recipe: str) -> None:
        if "://" in place and urlsplit(place).password is not None:
            raise RecipeError(
                "--track mlflow: a password in the address is shown to all who list processes; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MachineLacks(
                "--track mlflow: the package mlflow is not installed: pip install 'edgestill[mlflow]'"
            ) from error
        self._open: dict[str, _Open] = {}
        try:
            self._client = MlflowClient(_uri_of(place))
            self._experiment = self._experiment_of(recipe, place)
        except RecipeError:
            raise
        except Exception as error:  # whatever the server, the database or the disk may say
            raise MachineLacks(
                f"--track mlflow={place}: cannot be reached ({_first_line(error)}); is it up, and the address right?"
            ) from error

    def write(self, training: TrackedTraining, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric

        if training.name not in self._open:
            self._open[training.name] = self._found(training) or self._created(training)
        kept = self._open[training.name]
        for event in events:
            if event["epoch"] in kept.epochs:
                continue
            self._mark(kept, "RUNNING")
            now_ms = int(time.time() * 1000)
            metrics = [
                Metric(_accepted(name), number, now_ms, event["epoch"])
                for name, number in training.scalars(event).items()
            ]
            self._client.log_batch(kept.run, metrics=metrics)
            kept.epochs.add(event["epoch"])

    def end(self, training: TrackedTraining, state: State) -> None:
        if training.name in self._open:
            self._mark(self._open[training.name], STATUS[state])

    def _mark(self, kept: _Open, status: str) -> None:
        if kept.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(kept.run, status=status)
        else:
            self._client.set_terminated(kept.run, status=status)
        kept.status = status

    def _experiment_of(self, recipe: str, place: str) -> str:
        found = self._client.get_experiment_by_name(recipe)
        if found is None:
            # In the folder that was named, not in whatever folder the command was started in.
            artifacts = None if "://" in place else (Path(place).resolve() / "artifacts").as_uri()
            return str(self._client.create_experiment(recipe, artifact_location=artifacts))
        if found.lifecycle_stage != "active":
            raise RecipeError(
                f"--track mlflow={place}: its experiment '{recipe}' is deleted; restore it there, or rename the recipe"
            )
        return str(found.experiment_id)

    def _found(self, training: TrackedTraining) -> _Open | None:
        """The run of an earlier run of the pipeline."""
        runs = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{training.name}'", max_results=1)
        if not runs:
            return None
        (run,) = runs
        written = self._client.get_metric_history(run.info.run_id, "loss")
        return _Open(run.info.run_id, run.info.status, {int(metric.step) for metric in written})

    def _created(self, training: TrackedTraining) -> _Open:
        from mlflow.entities import Param

        run = self._client.create_run(
            self._experiment, run_name=training.name, tags={TAG: training.name, "edgestill.title": training.title}
        )
        params = [Param(_accepted(name), _shortened(value)) for name, value in training.flat_settings().items()]
        for some in _in_parts(params, MOST_PARAMS_A_REQUEST):
            self._client.log_batch(run.info.run_id, params=some)
        return _Open(run.info.run_id, "RUNNING")


def _uri_of(place: str) -> str:
    """A folder becomes the SQLite database in it: MLflow no longer takes bare files."""
    if "://" in place:
        return place
    folder = Path(place).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / DATABASE}"


def _accepted(name: str) -> str:
    """MLflow's names: letters, digits, and a few signs."""
    return re.sub(r"[^\w.\- /]", "_", name)


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 1]}…"


def _in_parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
