"""The options of `quantize` and of the commands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model_ = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An FP32 graph.")]
Families_ = Annotated[list[str], typer.Option(help="Placement family; may be repeated: cpu, tensorrt-rtx, tensorrt, …")]
_DATA = typer.Option(
    help="Calibration inputs: a .npz with one array an input (batch first), a folder of .npy, or one of images."
)
Data_ = Annotated[Path, _DATA]
DataOrNone_ = Annotated[Path | None, _DATA]
Preprocess_ = Annotated[
    Path | None, typer.Option(help="preprocess.json of a workspace, or a preprocess table as JSON.")
]
Mean_ = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Of images in a folder, of pixels from 0 to 1, in place of --preprocess; the graph says their size.",
    ),
]
Std_ = Annotated[str | None, typer.Option(metavar="R,G,B", help="As --mean: one number, or one a channel.")]
Folder_ = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results; default beside the model.")]
Out_ = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder for the results, or the INT8 graph's own name ending in .onnx, of one family."
    ),
]
Validation_ = Annotated[
    Path | None,
    typer.Option(help="Samples on which graphs are judged, as --data; without it the calibration samples."),
]
Images_ = Annotated[
    str, typer.Option(metavar="all|auto|N", help="How many of the data; auto: until the method's ranges are tight.")
]
Channels_ = Annotated[
    bool, typer.Option("--channel-extremes", help="The extremes of each channel too; each sample runs twice.")
]
Labels_ = Annotated[
    Path | None,
    typer.Option(help="Their classes as .npy; without it the array 'labels' of the .npz; without it FP32's."),
]
Sketches_ = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file of edgestill calibrate, one for each shard, for the ranges; --data beside it is for all else."
    ),
]
Cache_ = Annotated[
    Path | None, typer.Option(help="A calibration cache of TensorRT, in place of --data: its scales, bit for bit.")
]
Method_ = Annotated[str, typer.Option(help="percentile:99.999, minmax, mse, entropy, or best (per tensor).")]
Weights_ = Annotated[str, typer.Option(help="Their scales: max, or mse (least squared error).")]
Repair_ = Annotated[
    list[str] | None,
    typer.Option(
        help="Kept where it gains: widen, rounding, bias (these three by default), equalize, shift; auto, none."
    ),
]
Versions_ = Annotated[
    list[str] | None,
    typer.Option(metavar="X.Y.Z", help="Write a calibration cache for this TensorRT, 8.x to 10.x; may be repeated."),
]
Bf16_ = Annotated[bool, typer.Option("--bf16", help="Write the graph in BF16 too, in opset 22 or newer.")]
Explain_ = Annotated[
    bool,
    typer.Option("--explain", help="Print per node whether it is quantized and why; without --data, only that."),
]
MaxDrop_ = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="Keep layers in float until no more of the metric is lost against FP32."),
]
MinSqnr_ = Annotated[
    float | None, typer.Option(metavar="DB", help="Keep layers in float until the output SQNR is no lower.")
]
Latencies_ = Annotated[
    Path | None,
    typer.Option(
        help='Measured layer latencies, as JSON {"FAMILY": {"NODE": {"float_ms": 0.12, "int8_ms": 0.05}}}: '
        "the lowest sum is wanted, not the most INT8."
    ),
]
