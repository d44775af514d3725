"""One number, or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.models.interface import Shape
from pipeline.tasks.labels import class_names
from pipeline.tasks.task import Arrays, Outputs, Statistics, SummedTask

if TYPE_CHECKING:
    from torch import Tensor

VALUES = "values"


@final
class Regression(SummedTask):
    """Values (batch, quantities), labels of the same shape, float32.

    The metric is the share of the labels' variance that is explained (R squared), averaged over the quantities;
    below 0 where the labels' mean would have been a better answer.
    """

    name: ClassVar[str] = "regression"
    metric: ClassVar[str] = "variance explained"
    outputs: ClassVar[tuple[str, ...]] = (VALUES,)
    has_logits: ClassVar[bool] = False

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if labels.ndim not in (1, 2) or labels.dtype.kind not in "uif" or len(labels) != samples or labels.size == 0:
            raise DataRejected(
                f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected numbers of shape "
                f"({samples},) or ({samples}, quantities)"
            )
        values = labels.reshape(samples, -1).astype(np.float32)
        if len(broken := np.flatnonzero(~np.isfinite(values).all(axis=1))):
            raise DataRejected(f"{where}: the label of sample {broken[0]} is NaN or infinite in float32; mend it")
        if len(constant := np.flatnonzero(values.std(axis=0) == 0)) and samples > 1:
            raise DataRejected(
                f"{where}: quantity {constant[0]} is the same for every sample; there is nothing to learn"
            )
        known = tuple(str(index) for index in range(values.shape[1])) if names is None else class_names(names, where)
        if len(known) != values.shape[1]:
            raise DataRejected(f"{where}: labels have {values.shape[1]} quantities and {len(known)} are named")
        return values, known

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        del inputs
        return {VALUES: (classes,)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        del weights  # there are no classes
        from torch.nn.functional import mse_loss

        return mse_loss(outputs[VALUES], labels.to(outputs[VALUES].dtype))

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        wanted = labels.astype(np.float64)
        found = outputs[VALUES].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            errors = (found - wanted) ** 2
        # What is not finite is as wrong as can be said in numbers.
        errors = np.where(np.isfinite(errors), errors, float(np.finfo(np.float32).max))
        return np.concatenate([np.ones((len(wanted), 1)), wanted, wanted**2, errors], axis=1)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        quantities = (sums.shape[-1] - 1) // 3
        count, rest = sums[..., :1], sums[..., 1:]
        total, squares, errors = (rest[..., k * quantities : (k + 1) * quantities] for k in range(3))
        spread = squares - total**2 / np.maximum(count, 1)
        # Labels without spread, which a resample may draw, are explained by nothing.
        explained = 1 - np.divide(errors, spread, out=np.ones_like(errors), where=spread > 0)
        result: NDArray[np.float64] = explained.mean(axis=-1)
        return result

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        del labels, classes
        return 0.0
