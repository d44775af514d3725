"""Imports point one way, and nothing heavy is imported at start."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import images, residual

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "benchmarks": {"benchmarks", "pipeline", "calibration", "engines"},
    "pipeline": {"pipeline", "calibration", "engines"},
    "calibration": {"calibration"},
    "engines": {"engines"},
}
STARTED = ("pipeline.cli", "pipeline.recipe", "pipeline.running.runner", "pipeline.running.status", "engines")
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "scipy",
    "PIL",
    "matplotlib",
    "tensorrt",
    "tensorrt_rtx",
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> set[str]:
    """Top-level names of everything that is imported anywhere in a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(str(node.module).partition(".")[0])
    return found


def imported_at_start(tree: ast.Module) -> set[str]:
    """The same, without what stands in a function or under TYPE_CHECKING."""
    statements = [
        statement
        for statement in tree.body
        if not (isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test))
    ]
    found: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found |= imports(statement)
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for file in sources(package):
        own = imports(ast.parse(file.read_text(encoding="utf-8"))) & set(ALLOWED)
        assert own <= ALLOWED[package], f"{file}: imports {own - ALLOWED[package]}"


def test_nothing_imports_the_tests_or_the_benchmarks() -> None:
    for file in [file for package in ("pipeline", "calibration", "engines") for file in sources(package)]:
        assert not imports(ast.parse(file.read_text(encoding="utf-8"))) & {"tests", "benchmarks", "tiny_run"}, file


def test_engines_need_the_standard_library_and_numpy_alone_at_import() -> None:
    files = sources("engines")
    assert files
    for file in files:
        other = imported_at_start(ast.parse(file.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names)
        assert other <= {"numpy", "engines"}, f"{file}: imports {other - {'numpy', 'engines'}} at start"


def test_engines_are_written_in_the_syntax_of_python_3_10() -> None:
    for file in sources("engines"):
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 10))


@pytest.mark.parametrize("module", STARTED)
def test_nothing_heavy_is_imported_at_start(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in found
    assert not {name.partition(".")[0] for name in found} & HEAVY


def test_quantize_needs_no_torch(tmp_path: Path) -> None:
    onnx.save(residual(widths=(4, 8)), tmp_path / "own.onnx")
    np.savez(tmp_path / "x.npz", image=images(16, 1, 8, 8))
    command = ["quantize", "own.onnx", "--data", "x.npz", "--family", "tensorrt", "--repair", "auto", "--quiet"]
    code = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {command}; from pipeline.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.tensorrt.int8.onnx").is_file()
