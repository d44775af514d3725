"""`calibrate`, `quantize`, `sensitivity` and `lint`: the commands of INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import BatchSize_, Json_, Quiet_, Threads_, Workspace_, finished, progress_of
from pipeline.cli.quantize_options import (
    Bf16_,
    Cache_,
    Channels_,
    Data_,
    DataOrNone_,
    Explain_,
    Families_,
    Folder_,
    Images_,
    Labels_,
    Latencies_,
    MaxDrop_,
    Mean_,
    Method_,
    MinSqnr_,
    Model_,
    Out_,
    Preprocess_,
    Repair_,
    Sketches_,
    Std_,
    Validation_,
    Versions_,
    Weights_,
)
from pipeline.cli.quantize_source import refuse_options, source_of_ranges
from pipeline.commands.outcome import Outcome
from pipeline.process.cancellation import Cancellation

app = typer.Typer()


@app.command("calibrate")
def _calibrate(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="MODEL.onnx|RECIPE", help="An FP32 graph with --data, or a recipe: it has both.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="A .npz with one array an input (batch first), a folder of .npy, or one of images."),
    ] = None,
    shard: Annotated[str, typer.Option(metavar="K/N", help="Only part K of N, such as 2/8.")] = "1/1",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file of sketches; default beside the model, of a recipe here."),
    ] = None,
    preprocess: Preprocess_ = None,
    mean: Mean_ = None,
    std: Std_ = None,
    images: Images_ = "all",
    channel_extremes: Channels_ = False,
    method: Annotated[str, typer.Option(help="As of quantize: whose ranges --images auto wants tight.")] = "percentile",
    batch_size: BatchSize_ = 32,
    threads: Threads_ = 1,
    workspace: Workspace_ = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Measure activations over data, or a shard of it, for quantize --sketches or [calibrate] sketches."""
    from pipeline.commands.calibrate import CalibrateRequest, calibrate
    from pipeline.commands.calibrate_recipe import RecipeRequest, calibrate_recipe

    if not subject.endswith(".onnx"):
        of_data = ("data", "preprocess", "mean", "std", "images", "method", "batch_size", "threads", "channel_extremes")
        refuse_options(context, of_data, "a recipe")
        of_recipe = RecipeRequest(subject, shard, out, workspace)
        finished(lambda cancellation: calibrate_recipe(of_recipe, progress_of(quiet), cancellation), as_json)
    refuse_options(context, ("workspace",), "an ONNX file")
    if data is None:
        raise typer.BadParameter("an ONNX file needs --data; a recipe brings its own, and ends in .toml or is built in")

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.quantizing.inputs.calibration_inputs import preprocessing_from_options

        images_as = preprocessing_from_options(preprocess, mean, std)
        request = CalibrateRequest(
            Path(subject), data, shard, out, images_as, batch_size, threads, images, method, channel_extremes
        )
        return calibrate(request, progress_of(quiet), cancellation)

    finished(command, as_json)


@app.command("quantize")
def _quantize(
    context: typer.Context,
    model: Model_,
    family: Families_,
    data: DataOrNone_ = None,
    sketches: Sketches_ = None,
    cache: Cache_ = None,
    method: Method_ = "percentile",
    preprocess: Preprocess_ = None,
    mean: Mean_ = None,
    std: Std_ = None,
    images: Images_ = "all",
    channel_extremes: Channels_ = False,
    out: Out_ = None,
    batch_size: BatchSize_ = 32,
    threads: Threads_ = 1,
    weights: Weights_ = "max",
    repair: Repair_ = None,
    tensorrt_version: Versions_ = None,
    bf16: Bf16_ = False,
    explain: Explain_ = False,
    max_drop: MaxDrop_ = None,
    min_sqnr: MinSqnr_ = None,
    validation: Validation_ = None,
    labels: Labels_ = None,
    latencies: Latencies_ = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Calibrate an ONNX file and write its INT8 and FP16 graphs."""
    families, versions = tuple(family), tuple(tensorrt_version or ())
    source = source_of_ranges(context)
    if source == "--sketches":
        from pipeline.commands.quantize_sketches import SketchesRequest, quantize_sketches

        merged = SketchesRequest(model, tuple(sketches or ()), families, method, out, versions, weights, bf16)
        finished(lambda _: quantize_sketches(merged), as_json)
    if cache is not None:
        from pipeline.commands.quantize_cache import CacheRequest, quantize_cache

        converted = CacheRequest(model, cache, families, out, versions, explain)
        finished(lambda _: quantize_cache(converted), as_json)
    if data is None:
        from pipeline.commands.explain import explain as explained

        finished(lambda _: explained(model, families), as_json)

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.quantize import quantize
        from pipeline.commands.quantize_request import QuantizeRequest
        from pipeline.quantizing.inputs.calibration_inputs import preprocessing_from_options
        from pipeline.quantizing.sensitivity.budget import budget_from_options
        from pipeline.quantizing.settings import DEFAULT_REPAIR

        request = QuantizeRequest(
            model,
            data,
            families,
            method,
            preprocessing_from_options(preprocess, mean, std),
            out,
            batch_size,
            threads,
            versions,
            explain,
            tuple(repair) if repair else DEFAULT_REPAIR,
            weights=weights,
            budget=budget_from_options(max_drop, min_sqnr, latencies),
            validation=validation,
            labels=labels,
            images=images,
            channel_extremes=channel_extremes,
            bf16=bf16,
            sketches=tuple(sketches or ()),
        )
        return quantize(request, progress_of(quiet), cancellation)

    finished(command, as_json)


@app.command("sensitivity")
def _sensitivity(
    model: Model_,
    data: Data_,
    family: Families_,
    method: Annotated[str, typer.Option(help="As of quantize.")] = "percentile",
    images: Images_ = "all",
    exact: Annotated[
        bool, typer.Option("--exact", help="A whole graph for each layer and block, not for the most sensitive alone.")
    ] = False,
    validation: Validation_ = None,
    labels: Labels_ = None,
    preprocess: Preprocess_ = None,
    mean: Mean_ = None,
    std: Std_ = None,
    out: Folder_ = None,
    batch_size: BatchSize_ = 32,
    threads: Threads_ = 1,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Say what each layer and block of an ONNX file costs in INT8: alone, and left out."""
    from pipeline.commands.quantize_request import QuantizeRequest
    from pipeline.commands.sensitivity import sensitivity

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.quantizing.inputs.calibration_inputs import preprocessing_from_options

        request = QuantizeRequest(
            model,
            data,
            tuple(family),
            method,
            preprocessing_from_options(preprocess, mean, std),
            out,
            batch_size,
            threads,
            sensitivity="exact" if exact else "worst",
            validation=validation,
            labels=labels,
            images=images,
        )
        return sensitivity(request, progress_of(quiet), cancellation)

    finished(command, as_json)


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
    finished(lambda _: lint(request), as_json)
