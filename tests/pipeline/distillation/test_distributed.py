"""Two processes under torchrun give the student that one gives; one of them writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, write_recipe

SCRIPT = Path(__file__).parents[2] / "distributed_training.py"


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine's CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*launch, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300, env=environment
    )


def trained(launched: subprocess.CompletedProcess[str], to: Path) -> dict[str, Any]:
    assert launched.returncode == 0, launched.stderr[-3000:]
    found: dict[str, Any] = torch.load(to, weights_only=True)
    return found


def test_two_processes_give_the_student_of_one_with_the_same_batch(tmp_path: Path) -> None:
    alone = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "one", tmp_path / "one.pt"], capture_output=True, text=True, check=False
    )
    one = trained(alone, tmp_path / "one.pt")
    two = trained(torchrun(SCRIPT, tmp_path / "two", tmp_path / "two.pt"), tmp_path / "two.pt")
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
    for name, tensor in one["weights"].items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=1e-6)


def test_a_recipe_runs_under_torchrun_and_one_process_speaks_and_writes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TINY.replace("epochs = 40", "epochs = 2"))
    done = torchrun("-m", "pipeline", "run", recipe, "-w", tmp_path / "ws", "--until", "export")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("02 distill: done in") == 1
    assert "Warning" not in done.stderr
    assert sorted(entry.name for entry in (tmp_path / "ws").iterdir() if entry.is_symlink()) == [
        "00-data",
        "01-teacher",
        "02-distill",
        "03-export",
    ]
    assert not list((tmp_path / "ws").glob("*.partial"))


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TINY.replace("batch_size = 32", "batch_size = 31"))
    done = torchrun("-m", "pipeline", "run", recipe, "-w", tmp_path / "ws", "--until", "teacher")
    assert done.returncode != 0
    assert "teacher: batch_size 31 does not divide among 2 processes; take a multiple of it" in done.stderr


def test_a_training_that_diverges_ends_all_processes(tmp_path: Path) -> None:
    diverging = 'batch_size = 32\noptimizer = { name = "sgd", learning_rate = 1e30 }\n\n[distill]'
    usual = 'batch_size = 32\noptimizer = { name = "adamw", learning_rate = 1e-2 }\n\n[distill]'
    assert usual in TINY
    recipe = write_recipe(tmp_path, TINY.replace(usual, diverging))
    done = torchrun("-m", "pipeline", "run", recipe, "-w", tmp_path / "ws", "--until", "teacher")
    assert done.returncode != 0
    assert "teacher: the loss is nan at step 2 (labels nan)" in done.stderr
