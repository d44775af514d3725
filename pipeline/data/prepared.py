"""A raw sample and its label as a network takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocess import Preprocess
from pipeline.models.interface import IMAGE
from pipeline.samples import Raw


def prepared(raw: Raw, preprocess: Preprocess | None, name: str) -> dict[str, NDArray[Any]]:
    """A raw sample as a network takes it, by input name; raises DataRejected where an image does not fit."""
    if isinstance(raw, Mapping):
        return dict(raw)
    return {IMAGE: raw if preprocess is None else preprocess.apply(raw, name)}


def prepared_labels(labels: NDArray[Any], preprocess: Preprocess | None) -> NDArray[Any]:
    """Labels as they stand beside the inputs: images of classes follow their image's resize and crop."""
    if preprocess is None or (preprocess.resize is None and preprocess.crop is None) or not len(labels):
        return labels
    return np.stack([preprocess.apply_to_label(label) for label in labels])
