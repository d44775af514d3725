"""The student as one ONNX file that computes what the network did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from pipeline import atomic
from pipeline.artifact import Artifact, Artifacts, Graph, Splits, Student
from pipeline.context import Context
from pipeline.data import open_dataset
from pipeline.distillation.trainer import set_up_torch
from pipeline.errors import NotAcceptable
from pipeline.exporter import INPUT, exported, source_modules, strip_metadata
from pipeline.names import checked_distinct
from pipeline.parity import OutputParity, ReferenceSession, Tolerance, compare, require_parity
from pipeline.stage import Stage
from pipeline.weights import load_network

if TYPE_CHECKING:
    import onnx
    from torch import nn


class Parity(BaseModel):
    """How far the graph may be from the network, and on which batches that is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    batches: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(checked_distinct)] = (1, 8)


@final
class Export(Stage):
    """`[export]`."""

    name: ClassVar[str] = "export"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[type[Artifact], ...]] = (Splits, Student)
    makes: ClassVar[type[Artifact]] = Graph
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")

    opset: Annotated[int, Field(ge=18, le=23)] = 18
    """What the exporter truly writes: 18 to 23."""
    parity: Parity = Parity()

    def run(self, inputs: Artifacts, target: Path, context: Context) -> None:
        set_up_torch(context)
        network = load_network(inputs[Student], "student.safetensors", context)
        shape = inputs[Student].json("model.json")["shape"]
        model = exported(network, shape, context.task.outputs, self.opset)
        context.cancellation.check()
        atomic.write_json(target / "modules.json", source_modules(model))
        strip_metadata(model)
        _check(model)
        atomic.write_bytes(target / "model.onnx", model.SerializeToString(deterministic=True))
        results = self._parity(network, target / "model.onnx", inputs[Splits], context)
        require_parity(results, Tolerance(self.parity.atol, self.parity.rtol))
        atomic.write_json(target / "parity.json", [asdict(result) for result in results])
        worst = max(result.max_abs_error for result in results)
        context.say(f"export: opset {self.opset}, {len(model.graph.node)} nodes, largest difference {worst:.2g}")

    def _parity(self, network: nn.Module, graph: Path, splits: Splits, context: Context) -> list[OutputParity]:
        dataset = open_dataset(splits, context.recipe_folder)
        real = dataset.indices("validation")
        random = np.random.default_rng(context.seed)
        reference = ReferenceSession(graph, context.threads)
        results = []
        for size in self.parity.batches:
            # A split of fewer images than the batch is repeated.
            images = {"real": dataset.images(np.resize(real, size))}
            images["random"] = random.standard_normal((size, *dataset.shape)).astype(np.float32)
            for kind, batch in images.items():
                results += self._parity_on(network, reference, batch, kind, context)
        return results

    def _parity_on(
        self, network: nn.Module, reference: ReferenceSession, batch: NDArray[np.float32], kind: str, context: Context
    ) -> list[OutputParity]:
        import torch

        with torch.inference_mode():
            expected = {context.task.outputs[0]: network(torch.from_numpy(batch)).numpy()}
        found = reference.run({INPUT: batch})
        tolerance = Tolerance(self.parity.atol, self.parity.rtol)
        return [
            OutputParity(
                kind,
                len(batch),
                name,
                *compare(expected[name], found[name], tolerance),
                expected[name].shape,
                found[name].shape,
            )
            for name in context.task.outputs
        ]


def _check(model: onnx.ModelProto) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotAcceptable(f"the exporter wrote a graph that ONNX's checker refuses: {error}") from error
