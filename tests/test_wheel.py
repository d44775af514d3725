"""What is installed: the three packages, their data, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "calibration", "engines")
DATA = (".toml", ".html", ".css", ".json", ".md")


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, capture_output=True, text=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "edgestill = pipeline.cli:main" in archive.read(points).decode()
    expected = {
        file.relative_to(source).as_posix()
        for package in PACKAGES
        for file in (source / package).rglob("*")
        if file.suffix in (".py", *DATA)
    }
    assert found == expected
    assert "pipeline/recipes/digits.toml" in found
    assert {"pipeline/reporting/report.html", "pipeline/reporting/report.css"} <= found
    assert "pipeline/reporting/report.schema.json" in found
    assert {"calibration/ranges.schema.json", "pipeline/quantizing/placement.schema.json"} <= found
