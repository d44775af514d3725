"""The commands; nothing but parsing and printing."""

from __future__ import annotations

import gc
import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cancellation import Cancellation
from pipeline.errors import RecipeError
from pipeline.finish import SIGNAL_BASE, failed, finish
from pipeline.outcome import Outcome

if TYPE_CHECKING:
    from pipeline.progress import Progress

# typer raises it for a wrong command line and, version by version, takes it from elsewhere.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="edgestill",
    help="From a trained teacher to INT8 engines that can ship.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(help="Look at a recipe's data before anything trains on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Workspace_ = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Where results stand; default ./edgestill/<recipe name>.")
]
Json_ = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
Quiet_ = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Validation_ = Annotated[
    Path | None,
    typer.Option(help="Samples on which graphs are judged, as --data; without it the calibration samples."),
]
Labels_ = Annotated[
    Path | None,
    typer.Option(help="Their classes as .npy; without it the array 'labels' of the .npz; without it FP32's."),
]
Recipe_ = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name, or a path ending in .toml.")]


@app.callback(invoke_without_command=True)
def _edgestill(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        print(version("edgestill"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(RecipeError.exit_code)


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
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="Show the trainings' curves too: tensorboard=FOLDER, mlflow=URI or FOLDER; may be repeated.",
        ),
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Run a recipe: stages whose inputs did not change are skipped, a killed run resumes."""

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.run import run
        from pipeline.selection import Selection

        selection = Selection(from_, until, frozenset(force or ()))
        return run(recipe, workspace, selection, _progress(quiet), cancellation, tuple(track or ()))

    _finish(command, as_json)


@app.command("status")
def _status(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False) -> None:
    """Show which stages are done, stale or damaged, and why."""
    from pipeline.commands.status import status

    _finish(lambda _: status(recipe, workspace), as_json)


@data_app.command("check")
def _data_check(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False, quiet: Quiet_ = False) -> None:
    """Say what is wrong with a recipe's data: corrupt, repeated, nearly repeated across splits, badly scaled."""

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.data_check import data_check

        return data_check(recipe, workspace, _progress(quiet), cancellation)

    _finish(command, as_json)


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
    family: Annotated[
        list[str], typer.Option(help="Placement family; may be repeated: cpu, tensorrt-rtx, tensorrt, …")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Calibration inputs: a .npz with one array an input (batch first), or a folder of images."),
    ] = None,
    sketches: Annotated[
        list[Path] | None,
        typer.Option(help="A file of edgestill calibrate, in place of --data; repeated: one for each shard."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A calibration cache of TensorRT, in place of --data: its scales, bit for bit.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="entropy, minmax, mse, percentile:99.99, or best (per tensor).")
    ] = "entropy",
    preprocess: Annotated[
        Path | None, typer.Option(help="preprocess.json of a workspace, or a preprocess table as JSON.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default beside the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    weights: Annotated[str, typer.Option(help="Their scales: max, or mse (least squared error).")] = "max",
    repair: Annotated[
        list[str] | None,
        typer.Option(help="Tried, and kept where it gains: bias, equalize, auto (both) or none; default bias."),
    ] = None,
    tensorrt_version: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X.Y.Z", help="Write a calibration cache for this TensorRT, 8.x to 10.x; may be repeated."
        ),
    ] = None,
    show_reasons: Annotated[
        bool,
        typer.Option("--explain", help="Print per node whether it is quantized and why; without --data, only that."),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Keep layers in float until no more of the metric is lost against FP32."),
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Keep layers in float until the output SQNR is no lower.")
    ] = None,
    validation: Validation_ = None,
    labels: Labels_ = None,
    latencies: Annotated[
        Path | None,
        typer.Option(help="Measured layer latencies as JSON: the lowest sum is wanted, not the most INT8."),
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Calibrate an ONNX file and write its INT8 and FP16 graphs."""
    from pipeline.budget import budget_from_options
    from pipeline.commands.explain import explain
    from pipeline.commands.quantize import QuantizeRequest, quantize
    from pipeline.quantization_settings import DEFAULT_REPAIR

    if data is None and any(each is not None for each in (max_drop, min_sqnr, validation, labels, latencies)):
        raise typer.BadParameter("graphs are judged with --data alone: give it, or leave --max-drop and its kin out")
    if sketches:
        from pipeline.commands.quantize_sketches import SketchesRequest, quantize_sketches

        if any(each is not None for each in (data, preprocess, cache, repair)) or show_reasons:
            raise typer.BadParameter(
                "--sketches takes the place of --data; leave --data, --cache, --preprocess, --repair and --explain out"
            )
        versions = tuple(tensorrt_version or ())
        merged = SketchesRequest(model, tuple(sketches), tuple(family), method, out, versions, weights)
        _finish(lambda _: quantize_sketches(merged), as_json)
        return
    if cache is not None:
        from pipeline.commands.quantize_cache import CacheRequest, quantize_cache

        if data is not None or preprocess is not None:
            raise typer.BadParameter("--cache takes the place of --data and --preprocess; leave them out")
        if method != "entropy" or weights != "max" or repair:
            raise typer.BadParameter("--cache brings its own scales; leave --method, --weights and --repair out")
        converted = CacheRequest(model, cache, tuple(family), out, tuple(tensorrt_version or ()), show_reasons)
        _finish(lambda _: quantize_cache(converted), as_json)
        return
    if data is None and not show_reasons:
        raise typer.BadParameter("--data is missing; only --sketches, --explain and --cache go without")

    def command(cancellation: Cancellation) -> Outcome:
        if data is None:
            return explain(model, tuple(family))
        request = QuantizeRequest(
            model,
            data,
            tuple(family),
            method,
            preprocess,
            out,
            batch_size,
            threads,
            tuple(tensorrt_version or ()),
            show_reasons,
            tuple(repair) if repair else DEFAULT_REPAIR,
            weights=weights,
            budget=budget_from_options(max_drop, min_sqnr, latencies),
            validation=validation,
            labels=labels,
        )
        return quantize(request, _progress(quiet), cancellation)

    _finish(command, as_json)


@app.command("sensitivity")
def _sensitivity(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An FP32 graph.")],
    data: Annotated[
        Path,
        typer.Option(help="Calibration inputs: a .npz with one array an input (batch first), or a folder of images."),
    ],
    family: Annotated[
        list[str], typer.Option(help="Placement family; may be repeated: cpu, tensorrt-rtx, tensorrt, …")
    ],
    method: Annotated[str, typer.Option(help="As of quantize.")] = "entropy",
    exact: Annotated[
        bool, typer.Option("--exact", help="A whole graph for each layer and block, not for the most sensitive alone.")
    ] = False,
    validation: Validation_ = None,
    labels: Labels_ = None,
    preprocess: Annotated[
        Path | None, typer.Option(help="preprocess.json of a workspace, or a preprocess table as JSON.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default beside the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Say what each layer of an ONNX file costs in INT8: alone, and left out."""
    from pipeline.commands.quantize import QuantizeRequest
    from pipeline.commands.sensitivity import sensitivity

    request = QuantizeRequest(
        model,
        data,
        tuple(family),
        method,
        preprocess,
        out,
        batch_size,
        threads,
        sensitivity="exact" if exact else "worst",
        validation=validation,
        labels=labels,
    )
    _finish(lambda cancellation: sensitivity(request, _progress(quiet), cancellation), as_json)


@app.command("calibrate")
def _calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An FP32 graph.")],
    data: Annotated[Path, typer.Option(help="A .npz with one array an input (batch first), or a folder of images.")],
    shard: Annotated[str, typer.Option(metavar="K/N", help="Only part K of N, such as 2/8.")] = "1/1",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file of sketches; default beside the model.")
    ] = None,
    preprocess: Annotated[
        Path | None, typer.Option(help="preprocess.json of a workspace, or a preprocess table as JSON.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples read at once.")] = 32,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Measure a graph's activations over data, or a shard of it, for edgestill quantize --sketches."""
    from pipeline.commands.calibrate import CalibrateRequest, calibrate

    request = CalibrateRequest(model, data, shard, out, preprocess, batch_size, threads)
    _finish(lambda cancellation: calibrate(request, _progress(quiet), cancellation), as_json)


@app.command("lint")
def _lint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A Q/DQ graph or a calibration cache of TensorRT, whoever wrote it.")
    ],
    family: Annotated[
        list[str] | None,
        typer.Option(help="Placement family of a graph; may be repeated: cpu, tensorrt-rtx, tensorrt, …"),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="The graph that a cache is for.")] = None,
    tensorrt_version: Annotated[
        str | None, typer.Option(metavar="X.Y.Z", help="The TensorRT that is to take a cache.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    as_json: Json_ = False,
) -> None:
    """Say what a runtime would take wrongly, or in float, without a word; exit 1 with errors."""
    from pipeline.commands.lint import LintRequest, lint

    request = LintRequest(file, tuple(family or ()), strict, model, tensorrt_version)
    _finish(lambda _: lint(request), as_json)


@app.command("build")
def _build(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A graph; its precision is in it.")],
    target: Annotated[str, typer.Option(help="Runtime: onnxruntime, tensorrt-rtx or tensorrt.")],
    precision: Annotated[str, typer.Option(help="What the graph is: fp32, fp16, int8, int8+fp16 or fp8.")] = "fp32",
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="Such as 8.6; may be repeated; none: portable.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="Batch profile of a dynamic graph; default 1:8:64.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN:OPT:MAX", help="Profile of another dynamic axis; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The engine's file; default beside the model.")] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Build an engine from an ONNX file and say what was really built."""
    from pipeline.commands.build import BuildRequest, build

    request = BuildRequest(
        model, target, precision, tuple(compute_capability or ()), batch, out, axes=tuple(axis or ())
    )
    _finish(lambda cancellation: build(request, _progress(quiet), cancellation), as_json)


@app.command("doctor")
def _doctor(as_json: Json_ = False) -> None:
    """Say what this machine is, what it can build and run, and how to install what is missing."""
    from pipeline.commands.doctor import doctor

    _finish(lambda _: doctor(), as_json)


def main() -> None:
    """The console script."""
    # Imports make many objects and no garbage: looking for it after every 700th costs a tenth of the start.
    gc.set_threshold(50_000)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale without the characters that we print shows others; it is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        code = app(prog_name="edgestill", standalone_mode=False)
    except UsageError as error:
        code = failed(RecipeError(_usage(error)), "--json" in sys.argv)
    except KeyboardInterrupt:
        code = SIGNAL_BASE + signal.SIGINT
    sys.exit(code or 0)


def _progress(quiet: bool) -> Progress:
    from pipeline.progress import progress_for

    return progress_for(sys.stderr, quiet)


def _finish(command: Callable[[Cancellation], Outcome], as_json: bool) -> None:
    raise typer.Exit(finish(command, as_json))


def _usage(error: Exception) -> str:
    """What is wrong with the command line, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "edgestill"
    message = getattr(error, "format_message", error.__str__)()
    return f"{message} See {command} --help."
