"""Building TensorRT-RTX engines with no GPU: seconds and peak memory by network and precision, and which opsets build.

    .venv/bin/python -m benchmarks.builds [builds] [opsets] [--work FOLDER] [--only NETWORK]

Prints Markdown. A build has a process of its own, whose peak memory is told; seconds are of the build alone, without
the start of the process. Nothing else should run meanwhile. The fleet is `edgestill run benchmarks/fleet.toml`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.benchmark_networks import NETWORKS, graph_of, images, interface_of
from benchmarks.tables import gigabytes, table
from engines.audit import summarize
from engines.base import Target
from engines.build_process import Build, built_apart
from engines.errors import EngineError
from pipeline.errors import EdgestillError
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16", "fp8")
CALIBRATED_IMAGES = 8
EXPORTED_OPSETS = range(18, 24)
OLDER_OPSETS = range(13, 18)
RUNS = 3
PARTS = ("builds", "opsets")

# What a framework of that time would have written, in operators that did not change since.
_OLDER = """<ir_version: 7, opset_import: ["" : %d]> g (float[N,3,32,32] x) => (float[N,8] y) {
  w = RandomNormal<shape=[8,3,3,3], seed=1.0>()
  c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
  r = Relu(c)
  p = GlobalAveragePool(r)
  y = Flatten(p)
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--work", type=Path, help="Keeps graphs for the next run; default: nowhere.")
    parser.add_argument("--only", choices=list(NETWORKS), action="append")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        names = asked.only or list(NETWORKS)
        if "builds" in asked.parts:
            head = ("network", "precision", "seconds", "peak memory", "engine", "kernels", "in INT8 or FP8")
            _show("Builds", head, _builds(names, work))
        if "opsets" in asked.parts:
            _show("Opsets", ("network", *map(str, EXPORTED_OPSETS)), _exported(names, work))
            _show("Older graphs", tuple(map(str, OLDER_OPSETS)), [_older(work)])


def _show(title: str, head: Sequence[str], rows: Iterator[Sequence[str]] | list[Sequence[str]]) -> None:
    print(f"\n## {title}\n")
    for line in table(head, rows):
        print(line, flush=True)


def _builds(names: Sequence[str], work: Path) -> Iterator[Sequence[str]]:
    for name in names:
        graphs = _graphs(name, work)
        for precision in PRECISIONS:
            if precision not in graphs:
                continue
            yield NETWORKS[name].title, precision, *_measured(graphs[precision], precision, work)


def _graphs(name: str, work: Path) -> dict[str, Path]:
    """By precision; FP32's and what `edgestill quantize` makes of it."""
    from pipeline.commands.quantize import quantize
    from pipeline.commands.quantize_request import QuantizeRequest

    graph, data = graph_of(name, work), work / "images.npz"
    if not data.is_file():
        np.savez(data, input=images(CALIBRATED_IMAGES, seed=1))
    request = QuantizeRequest(
        graph, data, ("tensorrt-rtx",), "minmax", None, work / name, CALIBRATED_IMAGES, 1, repair=("none",)
    )
    quantize(request, QuietProgress(), Cancellation())
    named = {"fp16": f"{name}.fp16.onnx"} | {each: f"{name}.tensorrt-rtx.{each}.onnx" for each in PRECISIONS[2:]}
    found = {precision: work / name / file for precision, file in named.items()}
    return {"fp32": graph, **{precision: path for precision, path in found.items() if path.is_file()}}


def _measured(graph: Path, precision: str, work: Path) -> Sequence[str]:
    capabilities = ("8.9",) if precision == "fp8" else ()
    target = Target("rtx", "tensorrt-rtx", (precision,), capabilities)
    runs = []
    for _ in range(RUNS):
        [found] = built_apart(target, [Build(graph, precision, work / "engine.plan")])
        if isinstance(found, EngineError):
            return "refused", "", "", "", str(found)[:80]
        runs.append(found)
    audit = summarize(runs[0].layers)
    seconds = sorted(each.seconds for each in runs)
    peak = max(each.peak_memory_bytes or 0 for each in runs)
    return (
        f"{seconds[len(seconds) // 2]:.1f}",
        gigabytes(peak),
        f"{runs[0].bytes / 1e6:.1f} MB",
        str(audit.kernels),
        f"{audit.int8 + audit.float8} of {audit.products}",
    )


def _exported(names: Sequence[str], work: Path) -> Iterator[Sequence[str]]:
    for name in names:
        yield NETWORKS[name].title, *(_built_at(name, opset, work) for opset in EXPORTED_OPSETS)


def _built_at(name: str, opset: int, work: Path) -> str:
    import onnx
    import torch

    from pipeline.exporting.exporter import exported, strip_metadata

    interface = interface_of(NETWORKS[name])
    torch.manual_seed(0)
    network = NETWORKS[name].options.make(interface, Path()).eval()
    graph = work / "opset.onnx"
    try:
        model = exported(network, interface, tuple(interface.outputs), opset)
    except EdgestillError as error:
        return f"not exported: {error}"
    strip_metadata(model)
    onnx.save(model, graph)
    return _parsed_and_built(graph, work)


def _older(work: Path) -> Sequence[str]:
    import onnx.parser

    found = []
    for opset in OLDER_OPSETS:
        graph = work / "older.onnx"
        onnx.save(onnx.parser.parse_model(_OLDER % opset), graph)
        found.append(_parsed_and_built(graph, work))
    return found


def _parsed_and_built(graph: Path, work: Path) -> str:
    [found] = built_apart(Target("rtx", "tensorrt-rtx"), [Build(graph, "fp32", work / "opset.plan")])
    return "builds" if not isinstance(found, EngineError) else f"refused: {str(found).removeprefix(str(graph))[:120]}"


if __name__ == "__main__":
    main()
