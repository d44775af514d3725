"""Killed, cancelled, out of space: what was finished stays, and the rest ends as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import TINY, command, run_edgestill, write_recipe

PATIENCE_S = 60.0


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> Path:
    """The first file that a running process writes."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        if found := next(folder.glob(pattern), None):
            return found
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{pattern} did not come within {PATIENCE_S} s")


def forget(workspace: Path, stage: str) -> None:
    """As if the stage had never run."""
    for entry in workspace.glob(f"*-{stage}*"):
        if entry.is_symlink():
            entry.unlink()
        else:
            shutil.rmtree(entry)


def stop_in_distillation(recipe: Path, workspace: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Runs until the first checkpoint is written, sends the signal, waits for the end."""
    forget(workspace, "distill")
    process = start("run", recipe, "-w", workspace, "--until", "distill")
    wait_for("02-distill-*.partial/checkpoints/student.pt", workspace, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_distillation_that_was_stopped_ends_with_the_weights_of_an_undisturbed_one(
    recipe: Path, workspace: Path, finished_run: tuple[Path, Path], number: signal.Signals, code: int
) -> None:
    stopped = stop_in_distillation(recipe, workspace, number)
    assert stopped.returncode == code
    assert "Traceback" not in stopped.stderr
    assert [entry.suffix for entry in workspace.glob("02-distill*")] == [".partial"]

    resumed = run_edgestill("run", recipe, "-w", workspace, "--until", "distill")

    assert resumed.returncode == 0, resumed.stderr
    assert "student: resumed after " in resumed.stderr
    for name in ("student.safetensors", "last.safetensors", "events.jsonl"):
        assert (workspace / "02-distill" / name).read_bytes() == (finished_run[1] / "02-distill" / name).read_bytes()
    assert not list(workspace.glob("*.partial"))
    assert not (workspace / "02-distill" / "checkpoints").exists()


def test_two_runs_in_two_folders_give_the_same_bytes(tmp_path: Path, finished_run: tuple[Path, Path]) -> None:
    again = run_edgestill("run", write_recipe(tmp_path), "-w", tmp_path / "elsewhere", "--until", "build")
    assert again.returncode == 0, again.stderr
    for name in (
        "00-data/splits.json",
        "01-teacher/teacher.safetensors",
        "02-distill/student.safetensors",
        "03-export/model.onnx",
        "04-calibrate/sketches.npz",
        "04-calibrate/ranges.json",
        "04-calibrate/placement.json",
        "04-calibrate/fp16.onnx",
        "04-calibrate/cpu.int8.onnx",
        "05-build/cpu/fp32.onnx",
        "05-build/cpu/int8.onnx",
    ):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (finished_run[1] / name).read_bytes(), name


def test_a_changed_calibration_runs_calibrate_and_what_follows(recipe: Path, workspace: Path) -> None:
    recipe.write_text(recipe.read_text().replace('families = ["cpu"]', 'families = ["cpu"]\nmethod = "minmax"'))
    run = run_edgestill("run", recipe, "-w", workspace, "--json", "--quiet", "--until", "build")
    stages = {each["stage"]: each["ran"] for each in json.loads(run.stdout)["stages"]}
    assert stages == {
        "data": False,
        "teacher": False,
        "distill": False,
        "export": False,
        "calibrate": True,
        "build": True,
    }


def test_ctrl_c_in_the_teachers_training_ends_with_130_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TINY.replace("epochs = 2", "epochs = 100000"))
    process = start("run", recipe, "-w", tmp_path / "workspace")
    checkpoint = wait_for("01-teacher-*.partial/checkpoints/teacher.pt", tmp_path / "workspace", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert "stopping after this step; once more to stop at once" in stderr
    assert stderr.endswith("edgestill: cancelled; run the same command again to resume\n")
    assert "Traceback" not in stderr
    assert checkpoint.exists()
    assert (tmp_path / "workspace" / ".lock").read_text() == ""


def test_a_workspace_that_a_live_run_holds_is_refused_with_who_holds_it(recipe: Path, workspace: Path) -> None:
    holder = {
        "pid": 4711,
        "host": "bench",
        "started": "2026-01-02T03:04:05+00:00",
        "command": "edgestill run tiny.toml",
    }
    (workspace / ".lock").write_text(json.dumps(holder))
    with (workspace / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run_edgestill("run", recipe, "-w", workspace, "--json")

    assert refused.returncode == 6
    assert json.loads(refused.stdout)["message"] == (
        f"{workspace}: locked by process 4711 on bench since 2026-01-02T03:04:05+00:00 (edgestill run tiny.toml); "
        "wait for it to end"
    )


def test_a_run_says_in_the_lock_who_it_is_and_its_lock_dies_with_it(recipe: Path, workspace: Path) -> None:
    forget(workspace, "distill")
    process = start("run", recipe, "-w", workspace, "--until", "distill")
    wait_for("02-distill-*.partial", workspace, process)
    refused = run_edgestill("run", recipe, "-w", workspace)
    process.kill()
    process.communicate()

    assert refused.returncode == 6
    assert f"locked by process {process.pid} on " in refused.stderr
    assert f"run {recipe} -w {workspace} --until distill)" in refused.stderr
    after = run_edgestill("run", recipe, "-w", workspace, "--until", "teacher")
    assert after.returncode == 0, after.stderr


def test_a_full_disk_ends_with_7_and_the_run_resumes_when_there_is_space(
    recipe: Path, workspace: Path, finished_run: tuple[Path, Path], small_disk: Path
) -> None:
    forget(workspace, "distill")
    forget(workspace, "export")
    for entry in workspace.glob("0[0-1]-*"):
        if not entry.is_symlink():
            shutil.copytree(entry, small_disk / entry.name)
    ballast = small_disk / "ballast"
    free_bytes = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free_bytes - 24_000))

    full = run_edgestill("run", recipe, "-w", small_disk, "--until", "distill")

    assert full.returncode == 7, full.stderr
    assert f"edgestill: {small_disk}: no space left on the disk; free some and run again to resume" in full.stderr
    assert "Traceback" not in full.stderr
    ballast.unlink()
    resumed = run_edgestill("run", recipe, "-w", small_disk, "--until", "distill")
    assert resumed.returncode == 0, resumed.stderr
    assert "01 teacher: nothing changed, skipped" in resumed.stderr
    weights = "02-distill/student.safetensors"
    assert (small_disk / weights).read_bytes() == (finished_run[1] / weights).read_bytes()


def test_a_read_only_disk_ends_with_3_and_loses_nothing(recipe: Path, workspace: Path, read_only: None) -> None:
    refused = run_edgestill("run", recipe, "-w", workspace, "--force", "report")
    seen = run_edgestill("status", recipe, "-w", workspace)
    shown = run_edgestill("report", recipe, "-w", workspace)

    assert refused.returncode == 3
    assert refused.stderr == f"edgestill: {workspace}: is on a read-only disk; choose another folder\n"
    assert (seen.returncode, seen.stdout.count(" done ")) == (0, 8)
    assert shown.returncode == 0
