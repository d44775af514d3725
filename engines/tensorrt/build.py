"""Compiles an ONNX file: network, profile, settings, plan, and the evidence of what was built."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import cuda
from engines.audit import RealizedLayer
from engines.base import StepDone, Target
from engines.errors import BuildCancelled, BuildFailed
from engines.run_options import RunOptions
from engines.tensorrt.api import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    INetworkDefinition,
    Module,
    OnnxParser,
)
from engines.tensorrt.inspector import inspected_layers
from engines.tensorrt.layers import HEADING, UnreadableLayers, product_nodes, realized_layers
from engines.tensorrt.loading import load_plan
from engines.tensorrt.log import Recorder, captured_stderr, readable, recording
from engines.tensorrt.profile import add_profiles
from engines.tensorrt.progress import progress_monitor
from engines.tensorrt.range_table import RangeTable
from engines.tensorrt.ranges import bind_ranges, require_implicit_int8
from engines.tensorrt.refused_graph import complaint, with_advice
from engines.tensorrt.settings import configure
from engines.tensorrt.timing_cache import keep_timing_cache, take_timing_cache, timing_cache_file

# File descriptor 2 and TensorRT's logger belong to the process.
_ONE_BUILD_AT_A_TIME = threading.Lock()

# Warnings after which the engine is not the one that was asked for.
BROKEN_PROMISES = (
    (
        re.compile(r"UINT8 zero_point.*Defaulting to INT8"),
        "it quantizes to UINT8, which TensorRT would take for INT8 and clip at half the range; calibrate for the "
        "family of this runtime: signed, symmetric, zero-point 0",
    ),
)
IMPOSSIBLE_SIZES = re.compile(
    r"Profile k(?P<bound>MIN|OPT|MAX) values are not self-consistent\. (?P<why>.*?)(?:\s*Instruction: .*)?$", re.DOTALL
)


@dataclass(frozen=True)
class Compiled:
    """A plan in memory."""

    plan: bytes
    layers: tuple[RealizedLayer, ...]
    settings: dict[str, Any]
    log: tuple[str, ...]


def compile_graph(
    trt: Module,
    graph: Path,
    precision: str,
    target: Target,
    on_step: StepDone | None,
    table: RangeTable | None = None,
) -> Compiled:
    """With a table of the graph's ranges INT8 is implicit, without one the graph alone says what is what.

    Raises BuildFailed or BuildCancelled; what `on_step` raises comes out as it is.
    """
    if not graph.is_file():
        raise BuildFailed(f"{graph}: there is no such file to build from")
    with _ONE_BUILD_AT_A_TIME, recording(trt) as (logger, recorder):
        builder: Builder = trt.Builder(logger)
        network = _empty_network(trt, builder, strongly_typed=table is None)
        # The weights that it reads belong to the parser: it lives as long as the network.
        parser: OnnxParser = trt.OnnxParser(network, logger)
        _parse(parser, network, graph, recorder)
        config: IBuilderConfig = builder.create_builder_config()
        settings = configure(trt, builder, config, graph, precision, target)
        settings |= _bound(trt, network, graph, table)
        profiles = add_profiles(builder, network, config, graph, target)
        settings["profiles"] = tuple(profile.sizes for profile in profiles)
        settings["shapes"] = tuple(profile.shapes for profile in profiles)
        named = target.builder.timing_cache
        timing_cache = None if named is None else timing_cache_file(trt, named)
        if timing_cache is not None:
            taken = take_timing_cache(trt, config, timing_cache, target.builder.reproducible)
            settings["timing_cache_sha256"] = taken
        config.progress_monitor = progress_monitor(trt, on_step, recorder)
        with captured_stderr() as past_the_logger:
            plan: IHostMemory = builder.build_serialized_network(network, config)
        _require_success(plan, graph, recorder, past_the_logger)
        _require_sizes_taken(graph, recorder)
        if timing_cache is not None and not target.builder.reproducible:
            keep_timing_cache(config, timing_cache)
        layers = _evidence(trt, network, bytes(plan), graph, recorder)
        log = (*(readable(line) for line in recorder.warnings()), *past_the_logger)
        return Compiled(bytes(plan), layers, settings, log)


def _empty_network(trt: Module, builder: Builder, strongly_typed: bool) -> INetworkDefinition:
    if not strongly_typed:
        require_implicit_int8(trt)
        explicit_batch = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
        weakly_typed: INetworkDefinition = builder.create_network(1 << int(explicit_batch))
        return weakly_typed
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network: INetworkDefinition = builder.create_network(1 << int(flag))
    if not network.get_flag(flag):
        raise BuildFailed("this TensorRT did not make a strongly typed network; edgestill needs TensorRT 10.3 or newer")
    return network


def _bound(trt: Module, network: INetworkDefinition, graph: Path, table: RangeTable | None) -> dict[str, Any]:
    """What the network's types come from; with a table the network has its ranges afterwards."""
    typed = bool(network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if table is None:
        return {"strongly_typed": typed}
    if typed:  # it would obey the graph's types and ignore every range
        raise BuildFailed(f"{graph}: this TensorRT made a strongly typed network, in which ranges mean nothing")
    try:
        coverage = bind_ranges(trt, network, table)
    except BuildFailed as error:
        raise BuildFailed(f"{graph}: {error}") from error
    return {"strongly_typed": typed, "ranges": {**table.origin(), **coverage.to_json()}}


def _parse(parser: OnnxParser, network: INetworkDefinition, graph: Path, recorder: Recorder) -> None:
    # From the file, so that weights beside it are found.
    parsed = parser.parse_from_file(str(graph))
    complaints = [complaint(parser.get_error(index)) for index in range(parser.num_errors)]
    if not parsed or complaints:
        said = complaints or [readable(line) for line in recorder.errors()]
        raise BuildFailed(f"{graph}: TensorRT's parser refuses it: {with_advice(said)}")
    if network.num_outputs == 0:  # what it takes a file of noise for
        raise BuildFailed(f"{graph}: there is no network in it; is it an ONNX file?")
    for pattern, meaning in BROKEN_PROMISES:
        if any(pattern.search(line) for line in recorder.warnings()):
            raise BuildFailed(f"{graph}: {meaning}")


def _require_success(plan: IHostMemory, graph: Path, recorder: Recorder, past_the_logger: list[str]) -> None:
    if recorder.interruption is not None:
        raise recorder.interruption
    if recorder.cancelled:
        raise BuildCancelled(f"{graph}: the build was cancelled; nothing was written")
    errors = [readable(line) for line in recorder.errors()]
    if plan is not None and not errors:
        return
    said = [*errors, *map(readable, past_the_logger)]
    raise BuildFailed(f"{graph}: TensorRT's builder failed: {with_advice(said)}")


def _require_sizes_taken(graph: Path, recorder: Recorder) -> None:
    """TensorRT builds for sizes at which the network cannot run, and only warns of it."""
    for line in recorder.warnings():
        if (found := IMPOSSIBLE_SIZES.search(line)) is not None:
            raise BuildFailed(
                f"{graph}: the network does not run at the {found['bound'].lower()} sizes of the target "
                f"({readable(found['why'])}); choose others for its batch and axes"
            )


def _evidence(
    trt: Module, network: INetworkDefinition, plan: bytes, graph: Path, recorder: Recorder
) -> tuple[RealizedLayer, ...]:
    """From the builder's log, else from the plan on a GPU: an engine of which nobody can say what was built failed."""
    message, products = recorder.last_starting_with(HEADING), product_nodes(trt, network)
    try:
        if message is not None:
            return realized_layers(message, products)
        if cuda.why_no_gpu() is None:
            return inspected_layers(trt, load_plan(trt, plan, graph, RunOptions()).engine, products)
    except UnreadableLayers as error:
        raise BuildFailed(
            f"{graph}: built, but the list of its layers in {trt.__name__} {trt.__version__}'s log is not readable "
            f"({error}), so nothing shows what runs in INT8; please report this with the version"
        ) from error
    raise BuildFailed(
        f"{graph}: built, but TensorRT's log did not list its layers, so nothing shows what runs in INT8. "
        "Another TensorRT logger of this process may be in use: build in a process of its own"
    )
