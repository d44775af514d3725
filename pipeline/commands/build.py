"""`edgestill build`: one engine from an ONNX file that no recipe made."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engines import ENGINES
from engines.audit import summarize
from engines.base import INT8_PRECISIONS, QUANTIZED_PRECISIONS, BuiltEngine, Engine, Target
from engines.files import sha256_of_file
from engines.presets import PRESETS
from pipeline.building.auditing import Opponent, audit_record
from pipeline.building.builds import Wanted, built_engine, engine_line
from pipeline.building.camera_input import fed_as_bytes
from pipeline.building.engine_parity import EngineParity
from pipeline.building.evidence import Origin, device_here, write_evidence
from pipeline.building.random_parity import random_parity
from pipeline.building.target_presets import with_preset
from pipeline.building.target_settings import TargetSettings
from pipeline.commands.outcome import Outcome
from pipeline.data.preprocess import Preprocess
from pipeline.errors import MachineLacks, NotAcceptable, RecipeError
from pipeline.files import atomic
from pipeline.files.workspace import disk_errors_explained
from pipeline.mistakes import explained
from pipeline.names import unknown
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.inputs.calibration_inputs import preprocess_from_json

if TYPE_CHECKING:
    from rich.console import Console


AUDIT_SUFFIX = ".audit.json"
"""Of the file beside an engine that no recipe built."""


@dataclass(frozen=True)
class BuildRequest:
    """What the command line asked for."""

    model: Path
    target: str
    """A runtime, or a preset."""
    precision: str
    compute_capabilities: tuple[str, ...]
    batch: str | None
    """MIN:OPT:MAX; None: the profile that a target has by itself."""
    out: Path | None
    axes: tuple[str, ...] = ()
    """NAME=MIN:OPT:MAX, for each dynamic axis other than the batch."""
    fp16: Path | None = None
    """The FP16 graph of the same network: its engine is the opponent in the audit."""
    ranges: Path | None = None
    """The table of the model's ranges, for INT8 of a TensorRT that takes one beside an FP32 graph."""
    input: str | None = None
    """`uint8-nhwc`: the engine takes bytes."""
    preprocess: Path | None = None
    """What is folded into it then."""


