"""TensorRT and TensorRT-RTX as engines: what they need of this machine, build and open."""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, final

from engines import cuda
from engines.audit import Kind, RealizedLayer
from engines.base import PRECISIONS, BuiltEngine, Engine, Session, StepDone, Target
from engines.compatibility import facts_of, will_load
from engines.device import this_device
from engines.errors import BuildFailed, EngineError, RuntimeMissing
from engines.files import replacing, verified_bytes
from engines.packages import how_to_get_tensorrt, how_to_get_tensorrt_rtx
from engines.plan import plan_header
from engines.run_options import RunOptions
from engines.tensorrt.build import compile_graph
from engines.tensorrt.inspector import inspected_layers
from engines.tensorrt.layers import UnreadableLayers
from engines.tensorrt.loading import load_plan
from engines.tensorrt.module import RuntimeModule, count_dla_cores, known_compute_capabilities
from engines.tensorrt.range_table import RangeTable
from engines.tensorrt.refusals import computes_bfloat16, multiplies_fp8, what_rtx_refuses, what_tensorrt_refuses
from engines.tensorrt.session import open_session


class TensorRTEngine(Engine):
    """What both runtimes share, which is everything but where they build, and for what."""

    suffix: ClassVar[str] = ".plan"
    for_gpu: ClassVar[bool] = True
    builds_apart: ClassVar[bool] = True
    module: ClassVar[RuntimeModule]

    def versions(self) -> dict[str, str]:
        version = self.module.version()
        return {} if version is None else {self.module.name: version}

    @abstractmethod
    def _missing(self) -> str | None:
        """What this machine lacks to build at all, and how to get it."""

    def _built_elsewhere(self, target: Target) -> str | None:  # noqa: ARG002 the runtime that needs the GPU uses it
        """Why the target's engines need another machine."""
        return None

    def why_not_build(self, target: Target) -> str | None:
        return self._missing() or self._built_elsewhere(target) or self.why_refused(target)

    def why_not_run(self, target: Target) -> str | None:
        no_gpu = self.module.why_missing() or cuda.why_no_gpu()
        return no_gpu or _built_for_others(target) or cuda.why_no_adapter()

    def build(
        self,
        graph: Path,
        precision: str,
        target: Target,
        to: Path,
        on_step: StepDone | None = None,
        ranges: Path | None = None,
    ) -> BuiltEngine:
        """Also raises OSError where the plan cannot be written, and what `on_step` raises."""
        started = time.perf_counter()
        to.unlink(missing_ok=True)
        if precision not in PRECISIONS:
            raise BuildFailed(f"precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
        if problem := self.why_not_build(target):
            raise RuntimeMissing(problem) if self._missing() else BuildFailed(problem)
        table = _checked_table(ranges, graph, precision, target)
        compiled = compile_graph(self.module.load(), graph, precision, target, on_step, table)
        with replacing(to) as partial:
            partial.write_bytes(compiled.plan)
        return BuiltEngine(
            file=to,
            bytes=len(compiled.plan),
            sha256=hashlib.sha256(compiled.plan).hexdigest(),
            seconds=time.perf_counter() - started,
            layers=compiled.layers,
            versions=self.versions(),
            settings=compiled.settings,
            log=compiled.log,
        )

    def open(self, engine: Path, sha256: str, target: Target) -> Session:
        plan = self._loadable(engine, sha256, target)
        return open_session(self.module.load(), cuda.open_cuda(), plan, engine, target.running)

    def inspect(
        self, engine: Path, sha256: str, target: Target, products: Mapping[str, Kind] | None = None
    ) -> tuple[RealizedLayer, ...]:
        """The realized layers of an engine whose builder's log is not at hand, as TensorRT tells them on a GPU.

        `products` as in `inspected_layers`. Raises as `open` does, and EngineError where they cannot be read.
        """
        plan, trt = self._loadable(engine, sha256, target), self.module.load()
        loaded = load_plan(trt, plan, engine, RunOptions())
        try:
            return inspected_layers(trt, loaded.engine, products or {})
        except UnreadableLayers as error:
            raise EngineError(
                f"{engine}: what {trt.__name__} {trt.__version__} tells of its layers is not readable: {error}"
            ) from error

    def _loadable(self, engine: Path, sha256: str, target: Target) -> bytes:
        """Deserializing a plan runs its code: nothing gets there but the recorded bytes, that will load here."""
        plan = verified_bytes(engine, sha256)
        header = plan_header(plan, engine)
        if missing := self.why_not_run(target):
            raise RuntimeMissing(f"{engine}: {missing}")
        found = will_load(facts_of(header, target), this_device({self.runtime: self.module.version() or ""}))
        if found.verdict == "no":
            raise RuntimeMissing(f"{engine}: does not load here: {'; '.join(found.reasons)}")
        return plan


@final
class TensorRT(TensorRTEngine):
    """TensorRT 10.3 and newer: builds on the GPU that it builds for."""

    runtime: ClassVar[str] = "tensorrt"
    family: ClassVar[str] = "tensorrt"
    times_tactics: ClassVar[bool] = True
    module: ClassVar[RuntimeModule] = RuntimeModule("tensorrt", how_to_get_tensorrt)

    def dla_cores(self) -> int | None:
        """Of this machine; None where there is no GPU or no TensorRT to tell."""
        return None if self._missing() is not None else count_dla_cores(self.module.load())

    def family_of(self, target: Target) -> str:
        return "tensorrt" if target.builder.dla_core is None else "tensorrt-dla"

    def why_refused(self, target: Target) -> str | None:
        return what_tensorrt_refuses(target, self.module.version())

    def _missing(self) -> str | None:
        return self.module.why_missing() or cuda.why_no_gpu()

    def _built_elsewhere(self, target: Target) -> str | None:
        here = cuda.compute_capability()
        if "fp8" in target.precisions and here is not None and not multiplies_fp8(here):
            return (
                f"the GPU here has compute capability {here}, and FP8 begins with 8.9; take 'fp8' out of its precisions"
            )
        if "bf16" in target.precisions and here is not None and not computes_bfloat16(here):
            return (
                f"the GPU here has compute capability {here}, and BF16 begins with 8.0; "
                "take 'bf16' out of its precisions"
            )
        others = [capability for capability in target.compute_capabilities if capability != here]
        if not others:
            return None
        return (
            f"TensorRT builds for the GPU at hand alone ({here}), not for {', '.join(others)}; "
            "build it on such a machine, or use tensorrt-rtx"
        )


@final
class TensorRTRTX(TensorRTEngine):
    """TensorRT-RTX: builds anywhere, for GPUs that need not be there."""

    runtime: ClassVar[str] = "tensorrt-rtx"
    family: ClassVar[str] = "tensorrt-rtx"
    module: ClassVar[RuntimeModule] = RuntimeModule("tensorrt_rtx", how_to_get_tensorrt_rtx)

    def _missing(self) -> str | None:
        return self.module.why_missing()

    def why_refused(self, target: Target) -> str | None:
        if (refused := what_rtx_refuses(target)) is not None or self._missing() is not None:
            return refused
        known = known_compute_capabilities(self.module.load())
        unknown = [capability for capability in target.compute_capabilities if capability not in known]
        if unknown:
            return (
                f"TensorRT-RTX {self.module.version()} does not build for compute capability {', '.join(unknown)}; "
                f"choose from {', '.join(known)}, or name none for a portable engine"
            )
        return None


def _checked_table(ranges: Path | None, graph: Path, precision: str, target: Target) -> RangeTable | None:
    """The table of ranges of the graph, where the target takes one; raises BuildFailed and EngineDamaged."""
    if not target.takes_ranges(precision):
        if ranges is not None:
            raise BuildFailed(
                f'{ranges}: ranges are for INT8 of a target with int8 = "ranges", and {target.name} builds '
                f"{precision} from the graph alone; leave them out"
            )
        return None
    if ranges is None:
        raise BuildFailed(
            f"{graph}: target {target.name} builds {precision} with ranges beside the FP32 graph, and got none; give "
            "the table that calibration writes with it"
        )
    table = RangeTable.load(ranges)
    table.check_graph(graph)
    return table


def _built_for_others(target: Target) -> str | None:
    here = cuda.compute_capability()
    if not target.compute_capabilities or here in target.compute_capabilities:
        return None
    return f"its engines are built for {', '.join(target.compute_capabilities)}, and the GPU here is {here}"
