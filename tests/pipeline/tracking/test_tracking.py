"""Curves in TensorBoard and MLflow: every epoch once, whatever was killed; and no tracker that hurts a training."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import recorded_mlflow
import torch
from small_training import context_in, dataset_in, invoke, recipe_in

from pipeline.context import Context
from pipeline.data.dataset import Dataset
from pipeline.distillation.augment import Augment
from pipeline.distillation.losses.labels import Labels
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.signals import NoTeacher
from pipeline.distillation.trainer import fit
from pipeline.distillation.training import Fit, Lesson, Training
from pipeline.errors import NotAcceptable
from pipeline.networks.plain import PlainNetwork
from pipeline.process.torch_state import set_up_torch
from pipeline.tracking import TRACKERS
from pipeline.tracking.tensorboard import TensorBoard
from pipeline.tracking.tracker import Event, State, TrackedTraining, Tracker
from pipeline.tracking.tracking import StageTracking, Tracking

Curves = dict[str, dict[str, list[tuple[int, Any]]]]
"""By the training's name and the number's: (epoch, value) as the tracker shows them."""

SETTINGS = {"optimizer": {"learning_rate": 0.01}, "losses": [{"name": "kd", "temperature": 4.0}], "ema": None}
TRAINING = TrackedTraining("small", "student", "0f3a5c7e9b1d2468", "accuracy", SETTINGS)
EVENTS: tuple[Event, ...] = tuple(
    {"epoch": epoch, "loss": 1 / epoch, "terms": {"kd": 2 / epoch}, "learning_rate": 0.5, "validation": epoch / 8}
    for epoch in range(1, 5)
)


def expected(events: Sequence[Event]) -> dict[str, list[tuple[int, Any]]]:
    terms = {f"terms/{name}" for event in events for name in event["terms"]}
    found: dict[str, list[tuple[int, Any]]] = {
        name: [(event["epoch"], pytest.approx(event["terms"][name[6:]])) for event in events] for name in terms
    }
    for name in ("loss", "learning_rate", "validation"):
        shown = "validation/accuracy" if name == "validation" else name
        found[shown] = [(event["epoch"], pytest.approx(event[name])) for event in events]
    return found


def tensorboard_shows(place: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: Curves = {}
    for folder in sorted(path for path in place.glob("small/*") if path.is_dir()):
        found = EventAccumulator(str(folder), purge_orphaned_data=False)
        found.Reload()
        tags = found.Tags()["scalars"]
        curves[folder.name] = {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in tags}
    return curves


def mlflow_client(place: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{place}/mlflow.db")


def mlflow_shows(place: Path) -> Curves:
    client = mlflow_client(place)
    experiment = client.get_experiment_by_name("small").experiment_id
    return {
        run.info.run_name: {
            name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in client.search_runs([experiment])
    }


SHOWN = {"tensorboard": tensorboard_shows, "mlflow": mlflow_shows}


@pytest.fixture(autouse=True)
def _mlflow_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one where it is installed."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    if importlib.util.find_spec("mlflow") is None:
        for name, module in recorded_mlflow.modules().items():
            monkeypatch.setitem(sys.modules, name, module)


def test_every_tracker_is_tested() -> None:
    assert SHOWN.keys() == TRACKERS.keys()


@pytest.mark.parametrize("name", TRACKERS)
def test_each_epoch_is_there_once_however_often_it_is_written_and_by_whom(name: str, tmp_path: Path) -> None:
    first = TRACKERS[name](str(tmp_path), "small")
    first.write(TRAINING, EVENTS[:1])
    first.write(TRAINING, EVENTS[:2])
    # Killed here, with the third epoch in its checkpoint alone.
    second = TRACKERS[name](str(tmp_path), "small")
    second.write(TRAINING, EVENTS[:3])
    second.write(TRAINING, EVENTS)
    second.end(TRAINING, "finished")
    TRACKERS[name](str(tmp_path), "small").write(TRAINING, EVENTS)
    assert SHOWN[name](tmp_path) == {"student-0f3a5c7e9b1d": expected(EVENTS)}


@pytest.mark.parametrize("name", TRACKERS)
def test_other_settings_and_other_trainings_are_other_curves(name: str, tmp_path: Path) -> None:
    tracker = TRACKERS[name](str(tmp_path), "small")
    for each in (TRAINING, replace(TRAINING, key="b" * 16), replace(TRAINING, title="trial-2")):
        tracker.write(each, EVENTS[:1])
        tracker.end(each, "finished")
    assert SHOWN[name](tmp_path).keys() == {"student-0f3a5c7e9b1d", "student-bbbbbbbbbbbb", "trial-2-0f3a5c7e9b1d"}


def test_a_record_that_a_kill_cut_off_is_written_again(tmp_path: Path) -> None:
    TensorBoard(str(tmp_path), "small").write(TRAINING, EVENTS[:3])
    (file,) = tmp_path.glob("small/*/events*")
    file.write_bytes(file.read_bytes()[:-5])
    assert [epoch for epoch, _ in tensorboard_shows(tmp_path)[TRAINING.name]["loss"]] == [1, 2]
    TensorBoard(str(tmp_path), "small").write(TRAINING, EVENTS)
    assert tensorboard_shows(tmp_path) == {TRAINING.name: expected(EVENTS)}


def test_tensorboard_shows_the_settings_as_text_and_to_compare(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    TensorBoard(str(tmp_path), "small").write(TRAINING, EVENTS)
    found = EventAccumulator(str(tmp_path / "small" / TRAINING.name))
    found.Reload()
    (text,) = (each.tensor_proto.string_val[0].decode() for each in found.Tensors("settings"))
    settings = {"optimizer.learning_rate": 0.01, "losses.0.name": "kd", "losses.0.temperature": 4.0}
    assert json.loads(text.removeprefix("```json").removesuffix("```")) == settings
    (content,) = found.PluginTagToContent("hparams").values()
    assert dict(HParamsPluginData.FromString(content).session_start_info.hparams).keys() == settings.keys()


def test_mlflow_takes_names_and_values_that_it_would_refuse(tmp_path: Path) -> None:
    settings = {"losses": [{"name": "kd", "temperature": 4.0}], "a(b)": "x" * 7000} | {f"n{i}": i for i in range(150)}
    tracker = TRACKERS["mlflow"](str(tmp_path), "small")
    tracker.write(replace(TRAINING, settings=settings), EVENTS)
    client = mlflow_client(tmp_path)
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert len(run.data.params) == 153
    assert run.data.params["losses.0.temperature"] == "4.0"
    assert run.data.params["a_b_"] == "x" * 499 + "…"


@pytest.mark.parametrize(("state", "status"), [("finished", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_mlflow_shows_how_a_training_ended_and_that_it_goes_on(tmp_path: Path, state: State, status: str) -> None:
    def shown() -> str:
        client = mlflow_client(tmp_path)
        (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        return str(run.info.status)

    first = TRACKERS["mlflow"](str(tmp_path), "small")
    first.write(TRAINING, EVENTS[:2])
    assert shown() == "RUNNING"
    first.end(TRAINING, state)
    assert shown() == status
    second = TRACKERS["mlflow"](str(tmp_path), "small")
    second.write(TRAINING, EVENTS[:2])
    assert shown() == status
    second.write(TRAINING, EVENTS)
    assert shown() == "RUNNING"


def test_mlflow_is_told_not_to_report_what_is_used_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    TRACKERS["mlflow"](str(tmp_path), "small")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_where_files_lie_on_this_machine_is_told_nobody() -> None:
    settings = {
        "model": {"file": "/home/ann/models.py:make"},
        "weights": "~/t.pt",
        "source": "a/b.npz",
        "more": [[1, 2]],
        "at": [],
    }
    assert replace(TRAINING, settings=settings).flat_settings() == {
        "model.file": "models.py:make",
        "weights": "t.pt",
        "source": "a/b.npz",
        "more.0": "1, 2",
    }


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        (
            ["tensorbord=x"],
            2,
            "--track tensorbord=x: tracker 'tensorbord' is unknown; did you mean 'tensorboard'? choose",
        ),
        (["mlflow"], 2, "--track mlflow: write NAME=PLACE, such as mlflow=curves"),
        (["tensorboard=a", "tensorboard=a"], 2, "--track tensorboard=a: stands twice; write it once"),
        (["mlflow=https://ann:secret@host"], 2, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"),
        (["tensorboard=images.npz"], 3, "--track tensorboard=images.npz: Not a directory; choose a folder that can be"),
        (["mlflow=http://127.0.0.1:9"], 3, "--track mlflow=http://127.0.0.1:9: cannot be reached (API request to http"),
        (["mlflow=images.npz"], 3, "--track mlflow=images.npz: cannot be reached ([Errno 17] File exists"),
    ],
)
def test_a_tracker_that_cannot_be_opened_ends_the_command_before_anything_runs(
    asked: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [word for each in asked for word in ("--track", each)]
    run = invoke("run", recipe_in(tmp_path), "-w", tmp_path / "ws", *options)
    assert run.exit_code == code
    assert message in run.stderr
    assert "secret" not in run.stderr
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_tracker_whose_package_is_missing_says_how_to_install_it(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    run = invoke("run", recipe_in(tmp_path), "-w", tmp_path / "ws", "--track", f"{name}={tmp_path / 'curves'}")
    assert run.exit_code == 3
    assert f"the package {module} is not installed: pip install 'edgestill[{name}]'" in run.stderr


def test_mlflow_says_that_an_experiment_is_deleted(tmp_path: Path) -> None:
    TRACKERS["mlflow"](str(tmp_path / "curves"), "small")
    client = mlflow_client(tmp_path / "curves")
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    run = invoke("run", recipe_in(tmp_path), "-w", tmp_path / "ws", "--track", f"mlflow={tmp_path / 'curves'}")
    assert run.exit_code == 2
    assert "its experiment 'small' is deleted; restore it there, or rename the recipe" in run.stderr


SEARCH = (
    "[[distill.losses]]",
    "[distill.target]\naccuracy = 1.0\ntrials = 2\n"
    "[distill.target.search]\nlearning_rate = [1e-5, 1e-4]\n[[distill.losses]]",
)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search whose trainings were tracked from the start: its workspace, and `curves`."""
    folder = tmp_path_factory.mktemp("tracked")
    recipe = recipe_in(folder, SEARCH)
    run = invoke(
        "run", recipe, "-w", folder / "ws", "--until", "distill", "--track", f"tensorboard={folder / 'curves'}"
    )
    assert run.exit_code == 1, run.stderr
    assert "tracking" not in run.stderr
    return folder


