"""What is missing is named by the package of this system: another one on each JetPack, processor and driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.packages import how_to_get_libcudart, how_to_get_tensorrt, how_to_get_tensorrt_rtx, jetpack


def jetson(folder: Path, release: str) -> Path:
    (folder / "etc").mkdir()
    major, minor = release.split(".", 1)
    (folder / "etc" / "nv_tegra_release").write_text(
        f"# R{major} (release), REVISION: {minor}, GCID: 1, BOARD: generic\n"
    )
    return folder


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("35.5.0", "JetPack 5 (Jetson Linux 35.5.0)"),
        ("36.4.3", "JetPack 6 (Jetson Linux 36.4.3)"),
        ("38.2.1", "JetPack 7 (Jetson Linux 38.2.1)"),
        ("99.1", "Jetson Linux 99.1"),
    ],
)
def test_a_jetson_is_told_the_packages_of_its_jetpack(tmp_path: Path, release: str, name: str) -> None:
    root = jetson(tmp_path, release)
    assert jetpack(root) == name
    assert how_to_get_tensorrt(root).startswith(
        f"{name} has it: sudo apt install nvidia-tensorrt python3-libnvinfer, and in a virtual environment let it see"
    )
    assert how_to_get_libcudart("12.6", root) == f"{name} has it: sudo apt install nvidia-cuda"


def test_another_machine_is_told_the_wheel_that_its_driver_serves(tmp_path: Path) -> None:
    assert jetpack(tmp_path) is None
    assert how_to_get_tensorrt(tmp_path).endswith(
        "elsewhere pip install 'edgestill[tensorrt]' from NVIDIA's package index"
    )
    said = "install the CUDA toolkit, or pip install {}, or pip install pycuda"
    assert how_to_get_libcudart("12.6", tmp_path) == said.format("nvidia-cuda-runtime-cu12")
    for driver in ("13.0", None):
        assert how_to_get_libcudart(driver, tmp_path) == said.format("nvidia-cuda-runtime")


def test_tensorrt_rtx_has_no_wheel_for_arm() -> None:
    assert how_to_get_tensorrt_rtx("x86_64") == "pip install 'edgestill[rtx]' (x86-64 Linux only)"
    assert how_to_get_tensorrt_rtx("aarch64").endswith("on this processor take runtime = 'tensorrt'")
