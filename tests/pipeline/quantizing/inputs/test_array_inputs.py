"""Calibration data in arrays: read some samples at a time, whatever the file, and refused where it is damaged."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from own_graph import network, quantized, samples, saved

from pipeline.errors import DataRejected, RecipeError
from pipeline.quantizing.inputs.array_inputs import data_from_npy_files, data_from_npz
from pipeline.quantizing.inputs.calibration_images import spread
from pipeline.quantizing.inputs.calibration_inputs import data_from
from pipeline.quantizing.inputs.graph_inputs import GraphInput
from pipeline.quantizing.inputs.stored_arrays import CompressedArray, HeldArray, PlainArray, StoredArray, arrays_of_npz
from pipeline.quantizing.settings import CalibrationData

ONE = {"x": GraphInput(np.dtype(np.float32), (None, 3, 4))}
TWO = {**ONE, "mask": GraphInput(np.dtype(np.int64), (None, None))}


def numbers(count: int) -> NDArray[np.float32]:
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 4)


def arrays(count: int) -> dict[str, NDArray[Any]]:
    return {"x": numbers(count), "mask": np.arange(count * 5).reshape(count, 5), "labels": np.arange(count)}


def fed(data: CalibrationData, first: int, stop: int) -> Mapping[str, NDArray[Any]]:
    batches = list(data.part(first, stop))
    ids = [each for batch in batches for each in batch.ids]
    assert len(ids) == stop - first
    return {name: np.concatenate([batch.feeds[name] for batch in batches]) for name in batches[0].feeds}


@settings(max_examples=40, deadline=None)
@given(compressed=st.booleans(), batch=st.integers(1, 9), first=st.integers(0, 7), more=st.integers(1, 13))
def test_any_part_of_an_archive_is_what_was_saved(
    compressed: bool, batch: int, first: int, more: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays(20))  # type: ignore[arg-type]  # names and arrays
    found = fed(data_from_npz(path, TWO, batch), first, first + more)
    for name in TWO:
        assert np.array_equal(found[name], arrays(20)[name][first : first + more])
        assert found[name].dtype == arrays(20)[name].dtype


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["plain", "compressed", "fortran"]),
    batch=st.integers(1, 9),
    chosen=st.sets(st.integers(0, 19)),
)
def test_any_chosen_samples_of_an_archive_are_what_was_saved(
    kind: str, batch: int, chosen: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    values = np.asfortranarray(numbers(20)) if kind == "fortran" else numbers(20)
    (np.savez_compressed if kind == "compressed" else np.savez)(path, x=values)
    batches = list(data_from_npz(path, ONE, batch).chosen(sorted(chosen)))
    assert [name for each in batches for name in each.ids] == [str(number) for number in sorted(chosen)]
    assert all(len(each.ids) == batch for each in batches[:-1])
    for each in batches:
        assert np.array_equal(each.feeds["x"], numbers(20)[[int(name) for name in each.ids]])


def test_how_an_array_is_stored_decides_how_it_is_read_and_not_what_it_is(tmp_path: Path) -> None:
    kinds: dict[str, type[StoredArray]] = {"plain": PlainArray, "compressed": CompressedArray, "fortran": HeldArray}
    np.savez(tmp_path / "plain.npz", x=numbers(9))
    np.savez_compressed(tmp_path / "compressed.npz", x=numbers(9))
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(numbers(9)))
    digests = set()
    for name, kind in kinds.items():
        path = tmp_path / f"{name}.npz"
        assert type(arrays_of_npz(path)["x"]) is kind
        data = data_from_npz(path, ONE, 4)
        assert np.array_equal(fed(data, 0, 9)["x"], numbers(9))
        digests.add(data.digest())
    assert len(digests) == 1


def test_archives_that_differ_in_one_value_have_other_digests(tmp_path: Path) -> None:
    changed = numbers(9)
    changed[8, 2, 3] += 1
    paths = [saved(tmp_path / f"{index}.npz", x=values) for index, values in enumerate((numbers(9), changed))]
    assert len({data_from_npz(path, ONE, 4).digest() for path in paths}) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path, compressed: bool) -> None:
    peaks = []
    inputs = {"x": GraphInput(np.dtype(np.float32), (None, 1 << 16))}
    for count in (64, 256):
        path = tmp_path / f"{count}.npz"
        (np.savez_compressed if compressed else np.savez)(path, x=np.ones((count, 1 << 16), np.float32))
        tracemalloc.start()
        data = data_from_npz(path, inputs, 4)
        data.digest()
        assert sum(len(batch.ids) for batch in data.batches()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def with_a_flipped_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def with_a_member_too_short(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:-4])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("damage", [cut_short, with_a_flipped_bit, with_a_member_too_short])
def test_a_damaged_archive_is_rejected_by_name(tmp_path: Path, compressed: bool, damage: Any) -> None:
    path = tmp_path / "x.npz"
    random = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(path, x=random)
    damage(path)
    with pytest.raises(DataRejected, match=r"x\.npz: is not a readable \.npz of plain arrays \("):
        for _ in data_from_npz(path, ONE, 7).batches():
            pass


def test_an_archive_that_shrinks_while_it_is_read_is_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", x=numbers(50))
    batches = data_from_npz(path, ONE, 10).batches()
    next(batches)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataRejected, match=r"x\.npz: ends before sample 20; write it again"):
        list(batches)


def test_a_folder_of_an_array_an_input_is_read_as_an_archive_of_them(tmp_path: Path) -> None:
    for name, values in arrays(9).items():
        np.save(tmp_path / f"{name}.npy", values)
    found = fed(data_from_npy_files(tmp_path, TWO, 4), 2, 8)
    for name in TWO:
        assert np.array_equal(found[name], arrays(9)[name][2:8])


def test_a_folder_of_an_array_a_sample_feeds_them_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in TWO:
        (tmp_path / name).mkdir()
        for index, values in enumerate(arrays(9)[name]):
            np.save(tmp_path / name / f"{index:02}.npy", values)
    data = data_from_npy_files(tmp_path, TWO, 4)
    assert next(iter(data.batches())).ids == ["00.npy", "01.npy", "02.npy", "03.npy"]
    for name in TWO:
        assert np.array_equal(fed(data, 3, 9)[name], arrays(9)[name][3:])
    (tmp_path / "mask" / "04.npy").unlink()
    with pytest.raises(DataRejected, match=r"holds no array for input 'mask' of every sample; give .*mask\.npy"):
        data_from_npy_files(tmp_path, TWO, 4)


def test_samples_of_several_shapes_run_one_by_one(tmp_path: Path) -> None:
    inputs = {"x": GraphInput(np.dtype(np.float32), (None, 3, None))}
    for index, width in enumerate((4, 4, 6)):
        np.save(tmp_path / f"{index}.npy", np.ones((3, width), np.float32))
    assert [batch.feeds["x"].shape for batch in data_from_npy_files(tmp_path, inputs, 1).batches()][2] == (1, 3, 6)
    assert len(list(spread(data_from_npy_files(tmp_path, inputs, 1)).batches())) == 3
    with pytest.raises(DataRejected, match=r"2\.npy has shape \(3, 6\) and 0\.npy \(3, 4\); .* give --batch-size 1"):
        list(data_from_npy_files(tmp_path, inputs, 3).batches())


def test_a_sample_that_does_not_fit_or_is_damaged_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", numbers(1))
    said = r"0\.npy: as one sample it has shape \(1, 1, 3, 4\); the graph takes \(samples, 3, 4\)"
    with pytest.raises(DataRejected, match=said):
        list(data_from_npy_files(tmp_path, ONE, 1).batches())
    np.save(tmp_path / "0.npy", np.array([{}]))
    with pytest.raises(DataRejected, match=r"0\.npy: is not a readable \.npy of a plain array \(Object arrays"):
        list(data_from_npy_files(tmp_path, ONE, 1).batches())
    np.save(tmp_path / "0.npy", numbers(1)[0])
    cut = (tmp_path / "0.npy").read_bytes()[:-4]
    (tmp_path / "0.npy").write_bytes(cut)
    with pytest.raises(DataRejected, match=r"0\.npy: is not a readable \.npy of a plain array \(it has 172 of 176"):
        list(data_from_npy_files(tmp_path, ONE, 1).batches())


def test_a_folder_of_arrays_gives_the_graphs_of_an_archive_of_them(tmp_path: Path) -> None:
    import onnx

    onnx.save(network(), tmp_path / "own.onnx")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x.npy", samples())
    found = []
    for data in (saved(tmp_path / "x.npz", x=samples()), tmp_path / "arrays"):
        quantized(tmp_path / "own.onnx", data, "cpu-avx2")
        found.append((tmp_path / "out" / "own.cpu-avx2.int8.onnx").read_bytes())
    assert found[0] == found[1]


def test_preprocessing_that_no_array_takes_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(2))
    with pytest.raises(RecipeError, match=r"--preprocess p\.json is for a folder of images; .* leave it out"):
        data_from(tmp_path, Path("p.json"), ONE, 2)