def events_of(workspace: Path, stage: str, phase: str) -> list[Any]:
    lines = (workspace / stage / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["phase"] == phase]


def key_of(workspace: Path, stage: str) -> str:
    return str(json.loads((workspace / stage / "manifest.json").read_text())["key"])[:12]


def test_teacher_student_baseline_and_every_trial_have_curves_of_their_own(tracked: Path) -> None:
    shown, workspace = tensorboard_shows(tracked / "curves"), tracked / "ws"
    teacher, distill = key_of(workspace, "01-teacher"), key_of(workspace, "02-distill")
    titles = ("student", "baseline", "trial-1", "trial-2")
    assert shown.keys() == {f"teacher-{teacher}", *(f"{title}-{distill}" for title in titles)}
    assert shown[f"teacher-{teacher}"] == expected(events_of(workspace, "01-teacher", "teacher"))
    assert shown[f"baseline-{distill}"] == expected(events_of(workspace, "02-distill", "baseline"))
    assert shown[f"student-{distill}"] == expected(events_of(workspace, "02-distill", "student"))
    target = json.loads((workspace / "02-distill" / "target.json").read_text())
    assert shown[f"trial-{target['chosen']}-{distill}"] == shown[f"student-{distill}"]
    for number, trial in enumerate(target["trials"], 1):
        curve = [value for _, value in shown[f"trial-{number}-{distill}"]["validation/accuracy"]]
        assert curve == pytest.approx(trial["curve"])


