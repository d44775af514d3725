"""The parts of `benchmarks/calibration.py` and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.benchmark_networks import NETWORKS
from benchmarks.calibrating import curve_part, time_part
from benchmarks.calibrating.cells import Cells
from benchmarks.calibrating.digits_networks import CALIBRATION, TEST, TRAINING, digits_subject
from benchmarks.calibrating.latency_part import latency_tables
from benchmarks.calibrating.quality_part import Quality, quality
from benchmarks.calibrating.quality_tables import accuracy_tables, quality_tables
from benchmarks.calibrating.student_part import student_tables
from benchmarks.calibrating.subjects import Subject, drawn_subject
from benchmarks.calibrating.tools import TITLES, TOOLS, Tool, model_optimizer_python
from engines.machine import cpu_family, this_machine

TIMED = ("resnet-18", "resnet-50", "mobilenet-v3")
LATENT = ("resnet-18", "resnet-50", "mobilenet-v3", "efficientnet-b0", "repvgg-a0", "vit-tiny", "u-net")
QUICK_IMAGES = 16


def main(description: str) -> None:
    """Prints the tables of the parts that were asked for."""
    arguments = _arguments(description)
    environment = arguments.model_optimizer or arguments.folder / "model-optimizer"
    python, why = model_optimizer_python(environment, arguments.install_model_optimizer)
    machine = this_machine()
    print(f"{machine.cpu_model}, {machine.logical_cores} cores, family {cpu_family()}", flush=True)
    if python is None:
        print(f"\nModel Optimizer is not measured: {why}", flush=True)
    cells = Cells(arguments.folder, arguments.before, arguments.tables)
    for part in arguments.only or PARTS:
        print("\n".join(PARTS[part](cells, arguments, python)), flush=True)


def _arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="networks, images, results and graphs go there")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="parts, in this order; else all")
    parser.add_argument("--nets", nargs="+", choices=tuple(NETWORKS), help="else all that a part is for")
    parser.add_argument("--tools", nargs="+", choices=tuple(TITLES), help="in time, quality and digits; else all")
    parser.add_argument("--methods", nargs="+", help="of these tools; else all")
    parser.add_argument("--images", type=int, default=64, help="that calibrate, in quality and digits (64)")
    parser.add_argument("--evaluation-images", type=int, default=256, help="that the graphs are judged on (256)")
    parser.add_argument("--timed-images", type=int, nargs="+", default=[64, 256, 1024], help="in time (64 256 1024)")
    parser.add_argument("--quick", action="store_true", help="16 images in every part")
    parser.add_argument("--before", default="", help="put before each command, such as 'nice -n 10'")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what is there")
    parser.add_argument("--model-optimizer", type=Path, help="its virtual environment; else in the folder")
    parser.add_argument("--install-model-optimizer", action="store_true", help="make that environment")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.absolute()
    if arguments.quick:
        arguments.images = arguments.evaluation_images = QUICK_IMAGES
        arguments.timed_images = [QUICK_IMAGES]
    return arguments


def _time(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    most = max(arguments.timed_images)
    subjects = [drawn_subject(name, cells.folder, most, 8) for name in arguments.nets or TIMED]
    tools = _tools(arguments, time_part.TOOLS)
    yield from time_part.time_tables(cells, subjects, tuple(arguments.timed_images), model_optimizer, tools)


def _quality(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    found = {}
    for name in arguments.nets or NETWORKS:
        subject = drawn_subject(name, cells.folder, arguments.images, arguments.evaluation_images)
        judged = quality(
            cells, subject, arguments.images, arguments.evaluation_images, model_optimizer, _tools(arguments)
        )
        found[name] = (subject, list(judged))
    yield from quality_tables(found)


def _latency(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    """Beside the peers' graphs that `quality` made."""
    del model_optimizer
    subjects = [
        drawn_subject(name, cells.folder, arguments.images, arguments.evaluation_images)
        for name in arguments.nets or LATENT
    ]
    yield from latency_tables(cells, subjects, arguments.images, cpu_family())


def _digits(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    folder = cells.folder / "digits"
    found: dict[str, tuple[Subject, list[Quality]]] = {}
    for name in arguments.nets or TRAINING:
        request = {"network": name, "folder": str(folder), "threads": 1}
        trained = cells.result(f"trained/{name}", "benchmarks.calibrating.digits_networks", request)
        if "error" in trained:
            yield f"\n{NETWORKS[name].title}: {trained['error']}"
            continue
        subject = digits_subject(name, folder)
        found[name] = (subject, list(quality(cells, subject, CALIBRATION, TEST, model_optimizer, _tools(arguments))))
    yield from accuracy_tables(found)


def _curve(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    counts = arguments.images, arguments.evaluation_images
    subjects = [drawn_subject(name, cells.folder, *counts) for name in arguments.nets or curve_part.NETWORKS]
    yield from curve_part.curve_tables(cells, subjects, *counts, model_optimizer)


def _student(cells: Cells, arguments: argparse.Namespace, model_optimizer: Path | None) -> Iterator[str]:
    del arguments
    yield from student_tables(cells, model_optimizer)


def _tools(arguments: argparse.Namespace, tools: tuple[Tool, ...] = TOOLS) -> tuple[Tool, ...]:
    return tuple(
        tool
        for tool in tools
        if (arguments.methods is None or tool.method in arguments.methods)
        and (arguments.tools is None or tool.name in arguments.tools)
    )


PARTS: dict[str, Callable[[Cells, argparse.Namespace, Path | None], Iterator[str]]] = {
    "quality": _quality,
    "curve": _curve,
    "digits": _digits,
    "student": _student,
    "latency": _latency,
    "time": _time,
}
