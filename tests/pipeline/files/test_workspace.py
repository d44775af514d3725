"""A damaged result is rebuilt by `run`, which says so, stops every other command, and is never used."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import run_edgestill

from pipeline.errors import EdgestillError, IntegrityError, MachineLacks, RecipeError, ResourceExhausted
from pipeline.files.workspace import CHECKPOINTS, Workspace, disk_errors_explained
from pipeline.recipe import load_recipe
from pipeline.running.status import status, verified_artifacts


def edit(folder: Path) -> None:
    (folder / "report.md").write_text("ship it")


def delete(folder: Path) -> None:
    (folder / "report.html").unlink()


def add(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def cut_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])


def change_manifest(folder: Path, **values: object) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "an edited file": (edit, "report.md: SHA-256 is "),
    "a missing file": (delete, "report.html: is missing"),
    "an extra file": (add, "notes.txt: is not in the manifest"),
    "a truncated manifest": (cut_manifest, "manifest.json: cannot be read (JSONDecodeError"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: cannot be read (No such file"),
    "a manifest of another release": (
        lambda folder: change_manifest(folder, schema_version=2),
        "manifest.json: is not of schema_version 1 (found 2)",
    ),
    "a manifest of another key": (
        lambda folder: change_manifest(folder, key="0123456789abcdef"),
        "manifest.json: is of another result (key 0123456789ab…)",
    ),
    "a manifest with a list for outputs": (
        lambda folder: change_manifest(folder, outputs=["report.md"]),
        "manifest.json: cannot be read (AttributeError",
    ),
    "a link that leads nowhere": (
        lambda folder: (folder / "gone").symlink_to("nowhere"),
        "gone: cannot be read (No such file or directory)",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_status_and_report_stop_at_what_is_damaged(recipe: Path, workspace: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage((workspace / "07-report").resolve())
    loaded = load_recipe(str(recipe))

    found = status(loaded, Workspace(workspace))

    assert [each.state for each in found] == ["fresh"] * 7 + ["damaged"]
    assert message in found[-1].why[0]
    assert found[-1].why[0].endswith("`edgestill run` rebuilds the stage")
    with pytest.raises(IntegrityError, match="rebuilds the stage"):
        verified_artifacts(loaded, Workspace(workspace))


def test_run_rebuilds_what_is_damaged_says_so_and_runs_nothing_else(recipe: Path, workspace: Path) -> None:
    graph = workspace / "04-calibrate" / "cpu.int8.onnx"
    good = graph.read_bytes()
    graph.write_bytes(good[:-1] + b"?")
    before = run_edgestill("status", recipe, "-w", workspace)
    shown = run_edgestill("report", recipe, "-w", workspace)

    rebuilt = run_edgestill("run", recipe, "-w", workspace, "--json", "--quiet")

    assert (before.returncode, shown.returncode, rebuilt.returncode) == (5, 5, 0)
    assert f"{graph.resolve()}: SHA-256 is " in shown.stderr
    assert f"damaged, so it is not used: {graph.resolve()}: SHA-256 is " in rebuilt.stderr
    stages = json.loads(rebuilt.stdout)["stages"]
    assert [each["stage"] for each in stages if each["ran"]] == ["calibrate"]
    assert "SHA-256" in next(each["damage"] for each in stages if each["stage"] == "calibrate")
    assert graph.read_bytes() == good


def test_a_workspace_can_be_renamed(recipe: Path, workspace: Path) -> None:
    moved = workspace.rename(workspace.with_name("elsewhere"))
    assert {each.state for each in status(load_recipe(str(recipe)), Workspace(moved))} == {"fresh"}


def test_a_workspace_copied_without_its_links_gets_them_back(recipe: Path, workspace: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(workspace, copied, symlinks=False)
    run = run_edgestill("run", recipe, "-w", copied)
    assert run.returncode == 0, run.stderr
    assert (copied / "03-export").is_symlink()


def test_what_was_changed_is_named_by_status(recipe: Path, workspace: Path) -> None:
    recipe.write_text(recipe.read_text().replace('families = ["cpu"]', 'families = ["cpu"]\nmethod = "minmax"'))
    found = status(load_recipe(str(recipe)), Workspace(workspace))
    assert [(each.state, each.why) for each in found[3:6]] == [
        ("fresh", ()),
        ("stale", ("settings.method: percentile:99.999 -> minmax",)),
        ("unknown", ("calibrate comes first",)),
    ]
    with pytest.raises(RecipeError, match=r"stage calibrate is stale \(settings.method: percentile:99.999 -> minmax\)"):
        verified_artifacts(load_recipe(str(recipe)), Workspace(workspace))


def test_a_workspace_cannot_be_a_file(recipe: Path) -> None:
    with (
        pytest.raises(RecipeError, match=r"tiny.toml: cannot be a folder; choose another with --workspace"),
        Workspace(recipe).lock(),
    ):
        pass


def test_checkpoints_survive_under_the_same_key_alone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder, other = (workspace.folder(2, "distill", key * 64) for key in "ab")
    partial = workspace.begin(folder)
    (partial / CHECKPOINTS / "student.pt").write_text("epoch 3")
    (partial / "half.json").write_text("{")

    again = workspace.begin(folder)
    assert [entry.relative_to(again).as_posix() for entry in sorted(again.rglob("*"))] == [
        "checkpoints",
        "checkpoints/student.pt",
    ]
    workspace.begin(other)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{other.name}.partial"]


def test_a_commit_replaces_what_was_there_and_drops_the_checkpoints(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder, link = workspace.folder(0, "data", "c" * 64), workspace.link(0, "data")
    for content in ("old", "new"):
        partial = workspace.begin(folder)
        (partial / CHECKPOINTS / "state").write_text("half")
        (partial / "result").write_text(content)
        workspace.commit(partial, folder, link)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["00-data", folder.name]
    assert [entry.name for entry in link.iterdir()] == ["result"]
    assert (link / "result").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, ResourceExhausted, "/results: no space left on the disk; free some and run again to resume"),
        (errno.EDQUOT, ResourceExhausted, "/results: no space left on the disk; free some and run again to resume"),
        (errno.EROFS, MachineLacks, "/results: is on a read-only disk; choose another folder"),
        (
            errno.EACCES,
            MachineLacks,
            "/results/x: Permission denied; change its permissions or choose another folder",
        ),
    ],
)
def test_a_disk_error_says_what_to_do(number: int, kind: type[EdgestillError], message: str) -> None:
    with pytest.raises(kind) as caught, disk_errors_explained(Path("/results")):
        raise OSError(number, os.strerror(number), "/results/x")
    assert str(caught.value) == message


def test_another_os_error_is_left_as_it_is() -> None:
    with pytest.raises(IsADirectoryError), disk_errors_explained(Path("/results")):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "/results/x")
