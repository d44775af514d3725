"""`edgestill doctor`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from engines import ENGINES
from engines.base import Target
from engines.machine import cpu_family, this_machine
from pipeline.building.evidence import device_here
from pipeline.commands.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DISTRIBUTIONS = {
    "torch": "edgestill",
    "onnx": "edgestill",
    "onnxruntime": "edgestill",
    "scikit-learn": "edgestill[demo]",
    "tensorrt_rtx": "edgestill[rtx]",
    "tensorrt": "edgestill[tensorrt]",
    "pycuda": "edgestill[pycuda]",
    "tensorboard": "edgestill[tensorboard]",
    "mlflow-skinny": "edgestill[mlflow]",
}


def doctor() -> Outcome:
    """What this machine is, and for each runtime whether it can build and run here, or why not."""
    machine = this_machine()
    document = {
        "machine": machine.to_json(),
        "device": device_here(machine).to_json(),
        "cpu_family": cpu_family(machine),
        "packages": {name: _installed(name) for name in DISTRIBUTIONS},
        "runtimes": {name: _runtime(name) for name in ENGINES},
    }
    return Outcome(document, lambda console: _show(console, document))


def _runtime(name: str) -> dict[str, Any]:
    engine, target = ENGINES[name], Target(name=name, runtime=name)
    return {
        "versions": engine.versions(),
        "why_not_build": engine.why_not_build(target),
        "why_not_run": engine.why_not_run(target),
    }


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _show(console: Console, document: dict[str, Any]) -> None:
    console.print(_facts(document))
    console.print()
    console.print(_runtimes(document["runtimes"]))
    for name, runtime in document["runtimes"].items():
        _show_lacks(console, name, runtime)
    console.print()
    for name, found in document["packages"].items():
        hint = f"not installed: pip install '{DISTRIBUTIONS[name]}'"
        console.print(f"{name}: {found or hint}", markup=False, highlight=False)


def _facts(document: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in {**document["machine"], "cpu_family": document["cpu_family"]}.items():
        if value not in (None, [], ()):
            table.add_row(name.removesuffix("_bytes").replace("_", " "), Text(_plain(name, value)))
    return table


def _runtimes(runtimes: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("runtime", "version", "builds here", "runs here", box=None, pad_edge=False)
    for name, runtime in runtimes.items():
        answers = ("no" if runtime[key] else "yes" for key in ("why_not_build", "why_not_run"))
        table.add_row(name, ", ".join(runtime["versions"].values()) or "-", *answers)
    return table


def _show_lacks(console: Console, name: str, runtime: dict[str, Any]) -> None:
    build, run = runtime["why_not_build"], runtime["why_not_run"]
    if build is not None and build == run:
        console.print(f"\n{name} neither builds nor runs here: {build}", markup=False)
        return
    for what, why in (("does not build", build), ("does not run", run)):
        if why is not None:
            console.print(f"\n{name} {what} here: {why}", markup=False)


def _plain(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / (1 << 30):.1f} GiB"
    if name == "gpus":
        return ", ".join(gpu["name"] for gpu in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(each) for each in value) if isinstance(value, list | tuple) else str(value)
