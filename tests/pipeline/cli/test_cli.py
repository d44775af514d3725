"""What a user types and reads: one JSON document, exit codes, no traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_run import command, run_edgestill

from pipeline import cli
from pipeline.cli.finish import finish
from pipeline.commands.outcome import Outcome
from pipeline.errors import IntegrityError


def document(run: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The one JSON document on stdout."""
    found = json.loads(run.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rum",), "No such command 'rum'. Did you mean 'run'? See edgestill --help."),
        (("run",), "Missing argument 'RECIPE'. See edgestill run --help."),
        (("run", "digits", "--untill", "data"), "--until"),
        (("quantize", "m.onnx", "--data", "d", "--family", "cpu", "--batch-size", "0"), "--batch-size"),
        (("run", "digitz"), "no built-in recipe 'digitz'; did you mean 'digits'? built in: digit-canvases,"),
        (("run", "absent.toml"), "absent.toml: cannot be read"),
        (("new", "a b.toml"), "a b.toml: names the recipe too, so take letters, digits, '.', '_' and '-' alone"),
        (("new", "/nowhere/a.toml"), "/nowhere/a.toml: there is no folder /nowhere"),
        (("new", "a.txt"), "a.txt: a recipe ends in .toml"),
        (("new", "a.toml", "--from", "digit"), "recipe 'digit' is unknown; did you mean 'digits'? choose from digit-c"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_json_document(arguments: tuple[str, ...], message: str) -> None:
    run = run_edgestill(*arguments, "--json")
    found = document(run)
    assert (run.returncode, found["exit_code"], found["schema_version"]) == (2, 2, 1)
    assert message in str(found["message"])
    assert run.stderr == f"edgestill: {found['message']}\n"


def test_without_a_command_the_help_is_shown() -> None:
    run = run_edgestill()
    assert run.returncode == 2
    assert "Calibrate an ONNX file and write its INT8 and FP16 graphs." in run.stdout
    assert run.stderr == ""


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run_edgestill("--version").stdout)


def test_every_command_says_the_same_to_programs(recipe: Path, workspace: Path) -> None:
    for name in ("run", "status", "report"):
        run = run_edgestill(name, recipe, "-w", workspace, "--json")
        found = document(run)
        assert (run.returncode, found["exit_code"], found["schema_version"]) == (0, 0, 1), run.stderr
        assert found["workspace"] == str(workspace)
    assert "nothing changed, skipped" not in run.stdout


def test_a_run_that_changes_nothing_shows_the_report_again_and_never_imports_torch(
    recipe: Path, workspace: Path
) -> None:
    run = run_edgestill("run", recipe, "-w", workspace, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    skipped = [line for line in run.stderr.splitlines() if line.endswith(": nothing changed, skipped")]
    assert run.returncode == 0
    assert len(skipped) == 8
    assert "Report: " in run.stdout
    assert "pipeline.running.runner" in imported
    assert not imported & {"torch", "onnx", "onnxruntime", "onnxscript", "sklearn", "PIL", "jsonschema", "jinja2"}


def test_help_imports_neither_numpy_nor_a_stage() -> None:
    run = run_edgestill("run", "--help", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert run.returncode == 0
    assert "pipeline.cli" in imported or "typer" in imported
    assert not imported & {"numpy", "pipeline.recipe", "pipeline.running.runner", "engines", "calibration", "torch"}


def test_a_failed_gate_ends_with_1_and_runs_the_report_alone(recipe: Path, workspace: Path) -> None:
    recipe.write_text(recipe.read_text() + "latency_ratio_to_fp32 = 0.000001\n")
    run = run_edgestill("run", recipe, "-w", workspace, "--json", "-q")
    found = document(run)
    assert (run.returncode, found["exit_code"]) == (1, 1), run.stderr
    stages = json.loads(run.stdout)["stages"]
    assert [each["stage"] for each in stages if each["ran"]] == ["report"]


def test_quiet_says_nothing_but_the_result(recipe: Path, workspace: Path) -> None:
    run = run_edgestill("run", recipe, "-w", workspace, "--quiet")
    assert run.stderr == ""
    assert "Report: " in run.stdout


def test_no_escape_sequence_reaches_a_pipe_or_a_ci_log(recipe: Path, workspace: Path) -> None:
    run = run_edgestill("run", recipe, "-w", workspace, "--force", "report", CI="true", NO_COLOR="1")
    assert run.returncode == 0
    assert "\x1b" not in run.stdout + run.stderr
    assert "07 report: done in " in run.stderr


def test_a_locale_without_our_characters_shows_others(recipe: Path, workspace: Path) -> None:
    run = run_edgestill("report", recipe, "-w", workspace, PYTHONIOENCODING="ascii")
    assert run.returncode == 0, run.stderr
    assert "Report: " in run.stdout
    assert run.stdout.isascii()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(command("doctor"), stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert run.stderr == ""
    assert run.returncode == 0


def test_a_mistake_of_ours_is_said_as_one_and_its_traceback_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Outcome:
        raise ZeroDivisionError("by zero")

    assert finish(broken, as_json=True) == 70
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == 70
    assert said.err.startswith("edgestill: internal error: ZeroDivisionError: by zero\nThis is a mistake of ours")
    assert "Traceback" not in said.err
    monkeypatch.setenv("EDGESTILL_TRACEBACK", "1")
    assert finish(broken, as_json=False) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_out_of_memory_is_resumable(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> Outcome:
        raise MemoryError

    assert finish(broken, as_json=False) == 7
    assert capsys.readouterr().err == "edgestill: out of memory; run again with smaller batches\n"


def test_what_goes_wrong_while_showing_is_no_traceback_either(capsys: pytest.CaptureFixture[str]) -> None:
    def show(_: object) -> None:
        raise IntegrityError("x: is missing")

    assert finish(lambda _: Outcome({}, show), as_json=False) == 5
    assert capsys.readouterr().err == "edgestill: x: is missing\n"


def test_ctrl_c_before_a_command_listens_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 128 + signal.SIGINT
