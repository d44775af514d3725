"""One finished run of a recipe that takes seconds, and disks that are full or read-only."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tiny_run import run_edgestill, write_recipe

# A test that fails because its machine was busy says nothing of the code.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

# onnxruntime reads it once, at its import, and would leave files in the home of whoever runs the tests.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, workspace) of one undisturbed run; read only. Test workers share it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "finished"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe, workspace = shared / "tiny.toml", shared / "workspace"
        if not (shared / "done").exists():
            write_recipe(shared)
            done = run_edgestill("run", recipe, "-w", workspace)
            assert done.returncode == 0, done.stderr
            (shared / "done").touch()
    return recipe, workspace


@pytest.fixture
def recipe(finished_run: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the recipe that a test may change, beside a copy of the finished workspace."""
    source, workspace = finished_run
    shutil.copy(source, tmp_path)
    shutil.copy(source.with_name("images.npz"), tmp_path)
    shutil.copytree(workspace, tmp_path / "workspace", symlinks=True)
    return tmp_path / source.name


@pytest.fixture
def workspace(recipe: Path) -> Path:
    """A finished workspace that a test may damage."""
    return recipe.with_name("workspace")


def mount(*arguments: str | Path) -> None:
    """Skips, with the reason that mount gives, where this user may not mount."""
    mounted = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)  # noqa: S607
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")


def unmount(folder: Path) -> None:
    # Lazily: a file that a failed test left open must not leave the mount behind.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of its own, of one megabyte; outside pytest's folders, whose clean-up stumbles over a mount."""
    folder = Path(tempfile.mkdtemp(prefix="edgestill-disk-"))
    try:
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        yield folder
        unmount(folder)
    finally:
        folder.rmdir()


@pytest.fixture
def read_only(workspace: Path) -> Iterator[None]:
    """The workspace on a read-only mount: mode bits do not stop root."""
    mount("--bind", workspace, workspace)
    mount("-o", "remount,bind,ro", workspace)
    yield
    unmount(workspace)
