"""On what, and by which metric, the graphs of a user's own ONNX file are judged."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected, RecipeError
from pipeline.files.digest import UserFileDigests, sha256_of_value
from pipeline.files.onnx_file import loaded_graph
from pipeline.quantizing.inputs.array_inputs import LABELS
from pipeline.quantizing.inputs.calibration_images import evenly
from pipeline.quantizing.inputs.calibration_inputs import Preprocessing, data_from
from pipeline.quantizing.inputs.graph_inputs import GraphInput
from pipeline.quantizing.judging.yardstick import Agreement, JudgingData, Top1Accuracy, Yardstick
from pipeline.quantizing.quantization_errors import quantization_errors_explained


@dataclass(frozen=True)
class JudgingFiles:
    """What the command line names."""

    data: Path
    """A .npz, or a folder of images."""
    preprocess: Preprocessing
    labels: Path | None
    """A .npy, or a .npz with an array `labels`; without it that array of `data`, where there is one."""
    called: str


def judging_data(
    files: JudgingFiles, inputs: Mapping[str, GraphInput], batch_size: int, most: int | None = None
) -> JudgingData:
    """The samples, and their labels where there are any; with `most` at most so many, spread over all of them.

    Raises DataRejected where labels do not fit the samples.
    """
    preprocess = files.preprocess if files.data.is_dir() else None  # which may be for the calibration data alone
    data = data_from(files.data, preprocess, inputs, batch_size)
    labels, of_samples = _labels(files, inputs, data.samples), data.samples
    if most is not None:
        data, numbers = evenly(data, most)
        labels = None if labels is None else labels[numbers]
    read = [each for each in (files.data, files.preprocess, files.labels) if each is not None]
    digests = UserFileDigests()
    identity = sha256_of_value(
        [digests.of(each) if isinstance(each, Path) else each.model_dump_json() for each in read]
    )
    return JudgingData(data.samples, data.batches, labels, files.called, identity, of_samples)


def yardstick_of(model: Path, data: JudgingData, threads: int, wanted: bool) -> Yardstick | None:
    """Top-1 accuracy with labels, agreement with FP32's top-1 where an output has classes, else none.

    Raises RecipeError where one is wanted and there is none, DataRejected where labels have nothing to be held against.
    """
    from calibration.quality import answers, class_axis, session_as_written

    with quantization_errors_explained(model.name):
        outputs = answers(session_as_written(loaded_graph(model), threads), next(data.batches()))
    axes = {name: axis for name, array in outputs.items() if (axis := class_axis(array)) is not None}
    shapes = ", ".join(f"'{name}' {array.shape}" for name, array in outputs.items())
    if data.labels is not None:
        of_samples = [name for name in axes if outputs[name].ndim == 2]
        if len(of_samples) != 1:
            raise DataRejected(
                f"labels are held against an output of shape (batch, classes), of which the graph has "
                f"{len(of_samples)}: {shapes}; leave the labels out to be judged by agreement with FP32"
            )
        return Top1Accuracy(of_samples[0])
    if axes:
        return Agreement(axes, one_a_sample=len(axes) == 1 and outputs[next(iter(axes))].ndim == 2)
    if wanted:
        raise RecipeError(f"--max-drop needs labels or an output with classes ({shapes}); give --min-sqnr instead")
    return None


def _labels(files: JudgingFiles, inputs: Mapping[str, GraphInput], samples: int) -> NDArray[Any] | None:
    if files.labels is not None:
        return _checked(_array(files.labels), samples, str(files.labels))
    if LABELS in inputs:
        return None
    if files.data.is_dir():
        beside = files.data / f"{LABELS}.npy"
        return _checked(_array(beside), samples, str(beside)) if beside.is_file() else None
    with np.load(files.data, allow_pickle=False) as archive:
        found = archive[LABELS] if LABELS in archive.files else None
    return None if found is None else _checked(found, samples, f"{files.data}: array '{LABELS}'")


def _array(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return np.asarray(found[LABELS])
    except KeyError:
        raise DataRejected(f"{path}: has no array '{LABELS}'") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataRejected(f"{path}: is not a readable .npy or .npz of plain arrays") from error


def _checked(labels: NDArray[Any], samples: int, where: str) -> NDArray[Any]:
    if labels.shape != (samples,) or labels.dtype.kind not in "ui":
        raise DataRejected(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}; "
            f"there are {samples} samples, so expected whole numbers of shape ({samples},)"
        )
    return labels
