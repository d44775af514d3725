"""onnxruntime on a CPU: the reference, and the default engine where there is no GPU."""

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

from engines.base import (
    BuildCancelled,
    BuildFailed,
    BuiltEngine,
    Engine,
    EngineError,
    RuntimeMissing,
    Session,
    StepDone,
    Target,
    verified_bytes,
)
from engines.files import replacing
from engines.onnxruntime_session import PROVIDER, OnnxRuntimeSession, imported, inference_session, reason, tensor_info
from engines.optimized_graph import expose_tensors, realized_layers

if TYPE_CHECKING:
    from onnx import ModelProto

    from engines.audit import RealizedLayer

# The file is saved at EXTENDED, because what ALL saves differs between processes. A session loads it at ALL: the
# blocked (NCHWc) layout that only ALL brings makes FP32 convolutions 1.4 to 2.2 times faster and INT8 ones up to 1.15
# times, so without it INT8 would be compared with a handicapped opponent.
FILE_OPTIMIZATION = "extended"
SESSION_OPTIMIZATION = "all"
LARGEST_GRAPH_BYTES = (1 << 31) - (64 << 20)
"""Of weights in one file."""
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


@final
class OnnxRuntime(Engine):
    runtime: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".onnx"
    family: ClassVar[str] = "cpu"
    for_gpu: ClassVar[bool] = False
    never_builds: ClassVar[Mapping[str, str]] = {
        "tf32": "a CPU has no TF32",
        "fp16": "onnxruntime on a CPU computes FP16 in FP32 between casts, which is slower than FP32",
        "int8+fp16": "onnxruntime on a CPU fuses Q/DQ pairs of float32 alone; its int8 has FP32 beside",
        "fp8": "onnxruntime on a CPU multiplies no FP8",
    }

    def versions(self) -> dict[str, str]:
        version = _version()
        return {} if version is None else {"onnxruntime": version}

    def why_not_build(self, target: Target) -> str | None:
        for precision in target.precisions:
            if precision in self.never_builds:
                return _refused(precision)
        return _missing("onnxruntime", "onnx")

    def why_not_run(self, target: Target) -> str | None:
        del target  # a CPU is everywhere
        return _missing("onnxruntime")

    def build(
        self, graph: Path, precision: str, target: Target, to: Path, on_step: StepDone | None = None
    ) -> BuiltEngine:
        to.unlink(missing_ok=True)
        if precision not in ("fp32", "int8"):
            raise BuildFailed(_refused(precision) if precision in self.never_builds else _unknown_precision(precision))
        _require("onnxruntime", "onnx")
        started = time.perf_counter()
        _go_on(on_step, graph, "optimize", 0)
        source = _loaded(graph)
        with replacing(to) as partial:
            _optimize(graph, source, partial)
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
            settings=_settings(target),
        )

    def open(self, engine: Path, sha256: str, target: Target) -> Session:
        _require("onnxruntime")
        data = verified_bytes(engine, sha256)
        try:
            session = inference_session(data, SESSION_OPTIMIZATION, target.threads)
        except Exception as error:
            raise EngineError(
                f"{engine}: onnxruntime {_version()} does not load it ({reason(error)}); build it with this version"
            ) from error
        if session.get_providers() != [PROVIDER]:
            raise EngineError(f"{engine}: runs on {session.get_providers()}, asked for was {PROVIDER} alone")
        return OnnxRuntimeSession(session, engine)


def _settings(target: Target) -> dict[str, Any]:
    return {
        "provider": PROVIDER,
        "file_optimization": FILE_OPTIMIZATION,
        "session_optimization": SESSION_OPTIMIZATION,
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


def _optimize(graph: Path, source: ModelProto, to: Path) -> None:
    try:
        inference_session(source.SerializeToString(), FILE_OPTIMIZATION, 1, save_to=to)
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
    except Exception as error:
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


def _refused(precision: str) -> str:
    return f"{OnnxRuntime.never_builds[precision]}; take '{precision}' out of its precisions"


def _unknown_precision(precision: str) -> str:
    return f"precision {precision!r} is unknown; choose from fp32, int8"
