"""The runner with stages of a line each: what runs, what is skipped, what is refused."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import ClassVar, final

import pytest

from pipeline.artifact import Artifact, Artifacts, Splits, Student, Teacher
from pipeline.context import Context
from pipeline.errors import Cancelled, DataRejected, MachineLacks, RecipeError
from pipeline.files.workspace import Workspace
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.recipe import Recipe
from pipeline.running.key import changes
from pipeline.running.runner import run
from pipeline.running.selection import Selection
from pipeline.running.status import status
from pipeline.stage import Stage
from pipeline.tasks import TASKS


@final
class Write(Stage):
    """Writes its text."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = ()
    makes: ClassVar[type[Artifact]] = Splits

    text: str = "a"

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del inputs
        (target / "text").write_text(self.text)
        context.say("wrote")


@final
class Upper(Stage):
    """Writes in capitals what it was given; anything but letters is rejected."""

    name: ClassVar[str] = "teacher"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits,)
    makes: ClassVar[type[Artifact]] = Teacher

    lacking: bool = False

    def require(self) -> None:
        if self.lacking:
            raise MachineLacks("no GPU")

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del context
        text = inputs[Splits].path("text").read_text()
        (target / "half").write_text(text)
        if not text.isalpha():
            raise DataRejected(f"'{text}' is not of letters")
        (target / "half").rename(target / "text")
        (target / "text").write_text(text.upper())


@final
class Count(Stage):
    """Writes how long the text is."""

    name: ClassVar[str] = "distill"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Teacher,)
    makes: ClassVar[type[Artifact]] = Student

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del context
        assert Splits not in inputs
        (target / "length").write_text(str(len(inputs[Teacher].path("text").read_text())))


def recipe(*stages: Stage, seed: int = 0) -> Recipe:
    made = stages or (Write(), Upper(), Count())
    return Recipe("toy", TASKS["classification"], "classification", seed, 1, made, Path(), "toy")


def ran(found: Recipe, folder: Path, selection: Selection | None = None) -> list[str]:
    """Names of the stages that ran, and were not skipped."""
    runs = run(found, Workspace(folder), QuietProgress(), Cancellation(), selection)
    return [each.stage for each in runs if each.ran]


def test_everything_runs_once(tmp_path: Path) -> None:
    assert ran(recipe(), tmp_path) == ["data", "teacher", "distill"]
    assert ran(recipe(), tmp_path) == []
    assert (tmp_path / "01-teacher" / "text").read_text() == "A"
    assert (tmp_path / "00-data" / "log.txt").read_text() == "wrote\n"


def test_a_changed_setting_runs_its_stage_and_what_depends_on_the_changed_result(tmp_path: Path) -> None:
    ran(recipe(), tmp_path)
    assert ran(recipe(Write(text="b"), Upper(), Count()), tmp_path) == ["data", "teacher", "distill"]


def test_a_stage_whose_result_stays_the_same_spares_what_follows(tmp_path: Path) -> None:
    ran(recipe(Write(text="b"), Upper(), Count()), tmp_path)
    assert ran(recipe(Write(text="B"), Upper(), Count()), tmp_path) == ["data", "teacher"]


def test_going_back_to_an_old_setting_runs_nothing_and_links_lead_back(tmp_path: Path) -> None:
    ran(recipe(), tmp_path)
    ran(recipe(Write(text="b"), Upper(), Count()), tmp_path)
    assert ran(recipe(), tmp_path) == []
    assert (tmp_path / "00-data" / "text").read_text() == "a"


def test_another_seed_is_another_key_for_every_stage(tmp_path: Path) -> None:
    ran(recipe(), tmp_path)
    assert ran(recipe(seed=1), tmp_path) == ["data", "teacher", "distill"]


def test_until_stops_and_from_starts(tmp_path: Path) -> None:
    assert ran(recipe(), tmp_path, Selection(last="teacher")) == ["data", "teacher"]
    assert ran(recipe(), tmp_path, Selection(first="distill")) == ["distill"]


def test_from_needs_what_comes_before_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^--from distill: stage data comes before it and is not done"):
        ran(recipe(), tmp_path, Selection(first="distill"))


def test_from_does_not_rebuild_what_is_damaged_before_it(tmp_path: Path) -> None:
    ran(recipe(), tmp_path)
    (tmp_path / "00-data" / "text").write_text("?")
    with pytest.raises(RecipeError, match=r"^--from distill: stage data comes before it and is damaged; run without"):
        ran(recipe(), tmp_path, Selection(first="distill"))


