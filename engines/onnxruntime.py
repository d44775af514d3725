"""onnxruntime: on a CPU the reference, and the default engine where there is no GPU; on one by request."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from engines import cuda
from engines.base import PRECISIONS, BuiltEngine, Engine, Session, StepDone, Target
from engines.errors import BuildCancelled, BuildFailed, EngineError, RuntimeMissing
from engines.execution_provider import NAMES, NEVER_BUILDS, provider_list, require_provider, why_no_provider
from engines.files import replacing, verified_bytes
from engines.onnxruntime_session import OnnxRuntimeSession, imported, inference_session, reason, tensor_info
from engines.optimized_graph import expose_tensors, realized_layers
from engines.run_options import GRAPH_OPTIMIZATIONS

if TYPE_CHECKING:
    from onnx import ModelProto

    from engines.audit import RealizedLayer

# The file is saved at EXTENDED, because what ALL saves differs between processes. A session loads it at ALL: the
# blocked (NCHWc) layout that only ALL brings makes FP32 convolutions 1.4 to 2.2 times faster and INT8 ones up to 1.15
# times, so without it INT8 would be compared with a handicapped opponent.
FILE_OPTIMIZATION = "extended"
LARGEST_GRAPH_BYTES = (1 << 31) - (64 << 20)
"""Of weights in one file."""
# What EXTENDED fuses is for the CPU's kernels, which other providers lack.
PORTABLE_OPTIMIZATION = "basic"
_PRECISION = "edgestill.precision"
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


@final
class OnnxRuntime(Engine):
    runtime: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".onnx"
    family: ClassVar[str] = "cpu"
    for_gpu: ClassVar[bool] = False
    never_builds: ClassVar[Mapping[str, str]] = NEVER_BUILDS["cpu"]

    def versions(self) -> dict[str, str]:
        version = _version()
        return {} if version is None else {"onnxruntime": version}

    def family_of(self, target: Target) -> str:
        return self.family if target.running.provider == "cpu" else "tensorrt"

    def why_refused(self, target: Target) -> str | None:
        refusals = (_refused(precision, target) for precision in target.precisions)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def why_not_build(self, target: Target) -> str | None:
        return self.why_refused(target) or _missing("onnxruntime", "onnx")

    def why_not_run(self, target: Target) -> str | None:
        provider = target.running.provider
        if (missing := _missing("onnxruntime")) is not None or provider == "cpu":
            return missing
        return why_no_provider(imported(), provider) or cuda.why_no_gpu()

    def build(
        self,
        graph: Path,
        precision: str,
        target: Target,
        to: Path,
        on_step: StepDone | None = None,
        ranges: Path | None = None,
    ) -> BuiltEngine:
        to.unlink(missing_ok=True)
        if ranges is not None or target.takes_ranges(precision):
            raise BuildFailed("onnxruntime takes no ranges beside a graph: give it the Q/DQ graph of the calibration")
        if (refusal := _refused(precision, target)) is not None:
            raise BuildFailed(refusal)
        _require("onnxruntime", "onnx")
        started = time.perf_counter()
        _go_on(on_step, graph, "optimize", 0)
        source = _loaded(graph)
        settings = _settings(target)
        if target.running.provider != "cpu":  # its sessions have to know what to switch on
            source.metadata_props.add(key=_PRECISION, value=precision)
        with replacing(to) as partial:
            _optimize(graph, source, partial, settings["file_optimization"])
            _go_on(on_step, graph, "audit", 1)
            layers = _audited(graph, source, partial)
            _go_on(on_step, graph, "save", 2)
            data = partial.read_bytes()
        return BuiltEngine(
            file=to,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            seconds=time.perf_counter() - started,
            layers=layers,
            versions=self.versions(),
            settings=settings,
        )

    def open(self, engine: Path, sha256: str, target: Target) -> Session:
        _require("onnxruntime")
        data = verified_bytes(engine, sha256)
        running = target.running
        if (missing := self.why_not_run(target)) is not None:
            raise RuntimeMissing(f"{engine}: {missing}")
        try:
            wanted = provider_list(running.provider, _precision_of(data, running.provider))
            session = inference_session(data, running.graph_optimization, target.threads, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions share no class of their own
            raise EngineError(
                f"{engine}: onnxruntime {_version()} does not load it ({reason(error)}); build it with this version"
            ) from error
        try:
            require_provider(session, running.provider)
        except EngineError as error:
            raise EngineError(f"{engine}: {error}") from error
        return OnnxRuntimeSession(session, engine, on_gpu=running.provider != "cpu")


def _precision_of(data: bytes, provider: str) -> str:
    """As the build wrote it into the file; a CPU has nothing to switch on."""
    if provider == "cpu":
        return ""
    metadata = inference_session(data, "disabled", 1).get_modelmeta().custom_metadata_map
    return str(metadata.get(_PRECISION, "fp32"))


def _settings(target: Target) -> dict[str, Any]:
    provider, level = target.running.provider, target.running.graph_optimization
    most = FILE_OPTIMIZATION if provider == "cpu" else PORTABLE_OPTIMIZATION
    return {
        "provider": NAMES[provider],
        "file_optimization": min(level, most, key=GRAPH_OPTIMIZATIONS.index),
        "session_optimization": level,
        "threads": target.threads,
        "inter_op_threads": 1,
        "execution": "sequential",
    }


def _loaded(graph: Path) -> ModelProto:
    """With the weights that lie in other files: given a path, onnxruntime would only refer to them again."""
    import onnx

    try:
        model = onnx.load(graph)
    except Exception as error:  # what a damaged protobuf raises is not part of onnx's interface
        raise BuildFailed(f"{graph}: is no readable ONNX file ({reason(error)}); export it again") from error
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST_GRAPH_BYTES:
        raise BuildFailed(
            f"{graph}: its weights take 2 GB or more, and an engine of onnxruntime is one file, which has no room for "
            "them; onnxruntime runs the graph as it is, and its INT8 graph may fit"
        )
    return model


def _optimize(graph: Path, source: ModelProto, to: Path, level: str) -> None:
    try:
        inference_session(source.SerializeToString(), level, 1, save_to=to)
    except Exception as error:  # onnxruntime's exceptions share no class of their own
        if shutil.disk_usage(to.parent).free < graph.stat().st_size:  # it says "Protobuf serialization failed"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to)) from error
        raise BuildFailed(f"{graph}: onnxruntime {_version()} refuses it: {reason(error)}") from error


def _audited(graph: Path, source: ModelProto, optimized: Path) -> tuple[RealizedLayer, ...]:
    """onnxruntime itself tells the types: its own operators end ONNX's shape inference."""
    import onnx

    model, exposed = onnx.load(optimized), onnx.load(optimized)
    expose_tensors(exposed)
    try:
        session = inference_session(exposed.SerializeToString(), "disabled", 1)
    except Exception as error:  # onnxruntime's exceptions share no class of their own
        raise BuildFailed(
            f"{graph}: what onnxruntime {_version()} made of it does not load: {reason(error)}"
        ) from error
    infos = [tensor_info(node) for node in (*session.get_inputs(), *session.get_outputs())]
    return realized_layers(model, {info.name: (info.dtype, info.shape) for info in infos}, source)


def _missing(*modules: str) -> str | None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install {module}"
    return None


def _require(*modules: str) -> None:
    if missing := _missing(*modules):
        raise RuntimeMissing(missing)
    try:
        imported()
    except ImportError as error:
        raise RuntimeMissing(f"onnxruntime is installed but does not import ({error}); install it again") from error


def _version() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    for distribution in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(imported().__version__)


def _go_on(on_step: StepDone | None, graph: Path, phase: str, done: int) -> None:
    if on_step is not None and not on_step(phase, done, 3):
        raise BuildCancelled(f"{graph}: building it was cancelled before it was done ({phase})")


def _refused(precision: str, target: Target) -> str | None:
    """Why a precision is built for no machine; None where it is."""
    never = NEVER_BUILDS[target.running.provider]
    if precision in never:
        return f"{never[precision]}; take '{precision}' out of its precisions"
    if precision not in PRECISIONS:
        known = ", ".join(name for name in PRECISIONS if name not in never)
        return f"precision {precision!r} is unknown; choose from {known}"
    return None
