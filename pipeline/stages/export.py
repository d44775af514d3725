"""The student as one ONNX file that computes what the network did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from engines.base import BATCH
from pipeline.artifact import Artifact, Artifacts, Graph, Splits, Student
from pipeline.context import Context
from pipeline.data.dataset import open_dataset, read_interface
from pipeline.errors import NotAcceptable, RecipeError
from pipeline.exporting.exporter import exported, source_modules, strip_metadata
from pipeline.exporting.parity import ReferenceSession, Tolerance, require_parity
from pipeline.exporting.parity_check import ParityCheck
from pipeline.files import atomic
from pipeline.models.interface import Interface
from pipeline.models.weights import load_network
from pipeline.names import checked_distinct, unknown
from pipeline.process.torch_state import set_up_torch
from pipeline.stage import Stage

if TYPE_CHECKING:
    import onnx


class Parity(BaseModel):
    """How far the graph may be from the network, and on which batches that is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    batches: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(checked_distinct)] = (1, 8)


def _checked_dynamic(axes: tuple[str, ...]) -> tuple[str, ...]:
    if BATCH not in axes:
        raise ValueError(f"'{BATCH}' is always dynamic; add it")
    for name in axes:
        if not name.isidentifier():
            raise ValueError(f"{name!r} names no dimension of an ONNX graph; call the axis a word, such as length")
    return axes


@final
class Export(Stage):
    """`[export]`."""

    name: ClassVar[str] = "export"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Student)
    makes: ClassVar[type[Artifact]] = Graph
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")

    opset: Annotated[int, Field(ge=18, le=23)] = 18
    """What the exporter truly writes: 18 to 23."""
    dynamic: Annotated[
        tuple[str, ...], Field(min_length=1), AfterValidator(checked_distinct), AfterValidator(_checked_dynamic)
    ] = (BATCH,)
    """Axes whose size the graph leaves open: the batch, and axes of the inputs by name."""
    parity: Parity = Parity()

    def rehearse(self, made: Artifacts, context: Context) -> None:
        self._require_axes(read_interface(made[Splits], context))

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        network = load_network(inputs[Student], "student.safetensors", context)
        interface = Interface.from_json(inputs[Student].json("model.json")["interface"])
        self._require_axes(interface)
        model = exported(network, interface, context.task.outputs, self.opset, self.dynamic)
        context.cancellation.check()
        atomic.write_json(target / "modules.json", source_modules(model))
        strip_metadata(model)
        _check(model)
        atomic.write_bytes(target / "model.onnx", model.SerializeToString(deterministic=True))
        tolerance = Tolerance(self.parity.atol, self.parity.rtol)
        reference = ReferenceSession(target / "model.onnx", context.threads)
        check = ParityCheck(network, interface, context.task.outputs, self.dynamic, reference, tolerance)
        results = list(check.results(self._real(inputs[Splits], context), context.seed))
        require_parity(results, tolerance)
        atomic.write_json(target / "parity.json", [asdict(result) for result in results])
        worst = max(result.max_abs_error for result in results)
        context.say(f"export: opset {self.opset}, {len(model.graph.node)} nodes, largest difference {worst:.2g}")

    def _require_axes(self, interface: Interface) -> None:
        """Which axes there are is known only once the data is."""
        for name in self.dynamic:
            if name not in (known := (BATCH, *interface.axes())):
                raise RecipeError(f"[export] dynamic: {unknown('axis', name, known)}")

    def _real(self, splits: Splits, context: Context) -> list[dict[str, NDArray[Any]]]:
        """A batch of each size; a split of fewer samples than the batch is repeated."""
        dataset = open_dataset(splits, context)
        validation = dataset.indices("validation")
        return [dataset.inputs(np.resize(validation, size)) for size in self.parity.batches]


def _check(model: onnx.ModelProto) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotAcceptable(f"the exporter wrote a graph that ONNX's checker refuses: {error}") from error
