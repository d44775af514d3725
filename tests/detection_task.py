"""A user's own task: boxes with classes, one for each cell of a grid. As `tasks.py` it stands beside a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.models.interface import Shape
from pipeline.tasks.task import Arrays, Counts, Outputs, Statistics, Task

if TYPE_CHECKING:
    from torch import Tensor

GRID = 4
CELLS = GRID * GRID
IOU = 0.5
RECORD = 3
"""What is kept of a detection: its class (-1: none), its score, whether it is right."""
Boxes = NDArray[np.float64]
"""(..., 4): centre x and y, width, height, as shares of the image."""


@final
class Detection(Task):
    """Scores (batch, cells, 1 + classes), the first of them for no object; boxes (batch, cells, 4), each 0 to 1.

    A box is the centre's place within its cell, width and height of the image. Labels (samples, boxes, 5): the class,
    or -1 where there are fewer boxes, then centre x and y, width, height. The metric is the average precision at an
    intersection over union of 0.5, the mean over classes.
    """

    name: ClassVar[str] = "detection"
    metric: ClassVar[str] = "average precision at IoU 0.5"
    outputs: ClassVar[tuple[str, ...]] = ("scores", "boxes")
    has_logits: ClassVar[bool] = True

    def checked_labels(
        self, labels: NDArray[Any], names: NDArray[Any] | None, samples: int, where: str
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        if labels.ndim != 3 or labels.shape[2] != 5 or len(labels) != samples:
            raise DataRejected(f"{where}: labels have shape {labels.shape}; expected ({samples}, boxes, 5)")
        there = labels[..., 0] >= 0
        classes = int(labels[..., 0].max()) + 1 if names is None else len(names)
        boxes = labels[there][:, 1:]
        if (boxes < 0).any() or (boxes > 1).any() or (labels[..., 0] >= classes).any():
            raise DataRejected(f"{where}: a box is not within its image, or of a class above {classes - 1}")
        cells = np.where(there, _cell_of(labels), -1 - np.arange(labels.shape[1]))
        for sample, row in enumerate(cells.tolist()):
            if len(set(row)) < len(row):
                raise DataRejected(f"{where}: two boxes of sample {sample} have their centre in one cell of the grid")
        known = tuple(map(str, range(classes) if names is None else names.tolist()))
        return labels.astype(np.float32), known

    def strata(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        boxes: NDArray[np.int64] = (labels[..., 0] >= 0).sum(axis=1)
        return boxes

    def output_shapes(self, inputs: Mapping[str, Shape], classes: int) -> Mapping[str, Shape | None]:
        del inputs
        return {"scores": (CELLS, 1 + classes), "boxes": (CELLS, 4)}

    def supervised_loss(self, outputs: Outputs, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Focal loss (Lin et al., arXiv 1708.02002) of the classes, L1 and GIoU (Rezatofighi et al.) of the boxes."""
        import torch
        from torch.nn.functional import cross_entropy

        wanted = self.label_rows(labels)
        rows = cross_entropy(self.logit_rows(outputs), wanted, reduction="none")
        if weights is not None:
            rows = rows * torch.cat([weights.new_ones(1), weights])[wanted]
        focal = ((1 - torch.exp(-rows)) ** 2 * rows).mean()
        samples, places = torch.nonzero(labels[..., 0] >= 0, as_tuple=True)
        boxes = labels[samples, places, 1:]
        cells = _cell_of(labels)[samples, places]
        found = _placed(outputs["boxes"][samples, cells], cells)
        # The mean over boxes, of which a batch may have none.
        apart = ((found - boxes).abs().sum(1) + 1 - _generalized_iou(found, boxes)).sum() / max(1, len(boxes))
        loss: Tensor = 10 * focal + apart
        return loss

    def statistics(self, outputs: Arrays, labels: NDArray[Any]) -> Statistics:
        records = [_judged(*each) for each in zip(outputs["scores"], outputs["boxes"], labels, strict=True)]
        classes = outputs["scores"].shape[2] - 1
        counts = (labels[..., 0, None] == np.arange(classes)).sum(axis=1)
        return np.concatenate([np.stack(records).reshape(len(labels), -1), counts], axis=1).astype(np.float64)

    def metric_over(self, statistics: Statistics, counts: Counts) -> NDArray[np.float64]:
        records = statistics[:, : CELLS * RECORD].reshape(-1, CELLS, RECORD)
        boxes = counts @ statistics[:, CELLS * RECORD :]  # (..., classes)
        precisions = [_average_precision(records, counts, boxes[..., index], index) for index in range(boxes.shape[-1])]
        # A class that no counted sample has says nothing.
        total: NDArray[np.float64] = np.sum(precisions, axis=0) / np.maximum((boxes > 0).sum(axis=-1), 1)
        return total

    def chance(self, labels: NDArray[Any], classes: int) -> float:
        del labels, classes
        return 0.0

    def logit_rows(self, outputs: Outputs) -> Tensor:
        return outputs["scores"].flatten(0, 1)

    def label_rows(self, labels: Tensor) -> Tensor:
        import torch

        rows = torch.zeros((len(labels), CELLS), dtype=torch.int64, device=labels.device)
        samples, places = torch.nonzero(labels[..., 0] >= 0, as_tuple=True)
        rows[samples, _cell_of(labels)[samples, places]] = 1 + labels[samples, places, 0].long()
        return rows.flatten()

    def class_counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        return np.bincount(labels[..., 0][labels[..., 0] >= 0].astype(np.int64), minlength=classes)


