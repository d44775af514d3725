"""The commands; nothing but parsing and printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cancellation import Cancellation
from pipeline.errors import Cancelled, EdgestillError, ResourceExhausted
from pipeline.outcome import SCHEMA_VERSION, Outcome

if TYPE_CHECKING:
    from pipeline.progress import Progress

INTERNAL_ERROR = 70
SIGNAL_BASE = 128

app = typer.Typer(
    name="edgestill",
    help="From a trained teacher to INT8 engines that can ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Workspace_ = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Where results stand; default ./edgestill/<recipe name>.")
]
Json_ = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
Quiet_ = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Recipe_ = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name, or a path ending in .toml.")]


@app.callback(invoke_without_command=True)
def _edgestill(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if show_version:
        print(version("edgestill"))
        raise typer.Exit


@app.command("run")
def _run(
    recipe: Recipe_,
    workspace: Workspace_ = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Start here; earlier stages must be done.")
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run it even if nothing changed; may be repeated.")
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Run a recipe: stages whose inputs did not change are skipped, a killed run resumes."""

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.run import run
        from pipeline.runner import Selection

        return run(recipe, workspace, Selection(from_, until, frozenset(force or ())), _progress(quiet), cancellation)

    _finish(command, as_json)


@app.command("status")
def _status(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False) -> None:
    """Show which stages are done, stale or damaged, and why."""
    from pipeline.commands.status import status

    _finish(lambda _: status(recipe, workspace), as_json)


@app.command("report")
def _report(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False) -> None:
    """Show the report of a finished run, after verifying everything that it rests on."""
    from pipeline.commands.run import report

    _finish(lambda _: report(recipe, workspace), as_json)


@app.command("new")
def _new(
    path: Annotated[Path, typer.Argument(metavar="MY.toml", help="The file to write; it must not exist.")],
    from_: Annotated[
        str, typer.Option("--from", metavar="RECIPE", help="The built-in recipe to start from.")
    ] = "digits",
    as_json: Json_ = False,
) -> None:
    """Write a commented recipe to change."""
    from pipeline.commands.new import new

    _finish(lambda _: new(path, from_), as_json)


@app.command("quantize")
def _quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An FP32 graph.")],
    data: Annotated[
        Path,
        typer.Option(help="Calibration inputs: a .npz with one array an input (batch first), or a folder of images."),
    ],
    family: Annotated[
        list[str], typer.Option(help="Placement family; may be repeated: cpu, tensorrt-rtx, tensorrt, …")
    ],
    method: Annotated[str, typer.Option(help="entropy or minmax.")] = "entropy",
    preprocess: Annotated[
        Path | None, typer.Option(help="preprocess.json of a workspace, or the [data] preprocess table as JSON.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default beside the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Calibrate an ONNX file and write its INT8 and FP16 graphs."""
    from pipeline.commands.quantize import QuantizeRequest, quantize

    request = QuantizeRequest(model, data, tuple(family), method, preprocess, out, batch_size, threads)
    _finish(lambda cancellation: quantize(request, _progress(quiet), cancellation), as_json)


@app.command("build")
def _build(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A graph; its precision is in it.")],
    target: Annotated[str, typer.Option(help="Runtime: onnxruntime, tensorrt-rtx or tensorrt.")],
    precision: Annotated[str, typer.Option(help="What the graph is: fp32, fp16 or int8.")] = "fp32",
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="Such as 8.6; may be repeated; none: portable.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="MIN:OPT:MAX", help="Batch profile of a dynamic graph.")] = "1:8:64",
    out: Annotated[Path | None, typer.Option(help="The engine's file; default beside the model.")] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Build an engine from an ONNX file and say what was really built."""
    from pipeline.commands.build import BuildRequest, build

    request = BuildRequest(model, target, precision, tuple(compute_capability or ()), batch, out)
    _finish(lambda cancellation: build(request, _progress(quiet), cancellation), as_json)


@app.command("doctor")
def _doctor(as_json: Json_ = False) -> None:
    """Say what this machine is, what it can build and run, and how to install what is missing."""
    from pipeline.commands.doctor import doctor

    _finish(lambda _: doctor(), as_json)


def main() -> None:
    """The console script."""
    app()


def _progress(quiet: bool) -> Progress:
    from pipeline.progress import progress_for

    return progress_for(sys.stderr, quiet)


def _finish(command: Callable[[Cancellation], Outcome], as_json: bool) -> None:
    """Runs a command, prints its outcome or its error, and ends the process with the exit code that says which."""
    cancellation = Cancellation()
    try:
        with cancellation.listening():
            outcome = command(cancellation)
    except EdgestillError as error:
        code = SIGNAL_BASE + error.signal_number if isinstance(error, Cancelled) else error.exit_code
        _print_error(error, code, as_json)
        raise typer.Exit(code) from None
    except MemoryError:
        _print_error(ResourceExhausted("out of memory; run again with smaller batches"), 7, as_json)
        raise typer.Exit(7) from None
    except Exception as error:  # the last resort: an error of ours, said as one, with its traceback for the report
        _print_internal_error(error, as_json)
        raise typer.Exit(INTERNAL_ERROR) from None
    if as_json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, **outcome.document}, ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        outcome.show(Console(highlight=False))
    raise typer.Exit(outcome.exit_code)


def _print_error(error: EdgestillError, code: int, as_json: bool) -> None:
    if as_json:
        kind = type(error).__name__
        print(json.dumps({"schema_version": SCHEMA_VERSION, "error": kind, "message": str(error), "exit_code": code}))
    print(f"edgestill: {error}", file=sys.stderr)


def _print_internal_error(error: Exception, as_json: bool) -> None:
    import traceback

    if as_json:
        document = {"error": type(error).__name__, "message": str(error), "exit_code": INTERNAL_ERROR}
        print(json.dumps({"schema_version": SCHEMA_VERSION, **document}))
    if os.environ.get("EDGESTILL_TRACEBACK"):
        traceback.print_exception(error)
    print(
        f"edgestill: internal error: {type(error).__name__}: {error}\n"
        "This is a mistake of ours; run again with EDGESTILL_TRACEBACK=1 and report what it prints.",
        file=sys.stderr,
    )
