"""One class of several: for a sample, or for each token of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.models.interface import MASK, Shape
from pipeline.tasks.labels import checked_labels, class_names
from pipeline.tasks.task import Arrays, Outputs, Statistics, SummedTask

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -1
"""A token that carries no label: padding, and what the metric leaves out."""
LOGITS = "logits"


def right(logits: NDArray[Any], labels: NDArray[Any], axis: int) -> NDArray[np.bool_]:
    """Where the largest logit along the axis is the label's; one that is not finite makes its decision wrong."""
    # argmax would take the first NaN for the maximum.
    whole = np.isfinite(logits.astype(np.float64)).all(axis=axis)
    found: NDArray[np.bool_] = whole & np.equal(logits.argmax(axis=axis), labels)
    return found


class OneOfSeveral(SummedTask):
    """Logits of shape (batch, classes), labels of shape (batch,)."""

    metric: ClassVar[str] = "accuracy"
    outputs: ClassVar[tuple[str, ...]] = (LOGITS,)
    has_logits: ClassVar[bool] = True
    counts_samples: ClassVar[bool] = True

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        return checked_labels(labels, names, samples, where)

    def strata(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        return labels.astype(np.int64)

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        del inputs
        return {LOGITS: (classes,)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs[LOGITS], labels, weights)

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        correct = right(outputs[LOGITS], labels, axis=1)
        return np.stack([correct, np.ones_like(correct)], axis=1).astype(np.float64)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio(sums[..., 0], sums[..., 1])

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        return float(self.class_counts(labels, classes).max() / max(1, len(labels)))

    def logit_rows(self, outputs: Outputs) -> Tensor:
        return outputs[LOGITS]

    def label_rows(self, labels: Tensor) -> Tensor:
        return labels

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        return np.bincount(labels.reshape(-1), minlength=classes).astype(np.int64)


@final
class Classification(OneOfSeveral):
    """One class for each image."""

    name: ClassVar[str] = "classification"


@final
class SequenceClassification(OneOfSeveral):
    """One class for each sequence; an input named `mask` says which tokens are real."""

    name: ClassVar[str] = "sequence-classification"


@final
class TokenClassification(SummedTask):
    """One class for each token: logits (batch, length, classes), labels (batch, length), -1 where there is none."""

    name: ClassVar[str] = "token-classification"
    metric: ClassVar[str] = "token accuracy"
    outputs: ClassVar[tuple[str, ...]] = (LOGITS,)
    has_logits: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = True

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if labels.ndim != 2 or labels.dtype.kind not in "ui" or len(labels) != samples:
            raise DataRejected(
                f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; "
                f"expected integers of shape ({samples}, length), {IGNORED} where a token has no label"
            )
        classes = None if names is None else class_names(names, where)
        largest = int(labels.max(initial=0))
        limit = largest + 1 if classes is None else len(classes)
        if len(outside := np.argwhere((labels < IGNORED) | (labels >= limit))):
            sample, token = outside[0]
            raise DataRejected(
                f"{where}: token {token} of sample {sample} has label {labels[sample, token]}; "
                f"labels go from 0 to {limit - 1} here, {IGNORED} is none"
            )
        if not (labels >= 0).any():
            raise DataRejected(f"{where}: no token has a label; number the classes from 0")
        return labels.astype(np.int64), classes or tuple(str(label) for label in range(limit))

    def check_labels_fit(self, labels: NDArray[Any], inputs: Arrays, where: str) -> None:
        name, array = (MASK, inputs[MASK]) if MASK in inputs else next(iter(inputs.items()))
        if labels.shape[:2] != array.shape[:2]:
            raise DataRejected(
                f"{where}: labels have shape {labels.shape} and '{name}' {array.shape}; give each token a label, "
                f"{IGNORED} where it has none"
            )
        if MASK in inputs and len(padded := np.argwhere((labels != IGNORED) & (array == 0))):
            sample, token = padded[0]
            raise DataRejected(
                f"{where}: token {token} of sample {sample} is padding ('{MASK}' is 0) and has label "
                f"{labels[sample, token]}; write {IGNORED} there"
            )

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        shape = inputs[MASK] if MASK in inputs else next(iter(inputs.values()))
        if len(shape) not in (1, 2):
            raise ValueError("a sequence has the axes length, or length and features")
        return {LOGITS: (shape[0], classes)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return mean_cross_entropy(outputs[LOGITS].flatten(0, 1), labels.flatten(), weights, IGNORED)

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        counted = labels != IGNORED
        correct = right(outputs[LOGITS], labels, axis=2) & counted
        return np.stack([correct.sum(1), counted.sum(1)], axis=1).astype(np.float64)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio(sums[..., 0], sums[..., 1])

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        counts = self.class_counts(labels, classes)
        return float(counts.max() / max(1, counts.sum()))

    def logit_rows(self, outputs: Outputs) -> Tensor:
        return outputs[LOGITS].flatten(0, 1)

    def label_rows(self, labels: Tensor) -> Tensor:
        return labels.flatten()

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        return np.bincount(labels[labels != IGNORED], minlength=classes).astype(np.int64)


def mean_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, ignored: int) -> Tensor:
    """Over the labels that are not `ignored`, each by its class's weight; 0 where a batch has none, not 0 / 0.

    Logits (batch, classes, ...), labels (batch, ...), weights (classes,).
    """
    from torch import finfo
    from torch.nn.functional import cross_entropy

    counted = labels != ignored
    total = cross_entropy(logits, labels, weights, ignore_index=ignored, reduction="sum")
    if weights is None:
        return total / counted.sum().clamp(min=1)
    weight = (weights[labels.where(counted, 0)] * counted).sum()
    return total / weight.clamp(min=finfo(weight.dtype).tiny)


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Element by element; 0 over 0 is 0: nothing was there, nothing was right."""
    return np.divide(above, below, out=np.zeros_like(np.asarray(above, np.float64)), where=np.asarray(below) > 0)
