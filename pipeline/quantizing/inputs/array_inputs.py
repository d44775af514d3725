"""Calibration batches from arrays: of a .npz, or of a folder of .npy files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataRejected
from pipeline.quantizing.inputs.graph_inputs import GraphInput, check_whole_batches, images_a_run
from pipeline.quantizing.inputs.stored_arrays import StoredArray, array_of_npy, arrays_of_npz
from pipeline.quantizing.settings import CalibrationData

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch

LABELS = "labels"
"""The array that holds them."""


def data_from_npz(path: Path, inputs: Mapping[str, GraphInput], batch_size: int) -> CalibrationData:
    """Batches of its samples: one array for each input, samples along the first axis, of shape () for all of them."""
    arrays = arrays_of_npz(path)
    if missing := set(inputs) - set(arrays):
        raise DataRejected(
            f"{path}: has no array '{min(missing)}'; the graph's inputs are {', '.join(inputs)}, "
            f"found {', '.join(arrays) or 'none'}"
        )
    return _data_from_arrays(path, {name: arrays[name] for name in inputs}, inputs, batch_size)


def data_from_npy_files(folder: Path, inputs: Mapping[str, GraphInput], batch_size: int) -> CalibrationData:
    """Batches of one file an input, `<input>.npy` with samples along the first axis; or of one file a sample, in the
    folder itself where the graph has one input, in a folder of each input's name where it has several."""
    whole = {name: folder / f"{name}.npy" for name in inputs}
    if all(file.is_file() for file in whole.values()):
        arrays = {name: array_of_npy(file) for name, file in whole.items()}
        return _data_from_arrays(folder, arrays, inputs, batch_size)
    return _data_from_samples(folder, _files_of_samples(folder, inputs), inputs, batch_size)


def holds_npy_files(folder: Path) -> bool:
    """Whether it holds arrays, not images."""
    return any(folder.glob("*.npy")) or any(folder.glob("*/*.npy"))


def _data_from_arrays(
    source: Path, arrays: Mapping[str, StoredArray], inputs: Mapping[str, GraphInput], batch_size: int
) -> CalibrationData:
    from calibration.statistics.collect import Batch

    for name, wanted in inputs.items():
        wanted.check(arrays[name].shape, arrays[name].dtype, f"{source}: array '{name}'")
    shared = {name: arrays[name].value() for name, wanted in inputs.items() if wanted.is_shared}
    counts = {name: arrays[name].samples for name in inputs if name not in shared}
    if not counts:
        raise DataRejected(f"{source}: no input of the graph takes samples: {', '.join(inputs)} are one value each")
    total = min(counts.values())
    if total != max(counts.values()):
        raise DataRejected(f"{source}: the arrays hold different numbers of samples: {counts}")
    if total == 0:
        raise DataRejected(f"{source}: holds no sample; give at least one, better a few hundred")
    check_whole_batches(source, total, inputs, batch_size)

    def between(first: int, stop: int) -> Iterator[Batch]:
        rows = {name: arrays[name].read(first, stop, batch_size) for name in counts}
        for start in range(first, stop, batch_size):
            ids = [str(index) for index in range(start, min(start + batch_size, stop))]
            yield Batch(ids, {name: next(each) for name, each in rows.items()} | shared)
        for each in rows.values():
            next(each, None)  # what follows the last sample is a checksum

    def chosen(numbers: Sequence[int]) -> Iterator[Batch]:
        rows = {name: arrays[name].chosen(numbers, batch_size) for name in counts}
        for start in range(0, len(numbers), batch_size):
            ids = [str(number) for number in numbers[start : start + batch_size]]
            yield Batch(ids, {name: next(each) for name, each in rows.items()} | shared)

    def digest() -> str:
        found = hashlib.sha256()
        for name in sorted(inputs):
            found.update(hashlib.sha256(name.encode()).digest())
            content = hashlib.sha256()
            for part in arrays[name].parts():
                content.update(part.data)
            found.update(content.digest())
        return found.hexdigest()

    return CalibrationData(total, lambda: between(0, total), between, chosen, digest, images_a_run(inputs))


def _files_of_samples(folder: Path, inputs: Mapping[str, GraphInput]) -> dict[str, list[Path]]:
    """Of each input one file a sample, in the order of their names, which are the same for all inputs."""
    if shared := [name for name, wanted in inputs.items() if wanted.is_shared]:
        raise DataRejected(
            f"{folder}: input '{shared[0]}' is one value for all samples; with one give {folder / shared[0]}.npy, and "
            "the other inputs as one file each, samples along the first axis, or all of them in a .npz"
        )
    folders = {name: folder / name if len(inputs) > 1 else folder for name in inputs}
    files = {name: sorted(each.glob("*.npy")) for name, each in folders.items()}
    found = {name: [file for file in each if file.stem != LABELS] for name, each in files.items()}
    names = {name: [file.name for file in files] for name, files in found.items()}
    first = next(iter(names.values()))
    for name, others in names.items():
        if others != first or not others:
            raise DataRejected(
                f"{folder}: holds no array for input '{name}' of every sample; give {folder / f'{name}.npy'} with the "
                f"samples along the first axis, or one file a sample in {folders[name]}, of equal names for all inputs"
            )
    return found


def _data_from_samples(
    folder: Path, files: Mapping[str, list[Path]], inputs: Mapping[str, GraphInput], batch_size: int
) -> CalibrationData:
    from calibration.statistics.collect import Batch

    names = [file.name for file in next(iter(files.values()))]
    check_whole_batches(folder, len(names), inputs, batch_size)

    def chosen(numbers: Sequence[int]) -> Iterator[Batch]:
        for start in range(0, len(numbers), batch_size):
            part = numbers[start : start + batch_size]
            feeds = {name: _stacked([files[name][each] for each in part], wanted) for name, wanted in inputs.items()}
            yield Batch([names[each] for each in part], feeds)

    def between(first: int, stop: int) -> Iterator[Batch]:
        return chosen(range(first, stop))

    def digest() -> str:
        found = hashlib.sha256()
        for name in sorted(inputs):
            for file in files[name]:
                for part in (name.encode(), file.name.encode(), file.read_bytes()):
                    found.update(hashlib.sha256(part).digest())
        return found.hexdigest()

    return CalibrationData(len(names), lambda: between(0, len(names)), between, chosen, digest, images_a_run(inputs))


def _stacked(files: list[Path], wanted: GraphInput) -> NDArray[np.generic]:
    arrays = [_sample(file, wanted) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise DataRejected(
                f"{file} has shape {array.shape} and {files[0].name} {arrays[0].shape}; "
                "a batch holds samples of one shape: give --batch-size 1"
            )
    return np.stack(arrays)


def _sample(file: Path, wanted: GraphInput) -> NDArray[np.generic]:
    stored = array_of_npy(file)
    wanted.check((1, *stored.shape), stored.dtype, f"{file}: as one sample it")
    return np.asarray(np.load(file, allow_pickle=False))
