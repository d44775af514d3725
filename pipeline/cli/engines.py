"""`build`, `audit`, `preflight`, `targets`, `doctor`: the commands of engines and of the machines that they run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Json_, Quiet_, finished, progress_of

app = typer.Typer()


@app.command("build")
def _build(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A graph; its precision is in it.")],
    target: Annotated[
        str, typer.Option(help="A runtime (onnxruntime, tensorrt-rtx, tensorrt) or a device of edgestill targets.")
    ],
    precision: Annotated[
        str, typer.Option(help="What the graph is: fp32, tf32, fp16, bf16, int8, int8+fp16 or fp8.")
    ] = "fp32",
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
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="uint8-nhwc", help="The engine takes the bytes of images; needs --preprocess."),
    ] = None,
    preprocess: Annotated[
        Path | None,
        typer.Option(help="preprocess.json: its scale, mean and std go into the engine of --input uint8-nhwc."),
    ] = None,
    fp16: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.fp16.onnx", help="The same network in FP16: built for the audit, to compare with."),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="ranges-tensorrt.json",
            help="What quantize wrote for the FP32 graph: INT8 for TensorRT up to 10.x and its DLA.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The engine's file; default beside the model.")] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Build an engine from an ONNX file and say what was really built."""
    from pipeline.commands.build import BuildRequest, build

    capabilities, axes = tuple(compute_capability or ()), tuple(axis or ())
    request = BuildRequest(model, target, precision, capabilities, batch, out, axes, fp16, ranges, input_, preprocess)
    finished(lambda cancellation: build(request, progress_of(quiet), cancellation), as_json)


@app.command("audit")
def _audit(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="As edgestill run or edgestill build wrote it.")],
    as_json: Json_ = False,
) -> None:
    """Explain what was really built, and why it may not be faster than FP16; needs no GPU."""
    from pipeline.commands.audit import audit

    finished(lambda _: audit(engine), as_json)


@app.command("preflight")
def _preflight(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="A plan; its manifest beside it says more.")],
    device: Annotated[
        Path | None,
        typer.Option("--for", metavar="DEVICE.json", help="What edgestill doctor --json wrote there; default: here."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where the answer is unknown, too.")] = False,
    as_json: Json_ = False,
) -> None:
    """Say whether an engine will load on a device: yes, no because ..., or unknown. Loads nothing."""
    from pipeline.commands.preflight import preflight

    finished(lambda _: preflight(engine, device, strict), as_json)


@app.command("targets")
def _targets(as_json: Json_ = False) -> None:
    """List the devices that a target may name, and what this machine can do for each."""
    from pipeline.commands.targets import targets

    finished(lambda _: targets(), as_json)


@app.command("doctor")
def _doctor(as_json: Json_ = False) -> None:
    """Say what this machine is, what it can build and run, and how to install what is missing."""
    from pipeline.commands.doctor import doctor

    finished(lambda _: doctor(), as_json)