def build(request: BuildRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes the engine and, beside it, <engine>.audit.json."""
    settings = _settings(request)
    _check_files(request, settings)
    images = _images(request)
    engine, target = ENGINES[settings.runtime], settings.target(request.target, threads=1)
    if (mistake := engine.why_refused(target)) is not None:
        raise RecipeError(mistake)
    if (why := engine.why_not_build(target)) is not None:
        raise MachineLacks(why)
    # The target's name keeps an optimized graph apart from the graph it came from.
    suffix = f".{request.target}{engine.suffix}"
    to = request.out or request.model.with_suffix(suffix)
    if to.is_dir():
        raise RecipeError(f"{to}: is a folder; name the engine's file with --out")
    if to.resolve() == request.model.resolve():
        raise RecipeError(f"{to}: would replace the model; choose another file with --out")
    with disk_errors_explained(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        wanted = Wanted(request.precision, request.model, to, ranges=request.ranges, preprocess=images)
        built = built_engine(engine, wanted, target, progress, cancellation)
        parity = random_parity(built, request.precision, target, request.model, images)
        _require_same(request, built, parity)
        opponent = _opponent(request, images, engine, target, progress, cancellation)
        audit = to.with_name(to.name + AUDIT_SUFFIX)
        record = audit_record(built, request.precision, target, opponent)
        known = {"precision": request.precision, "sha256": built.sha256, "settings": dict(built.settings)}
        atomic.write_json(audit, {"target": asdict(target), **known, **record})
        ranges = {} if request.ranges is None else {"ranges": sha256_of_file(request.ranges)}
        origin = Origin(request.model.name, {"graph": sha256_of_file(request.model), **ranges})
        takes = None if images is None else fed_as_bytes(request.model, images)
        evidence = write_evidence(
            built, request.precision, target, origin, device_here(), record, takes, parity.to_json()
        )
    document = {
        "engine": str(to),
        "bytes": built.bytes,
        "sha256": built.sha256,
        "seconds": built.seconds,
        "versions": dict(built.versions),
        "settings": dict(built.settings),
        "audit": record["summary"],
        "patterns": record["patterns"],
        "opponent": record["opponent"],
        "parity": parity.to_json(),
    }
    return Outcome(document, lambda console: _show(console, request, built, (audit, evidence)))


def _require_same(request: BuildRequest, built: BuiltEngine, parity: EngineParity) -> None:
    if parity.state != "differs":
        return
    built.file.unlink()
    raise NotAcceptable(
        f"{request.model}: on random inputs the engine does not answer as the graph does: {parity.reason}; what the "
        "runtime made of it computes something else on this machine: take another version of the runtime"
    )


def _check_files(request: BuildRequest, settings: TargetSettings) -> None:
    """Raises RecipeError where a file is not there, or is of no use to what is built."""
    for graph in (request.model, request.fp16, request.ranges):
        if graph is not None and not graph.is_file():
            raise RecipeError(f"{graph}: there is no such file")
    if request.fp16 is not None and request.precision not in QUANTIZED_PRECISIONS:
        raise RecipeError(f"--fp16 is for the audit of {', '.join(QUANTIZED_PRECISIONS)}; leave it out")
    if request.ranges is not None and request.precision not in INT8_PRECISIONS:
        raise RecipeError(
            f"--ranges is for {' and '.join(INT8_PRECISIONS)}; leave it out, or name one with --precision"
        )
    if settings.int8 == "ranges" and request.ranges is None:
        raise RecipeError(
            f"--target {request.target}: builds INT8 from the FP32 graph and a table of its ranges; "
            "give it with --ranges"
        )


def _images(request: BuildRequest) -> Preprocess | None:
    if (request.input is None) != (request.preprocess is None):
        raise RecipeError(
            "--input uint8-nhwc and --preprocess preprocess.json go together: its scale, mean and std are folded into "
            "the engine; give both, or neither"
        )
    return None if request.preprocess is None else preprocess_from_json(request.preprocess)


def _opponent(
    request: BuildRequest,
    images: Preprocess | None,
    engine: Engine,
    target: Target,
    progress: Progress,
    cancellation: Cancellation,
) -> Opponent | None:
    if request.fp16 is None:
        return None
    with tempfile.TemporaryDirectory(prefix="edgestill-") as aside:
        to = Path(aside) / f"fp16{engine.suffix}"
        built = built_engine(
            engine, Wanted("fp16", request.fp16, to, preprocess=images), target, progress, cancellation
        )
        return Opponent(summarize(built.layers))


def _settings(request: BuildRequest) -> TargetSettings:
    if request.target not in (*ENGINES, *PRESETS):
        raise RecipeError(f"--target {request.target}: {unknown('target', request.target, (*ENGINES, *PRESETS))}")
    settings: dict[str, Any] = {
        ("runtime" if request.target in ENGINES else "preset"): request.target,
        "precisions": (request.precision,),
    }
    if request.compute_capabilities:
        settings["compute_capabilities"] = request.compute_capabilities
    if request.batch is not None:
        settings["batch"] = _sizes(f"--batch {request.batch}", request.batch)
    if request.input is not None:
        settings["input"] = request.input
    if request.axes:
        settings["axes"] = _axes(request.axes)
    if request.ranges is not None and request.precision in INT8_PRECISIONS:
        settings["int8"] = "ranges"
    try:
        return TargetSettings.model_validate(with_preset(settings))
    except ValidationError as error:
        raise RecipeError("\n".join(explained(error, "", TargetSettings))) from error


def _axes(texts: Sequence[str]) -> dict[str, dict[str, int]]:
    axes: dict[str, dict[str, int]] = {}
    for text in texts:
        name, equals, sizes = text.partition("=")
        if not name or not equals:
            raise RecipeError(f"--axis {text}: give NAME=MIN:OPT:MAX, such as length=16:64:256")
        if name in axes:
            raise RecipeError(f"--axis {text}: '{name}' stands twice; give it once")
        axes[name] = _sizes(f"--axis {text}", sizes)
    return axes


def _sizes(asked: str, text: str) -> dict[str, int]:
    sizes = text.split(":")
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
        raise RecipeError(f"{asked}: give MIN:OPT:MAX, such as 1:8:64")
    return dict(zip(("min", "opt", "max"), map(int, sizes), strict=True))


def _show(console: Console, request: BuildRequest, built: BuiltEngine, beside: tuple[Path, ...]) -> None:
    found = summarize(built.layers)
    console.print(engine_line(request.target, built), markup=False, soft_wrap=True)
    for line in built.log:
        console.print(f"  builder: {line}", markup=False, soft_wrap=True)
    if request.precision in QUANTIZED_PRECISIONS and found.float_products:
        console.print(f"  in float: {', '.join(found.float_products)}", markup=False, soft_wrap=True)
    for file in (built.file, *beside):
        console.print(f"wrote {file}", markup=False, soft_wrap=True)
