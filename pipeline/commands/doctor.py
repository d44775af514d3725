"""`edgestill doctor`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from engines import ENGINES
from engines.base import Target
from engines.machine import cpu_family, this_machine
from pipeline.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console

DISTRIBUTIONS = {
    "torch": "edgestill",
    "onnx": "edgestill",
    "onnxruntime": "edgestill",
    "scikit-learn": "edgestill[demo]",
    "tensorrt_rtx": "edgestill[rtx]",
    "tensorrt": "edgestill[tensorrt]",
    "pycuda": "edgestill[pycuda]",
}


def doctor() -> Outcome:
    """What this machine is, and for each runtime whether it can build and run here, or why not."""
    machine = this_machine()
    document = {
        "machine": machine.to_json(),
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
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, value in {**document["machine"], "cpu_family": document["cpu_family"]}.items():
        if value not in (None, [], ()):
            facts.add_row(name.replace("_", " "), Text(_plain(name, value)))
    console.print(facts)
    runtimes = Table("runtime", "version", "build", "run", box=None, pad_edge=False)
    for name, runtime in document["runtimes"].items():
        versions = ", ".join(runtime["versions"].values()) or "-"
        runtimes.add_row(name, versions, *(Text(runtime[key] or "yes") for key in ("why_not_build", "why_not_run")))
    console.print()
    console.print(runtimes)
    console.print()
    for name, found in document["packages"].items():
        hint = f"not installed: pip install '{DISTRIBUTIONS[name]}'"
        console.print(f"{name}: {found or hint}", markup=False, highlight=False)


def _plain(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / (1 << 30):.1f} GiB"
    return ", ".join(str(each) for each in value) if isinstance(value, list | tuple) else str(value)