def _cell_of(labels: Any) -> Any:
    """(..., 5) -> (...): which cell the centre of each box lies in; arrays and tensors alike."""
    column, row = (labels[..., axis] * GRID for axis in (1, 2))
    whole = column.clip(0, GRID - 1e-3) // 1 + GRID * (row.clip(0, GRID - 1e-3) // 1)
    return whole.astype(np.int64) if isinstance(whole, np.ndarray) else whole.long()


def _placed(boxes: Any, cells: Any) -> Any:
    """Boxes (boxes, 4) as the network gives them, in shares of the image."""
    moved = boxes + 0  # a copy, of an array or of a tensor
    moved[:, 0] = (boxes[:, 0] + cells % GRID) / GRID
    moved[:, 1] = (boxes[:, 1] + cells // GRID) / GRID
    return moved


def _generalized_iou(one: Tensor, two: Tensor) -> Tensor:
    """(boxes, 4) twice -> (boxes,)."""
    import torch

    low = torch.stack([box[:, :2] - box[:, 2:] / 2 for box in (one, two)])
    high = torch.stack([box[:, :2] + box[:, 2:] / 2 for box in (one, two)])
    inner = (high.amin(0) - low.amax(0)).clamp(min=0).prod(1)
    outer = (high.amax(0) - low.amin(0)).prod(1).clamp(min=1e-6)
    union = (one[:, 2:].prod(1) + two[:, 2:].prod(1) - inner).clamp(min=1e-6)
    return inner / union - (outer - union) / outer


def _iou(box: Boxes, others: Boxes) -> NDArray[np.float64]:
    """(4,) and (boxes, 4) -> (boxes,)."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    inner = (high - low).clip(0).prod(1)
    iou: NDArray[np.float64] = inner / np.maximum(box[2:].prod() + others[:, 2:].prod(1) - inner, 1e-9)
    return iou


def _judged(scores: NDArray[Any], boxes: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """(cells, 3): of one sample every cell's detection; the surest takes the box of its class that it covers best."""
    record = np.zeros((CELLS, RECORD))
    finite = np.isfinite(scores).all() and np.isfinite(boxes).all()
    sure = np.exp(scores - scores.max(axis=1, keepdims=True)).astype(np.float64) if finite else np.zeros(scores.shape)
    # What is not finite finds a box in every cell, with certainty, and none is right.
    sure = sure / sure.sum(axis=1, keepdims=True) if finite else np.eye(scores.shape[1])[np.ones(CELLS, np.int64)]
    record[:, 0], record[:, 1] = sure[:, 1:].argmax(axis=1), sure[:, 1:].max(axis=1)
    if finite:
        placed = _placed(boxes.astype(np.float64), np.arange(CELLS))
        record[list(_right(record, placed, labels)), 2] = 1
    return record


def _right(record: NDArray[np.float64], placed: Boxes, labels: NDArray[Any]) -> Iterator[int]:
    """Cells whose detection takes a box."""
    taken: set[int] = set()
    for cell in np.argsort(-record[:, 1], kind="stable").tolist():
        free = [each for each in np.flatnonzero(labels[:, 0] == record[cell, 0]).tolist() if each not in taken]
        if free:
            overlaps = _iou(placed[cell], labels[free, 1:].astype(np.float64))
            if overlaps.max() >= IOU:
                taken.add(free[int(overlaps.argmax())])
                yield cell


def _average_precision(
    records: NDArray[np.float64], counts: Counts, boxes: NDArray[np.float64], index: int
) -> NDArray[np.float64]:
    """(...): the area under the curve of one class, its precision made falling, as PASCAL VOC has it since 2010."""
    samples, cells = np.nonzero(records[..., 0] == index)
    order = np.argsort(-records[samples, cells, 1], kind="stable")
    weights = counts[..., samples[order]].astype(np.float64)  # (..., detections)
    right = (weights * records[samples, cells, 2][order]).cumsum(axis=-1)
    precision = right / np.maximum(weights.cumsum(axis=-1), 1)
    falling = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    gained = np.diff(right, axis=-1, prepend=0)
    area: NDArray[np.float64] = (gained * falling).sum(axis=-1) / np.maximum(boxes, 1)
    return area
