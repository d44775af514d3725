"""Any number of several classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.models.interface import Shape
from pipeline.tasks.classification import LOGITS, ratio
from pipeline.tasks.labels import class_names
from pipeline.tasks.task import Arrays, Outputs, Statistics, SummedTask

if TYPE_CHECKING:
    from torch import Tensor


@final
class MultiLabel(SummedTask):
    """Logits (batch, classes), each for a class of its own; labels (batch, classes) of 0 and 1.

    The metric is F1 over all decisions (micro-averaged), a class taken as present at a logit above 0.
    """

    name: ClassVar[str] = "multi-label"
    metric: ClassVar[str] = "F1"
    outputs: ClassVar[tuple[str, ...]] = (LOGITS,)
    has_logits: ClassVar[bool] = True

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if labels.ndim != 2 or labels.dtype.kind not in "uib" or len(labels) != samples or labels.shape[1] == 0:
            raise DataRejected(
                f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; "
                f"expected 0 and 1 of shape ({samples}, classes)"
            )
        if len(outside := np.argwhere((labels != 0) & (labels != 1))):
            sample, label = outside[0]
            raise DataRejected(
                f"{where}: sample {sample} has {labels[sample, label]} for class {label}; give 1 where the class is "
                "present and 0 where it is not"
            )
        classes = tuple(str(index) for index in range(labels.shape[1])) if names is None else class_names(names, where)
        if len(classes) != labels.shape[1]:
            raise DataRejected(f"{where}: labels have {labels.shape[1]} columns and {len(classes)} classes are named")
        return labels.astype(np.int64), classes

    def strata(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        # The rarest class that a sample has: the common ones spread by themselves.
        counts = labels.sum(axis=0)
        rarity = np.where(labels > 0, counts, np.iinfo(np.int64).max)
        rarest: NDArray[np.int64] = np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1])
        return rarest

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        del inputs
        return {LOGITS: (classes,)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        logits = outputs[LOGITS]
        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), weights)

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        from torch import from_numpy
        from torchmetrics.functional.classification import multilabel_stat_scores

        logits = outputs[LOGITS]
        # What is not finite is called the opposite of what it is.
        found = np.where(np.isfinite(logits.astype(np.float64)), logits > 0, labels == 0).astype(np.int64)
        # (samples, classes, 5): true and false positives, true and false negatives, support.
        scores = multilabel_stat_scores(
            # It counts sample by sample only where there is another axis to count over.
            from_numpy(found)[..., None],
            from_numpy(labels)[..., None],
            labels.shape[1],
            average=None,
            multidim_average="samplewise",
        )
        true_positives, false_positives, _, false_negatives, _ = scores.sum(dim=1).numpy().astype(np.float64).T
        return np.stack([true_positives, false_positives, false_negatives], axis=1)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        true_positives, wrong = sums[..., 0], sums[..., 1] + sums[..., 2]
        return ratio(2 * true_positives, 2 * true_positives + wrong)

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        # Of the answers that name the same classes each time, the best names the most frequent ones.
        present = np.sort(labels.mean(axis=0))[::-1].cumsum()
        named = np.arange(1, classes + 1)
        return float((2 * present / (named + labels.sum(axis=1).mean())).max(initial=0.0))

    def logit_rows(self, outputs: Outputs) -> Tensor:
        from torch import stack, zeros_like

        # Softmax over (0, z) is the sigmoid of z: each class is a decision between absent (0) and present (1).
        logits = outputs[LOGITS].flatten()
        return stack([zeros_like(logits), logits], dim=1)

    def label_rows(self, labels: Tensor) -> Tensor:
        return labels.flatten()

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        del classes
        counts: NDArray[np.int64] = labels.sum(axis=0)
        return counts