def test_each_trial_is_shown_with_its_own_settings_and_the_student_with_those_of_the_chosen(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def settings(title: str) -> dict[str, Any]:
        found = EventAccumulator(str(tracked / "curves" / "small" / f"{title}-{key_of(tracked / 'ws', '02-distill')}"))
        found.Reload()
        text = found.Tensors("settings")[0].tensor_proto.string_val[0].decode()
        parsed = json.loads(text.removeprefix("```json").removesuffix("```"))
        assert isinstance(parsed, dict)
        return parsed

    target = json.loads((tracked / "ws" / "02-distill" / "target.json").read_text())
    for number, trial in enumerate(target["trials"], 1):
        shown = settings(f"trial-{number}")
        assert shown["losses.0.temperature"] == trial["settings"]["kd.temperature"]
        assert shown["optimizer.learning_rate"] == trial["settings"]["learning_rate"]
        assert (shown["task"], shown["seed"], shown["model.name"]) == ("classification", 0, "residual")
    assert settings("student") == settings(f"trial-{target['chosen']}")
    assert settings("baseline")["losses.0.name"] == "labels"


def test_a_finished_run_is_tracked_afterwards_and_gives_the_bytes_of_a_tracked_one(
    tracked: Path, tmp_path: Path
) -> None:
    recipe, place = recipe_in(tmp_path, SEARCH), tmp_path / "curves"
    command = ("run", recipe, "-w", tmp_path / "ws", "--until", "distill")
    assert invoke(*command).exit_code == 1
    for stage in ("01-teacher", "02-distill"):
        mine, other = (json.loads((each / "ws" / stage / "manifest.json").read_text()) for each in (tmp_path, tracked))
        assert (mine["key"], mine["outputs"]) == (other["key"], other["outputs"])

    assert "nothing changed, skipped" in invoke(*command, "--track", f"tensorboard={place}").stderr
    shown = tensorboard_shows(place)
    assert shown == {
        name: curves for name, curves in tensorboard_shows(tracked / "curves").items() if "trial" not in name
    }
    invoke(*command, "--track", f"tensorboard={place}")
    assert tensorboard_shows(place) == shown


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_in(tmp_path_factory.mktemp("data"))


def trained(dataset: Dataset, context: Context, trackers: Sequence[Tracker], said: list[str], epochs: int = 4) -> Fit:
    tracking = StageTracking(Tracking(trackers, said.append), "small", "0f3a5c7e9b1d2468", "accuracy", SETTINGS)
    set_up_torch(context)
    training = Training(epochs, 8, Optimizer(), Augment())
    lesson = Lesson((Labels(),), NoTeacher())
    return fit(PlainNetwork(1, [4, 8], 3), dataset, lesson, training, replace(context, tracking=tracking), "student")


@final
class Failing(Tracker):
    """A server that goes away, or a signal that comes, after so many epochs."""

    name: ClassVar[str] = "failing"

    def __init__(self, place: str, recipe: str) -> None:
        self.after, self.error = int(place), recipe
        self.asked = 0
        self.ended: list[State] = []

    def write(self, training: TrackedTraining, events: Sequence[Event]) -> None:
        del training
        self.asked += 1
        if len(events) > self.after:
            raise KeyboardInterrupt if self.error == "signal" else ConnectionError(f"{self.error}\nat length")

    def end(self, training: TrackedTraining, state: State) -> None:
        del training
        self.ended.append(state)


def test_a_tracker_that_fails_half_way_is_said_once_and_the_training_ends_as_without_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    said: list[str] = []
    failing = Failing("1", "server away")
    place = tmp_path / "curves"
    fitted = trained(dataset, context_in(tmp_path / "a"), [failing, TensorBoard(str(place), "small")], said)
    assert (failing.asked, failing.ended) == (2, [])
    assert said == [
        "tracking: failing failed and is asked nothing more (ConnectionError: server away); the training goes on, "
        "and what is missing there is added when the same command runs again"
    ]
    assert tensorboard_shows(place) == {TRAINING.name: expected(fitted.events)}
    alone = trained(dataset, context_in(tmp_path / "b"), [], [])
    assert all(torch.equal(fitted.last[name], tensor) for name, tensor in alone.last.items())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_training_that_was_killed_goes_on_in_the_same_curves(name: str, dataset: Dataset, tmp_path: Path) -> None:
    context, place = context_in(tmp_path), tmp_path / "curves"
    # Killed between the checkpoint of the third epoch and what the tracker would have been told of it.
    trackers = [Failing("2", "signal"), TRACKERS[name](str(place), "small")]
    with pytest.raises(KeyboardInterrupt):
        trained(dataset, context, trackers, [])
    assert [epoch for epoch, _ in SHOWN[name](place)[TRAINING.name]["loss"]] == [1, 2]
    fitted = trained(dataset, context, [TRACKERS[name](str(place), "small")], [])
    assert [event["epoch"] for event in fitted.events] == [1, 2, 3, 4]
    assert SHOWN[name](place) == {TRAINING.name: expected(fitted.events)}


def test_trackers_hear_how_a_training_ended(dataset: Dataset, tmp_path: Path) -> None:
    watching = Failing("9", "")
    trained(dataset, context_in(tmp_path / "whole"), [watching], [], epochs=1)
    tracking = StageTracking(Tracking([watching]))
    with pytest.raises(NotAcceptable), tracking.training("trial-1"):
        raise NotAcceptable("the loss is nan")
    assert watching.ended == ["finished", "failed"]
