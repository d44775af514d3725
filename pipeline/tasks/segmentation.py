"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.models.interface import Shape
from pipeline.tasks.classification import LOGITS, mean_cross_entropy, ratio
from pipeline.tasks.labels import class_names
from pipeline.tasks.task import Arrays, Outputs, Statistics, SummedTask

if TYPE_CHECKING:
    from torch import Tensor

UNLABELLED = 255
"""As PASCAL VOC and Cityscapes mark pixels that neither loss nor metric counts."""


@final
class Segmentation(SummedTask):
    """Logits (batch, classes, height, width), labels (batch, height, width), 255 where a pixel has none.

    The metric is the mean over classes of intersection over union, both summed over all images.
    """

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "mean IoU"
    outputs: ClassVar[tuple[str, ...]] = (LOGITS,)
    has_logits: ClassVar[bool] = True
    dense: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = True

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if labels.ndim != 3 or labels.dtype.kind not in "ui" or len(labels) != samples:
            raise DataRejected(
                f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; expected integers of shape "
                f"({samples}, height, width), one class a pixel, {UNLABELLED} where there is none"
            )
        counted = labels[labels != UNLABELLED]
        classes = None if names is None else class_names(names, where)
        limit = int(counted.max(initial=0)) + 1 if classes is None else len(classes)
        if len(outside := np.argwhere((labels != UNLABELLED) & ((labels < 0) | (labels >= limit)))):
            sample, row, column = outside[0]
            raise DataRejected(
                f"{where}: pixel ({row}, {column}) of image {sample} has label {labels[sample, row, column]}; "
                f"labels go from 0 to {limit - 1} here, {UNLABELLED} is none"
            )
        if counted.size == 0:
            raise DataRejected(f"{where}: no pixel has a label; number the classes from 0")
        return labels.astype(np.int64), classes or tuple(str(label) for label in range(limit))

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        _, height, width = next(iter(inputs.values()))
        return {LOGITS: (classes, height, width)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return mean_cross_entropy(outputs[LOGITS], labels, weights, UNLABELLED)

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        from torch import from_numpy
        from torchmetrics.functional.classification import multiclass_stat_scores

        logits = outputs[LOGITS]
        classes = logits.shape[1]
        whole = np.isfinite(logits.astype(np.float64)).all(axis=1)
        # What is not finite is called a class that it is not.
        found = np.where(whole, logits.argmax(axis=1), (labels + 1) % classes)
        # (images, classes, 5): true and false positives, true and false negatives, support.
        scores = multiclass_stat_scores(
            from_numpy(found),
            from_numpy(labels),
            classes,
            average=None,
            multidim_average="samplewise",
            ignore_index=UNLABELLED,
        )
        intersection, false_positives, _, false_negatives, _ = np.moveaxis(scores.numpy().astype(np.float64), 2, 0)
        return np.concatenate([intersection, intersection + false_positives + false_negatives], axis=1)

    def metric_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        classes = sums.shape[-1] // 2
        union = sums[..., classes:]
        # A class that is neither there nor found says nothing.
        return ratio(ratio(sums[..., :classes], union).sum(axis=-1), (union > 0).sum(axis=-1).astype(np.float64))

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        counts = self.class_counts(labels, classes)
        return float(counts.max() / max(1, counts.sum()) / max(1, (counts > 0).sum()))

    def logit_rows(self, outputs: Outputs) -> Tensor:
        logits = outputs[LOGITS]
        return logits.movedim(1, -1).flatten(0, -2)

    def label_rows(self, labels: Tensor) -> Tensor:
        return labels.flatten().where(labels.flatten() != UNLABELLED, -1)

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        return np.bincount(labels[labels != UNLABELLED], minlength=classes).astype(np.int64)