def test_force_runs_a_stage_again_and_nothing_that_did_not_change(tmp_path: Path) -> None:
    ran(recipe(), tmp_path)
    assert ran(recipe(), tmp_path, Selection(force=frozenset({"teacher"}))) == ["teacher"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            Selection(last="tacher"),
            "--until tacher: is no stage of the recipe; did you mean 'teacher'? choose from data,",
        ),
        (Selection(first="x"), "--from x: is no stage of the recipe; choose from data, teacher, distill"),
        (Selection(force=frozenset({"measure"})), "--force measure: is no stage of the recipe; choose from"),
        (Selection("distill", "data"), "--from distill comes after --until data; no stage is left to run"),
        (
            Selection("teacher", force=frozenset({"data"})),
            "--force data lies outside --from/--until; no such stage would run",
        ),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(tmp_path: Path, selection: Selection, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        ran(recipe(), tmp_path / "never", selection)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Upper(), Write()), r"^\[teacher\] needs Splits, which \[data\] makes: move \[data\] before it$"),
        ((Write(), Count()), r"^\[distill\] needs Teacher, which \[teacher\] makes: add a \[teacher\] section$"),
    ],
)
def test_an_order_that_cannot_work_is_refused(tmp_path: Path, stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ran(recipe(*stages), tmp_path)


def test_what_the_machine_lacks_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(MachineLacks, match="no GPU"):
        ran(recipe(Write(), Upper(lacking=True)), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_failed_stage_leaves_what_was_finished_and_no_half_result(tmp_path: Path) -> None:
    broken = recipe(Write(text="1"), Upper(), Count())
    with pytest.raises(DataRejected, match="'1' is not of letters"):
        ran(broken, tmp_path)
    assert [each.state for each in status(broken, Workspace(tmp_path))] == ["fresh", "missing", "unknown"]
    assert not (tmp_path / "01-teacher").exists()


def test_a_result_whose_manifest_was_edited_to_fit_makes_what_follows_stale(tmp_path: Path) -> None:
    """Whoever edits file and manifest alike is no longer damaged, but what was made of the old file is stale."""
    ran(recipe(), tmp_path)
    manifest = tmp_path / "00-data" / "manifest.json"
    before = (tmp_path / "00-data" / "text").read_bytes()
    (tmp_path / "00-data" / "text").write_bytes(b"z")
    old, new = (hashlib.sha256(each).hexdigest() for each in (before, b"z"))
    manifest.write_text(manifest.read_text().replace(old, new))
    assert [each.state for each in status(recipe(), Workspace(tmp_path))] == ["fresh", "stale", "unknown"]


def test_a_signal_between_two_stages_ends_the_run(tmp_path: Path) -> None:
    cancellation = Cancellation()
    with cancellation.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Cancelled, match="run the same command again to resume"):
            run(recipe(), Workspace(tmp_path), QuietProgress(), cancellation)


@final
class Interrupted(Stage):
    """Fails because of a signal, as where a child process got it too."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = ()
    makes: ClassVar[type[Artifact]] = Splits

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        del inputs, target, context
        os.kill(os.getpid(), signal.SIGINT)
        raise DataRejected("the child process died")


def test_what_fails_because_of_a_signal_is_cancelled_and_not_failed(tmp_path: Path) -> None:
    cancellation = Cancellation()
    with cancellation.listening(), pytest.raises(Cancelled) as caught:
        run(recipe(Interrupted()), Workspace(tmp_path), QuietProgress(), cancellation)
    assert caught.value.signal_number == signal.SIGINT


def killed_at_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run leaves of its first stage when it dies before its folder gets its name."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Workspace, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            ran(recipe(), folder)
    (partial,) = folder.glob("00-data-*.partial")
    return partial


def test_a_result_that_was_whole_when_the_run_was_killed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = killed_at_commit(tmp_path, monkeypatch)
    (partial / "checkpoints" / "left.pt").write_text("half")

    assert ran(recipe(), tmp_path) == ["teacher", "distill"]

    assert (tmp_path / "00-data" / "text").read_text() == "a"
    assert not (tmp_path / "00-data" / "checkpoints").exists()
    assert status(recipe(), Workspace(tmp_path))[0].state == "fresh"


def test_a_result_that_was_killed_before_it_was_whole_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = killed_at_commit(tmp_path, monkeypatch)
    (partial / "text").write_text("z")
    assert ran(recipe(), tmp_path) == ["data", "teacher", "distill"]
    assert (tmp_path / "00-data" / "text").read_text() == "a"


def test_later_stages_rehearse_before_the_first_long_work_and_only_where_something_runs(tmp_path: Path) -> None:
    @final
    class Fussy(Stage):
        name: ClassVar[str] = "distill"
        version: ClassVar[int] = 1
        needs: ClassVar[tuple[type[Artifact], ...]] = (Teacher,)
        makes: ClassVar[type[Artifact]] = Student

        def rehearse(self, made: Artifacts, context: Context) -> None:
            del context
            raise RecipeError(f"no student for '{made[Splits].path('text').read_text()}'")

        def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
            raise AssertionError(f"{inputs} {target} {context}: it never comes so far")

    with pytest.raises(RecipeError, match="no student for 'a'"):
        ran(recipe(Write(), Upper(), Fussy()), tmp_path)
    assert not (tmp_path / "01-teacher").exists()
    assert ran(recipe(Write(), Upper(), Fussy()), tmp_path, Selection(last="teacher")) == ["teacher"]
    assert ran(recipe(Write(), Upper(), Fussy()), tmp_path, Selection(last="teacher")) == []


def test_a_change_inside_a_list_is_named() -> None:
    before = {"losses": [{"name": "kd", "alpha": 0.3}], "sizes": [1, 8]}
    now = {"losses": [{"name": "kd", "alpha": 0.5}], "sizes": [1, 8, 32]}
    assert list(changes(before, now)) == ["losses[0].alpha: 0.3 -> 0.5", "sizes: [1, 8] -> [1, 8, 32]"]
