"""Sketches: exact extremes, exact merging, flat memory, a file whose bytes repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.statistics import BINS, Sketch, Sketches
from calibration.statistics.extremes import Image
from calibration.statistics.groups import GROUP_BINS, MOST_GROUPS, folded, size_for

_finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
_values = arrays(np.float32, st.integers(1, 60), elements=_finite)


def sketch_of(*parts: NDArray[np.float32]) -> Sketch:
    sketch = Sketch()
    for part in parts:
        sketch.update(part)
    return sketch


def contents(sketch: Sketch) -> tuple[object, ...]:
    numbers = (sketch.minimum, sketch.maximum, sketch.count, sketch.zeros, sketch.exponent)
    groups = {
        number: (each.minimum, each.maximum, each.count, each.zeros, each.counts.tobytes())
        for number, each in sketch.groups.items()
    }
    return (*numbers, sketch.counts.tobytes(), sketch.highest.held, sketch.lowest.held, groups)


@given(st.lists(_values, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_order_and_split_gives_the_sketch_of_a_single_pass_bit_for_bit(
    batches: list[NDArray[np.float32]], random: object
) -> None:
    whole = sketch_of(np.concatenate(batches))
    shuffled = sorted(batches, key=lambda _: random.random())  # type: ignore[attr-defined]
    middle = len(shuffled) // 2
    one, other = sketch_of(*shuffled[:middle]), sketch_of(*shuffled[middle:])
    one.merge(other)
    assert contents(one) == contents(whole)


@given(_values)
@settings(max_examples=60, deadline=None)
def test_a_group_counts_in_fewer_bins_what_a_sketch_of_them_would_have_counted(values: NDArray[np.float32]) -> None:
    sketch = sketch_of(values)
    counts = folded(sketch.counts)
    assert counts.sum() == sketch.counts.sum()
    numbers = np.trunc(values.astype(np.float64) / (sketch.width or 1.0) * GROUP_BINS / BINS).astype(int)
    found = np.bincount(numbers[values != 0] + GROUP_BINS - 1, minlength=2 * GROUP_BINS - 1)
    assert np.array_equal(counts, found)


@given(st.integers(1, 10**7))
def test_groups_are_as_small_as_their_number_permits(images: int) -> None:
    size = size_for(images)
    assert (images - 1) // size < MOST_GROUPS
    assert size == 1 or (images - 1) // (size // 2) >= MOST_GROUPS


@given(_values)
@settings(max_examples=100, deadline=None)
def test_extremes_are_exact_and_no_value_is_lost(values: NDArray[np.float32]) -> None:
    sketch = sketch_of(values)
    assert sketch.minimum == values.min()
    assert sketch.maximum == values.max()
    assert sketch.zeros == np.count_nonzero(values == 0)
    assert sketch.counts.sum() + sketch.zeros == sketch.count == values.size
    assert sketch.magnitudes.sum() == np.count_nonzero(values)


def test_a_large_value_coarsens_the_bins_and_keeps_the_counts_where_they_belong() -> None:
    sketch = sketch_of(np.array([0.75, -0.75, 0.1], np.float32), np.array([1000.0], np.float32))
    assert sketch.exponent == 10
    assert sketch.width == 1024 / BINS
    filled = np.flatnonzero(sketch.counts) - (BINS - 1)
    assert [(number * sketch.width, sketch.counts[number + BINS - 1]) for number in filled] == [
        (-0.75, 1),
        (0.0, 1),
        (0.75, 1),
        (1000.0, 1),
    ]


def test_more_values_than_one_chunk_are_counted_like_numpy_counts_them() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    sketch = sketch_of(values)
    edges = np.arange(BINS + 1) * sketch.width
    expected, _ = np.histogram(np.abs(values), bins=edges)
    assert np.array_equal(sketch.magnitudes, expected)


def test_what_a_relu_leaves_is_counted_like_numpy_counts_it() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=100_000), 0).astype(np.float32)
    sketch = sketch_of(values)
    expected, _ = np.histogram(values[values > 0], bins=np.arange(BINS + 1) * sketch.width)
    assert np.array_equal(sketch.magnitudes, expected)
    assert sketch.zeros == np.count_nonzero(values == 0)


def test_a_range_cuts_off_the_values_outside_of_it() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    sketch = sketch_of(values)
    assert sketch.saturating(sketch.minimum, sketch.maximum) == 0
    low, high = -512 * sketch.width, 256 * sketch.width
    assert sketch.saturating(low, high) == np.count_nonzero((values < low) | (values > high)) > 0
    assert sketch_of(np.zeros(3, np.float32)).saturating(0.0, 0.0) == 0


@pytest.mark.parametrize("constant", [0.0, 3.5, -2.0])
def test_a_constant_tensor_has_a_sketch_too(constant: float) -> None:
    sketch = sketch_of(np.full((4, 3), constant, np.float32), np.full((2, 3), constant, np.float32))
    assert (sketch.minimum, sketch.maximum, sketch.count) == (constant, constant, 18)
    assert sketch.counts.sum() == (0 if constant == 0 else 18)


def test_an_empty_batch_changes_nothing() -> None:
    sketch = sketch_of(np.ones(3, np.float32))
    before = contents(sketch)
    sketch.update(np.empty((0, 4), np.float32))
    assert contents(sketch) == before


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_poison_is_refused_and_leaves_the_sketch_as_it_was(poison: float) -> None:
    sketch = sketch_of(np.ones(3, np.float32))
    before = contents(sketch)
    with pytest.raises(CalibrationError, match="not finite; look for NaN or inf"):
        sketch.update(np.array([1.0, poison], np.float32))
    assert contents(sketch) == before


def test_memory_does_not_depend_on_how_much_was_counted() -> None:
    random = np.random.default_rng(0)
    few, many = sketch_of(random.normal(size=10).astype(np.float32)), Sketch()
    for _ in range(50):
        many.update(random.normal(size=5000).astype(np.float32))
    assert many.counts.nbytes == few.counts.nbytes == (2 * BINS - 1) * 8


def some_sketches(seed: int, images: int = 4) -> Sketches:
    random = np.random.default_rng(seed)
    found = Sketches()
    for number in range(images):
        image = Image(number + 100 * seed, f"{seed}-{number}")
        for name in ("b", "ä/conv", "zero"):
            values = (random.normal(size=20) * (name != "zero")).astype(np.float32)
            found.tensors.setdefault(name, Sketch()).update(values, [image], group=found.group_of(image.index))
        found.images += 1
    return found


def test_a_saved_file_reads_back_the_same_and_its_bytes_repeat(tmp_path: Path) -> None:
    sketches = some_sketches(0)
    sketches.save(tmp_path / "one.npz")
    Sketches(sketches.images, dict(reversed(sketches.tensors.items()))).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = Sketches.load(tmp_path / "one.npz")
    assert loaded.images == 4
    assert {n: contents(s) for n, s in loaded.tensors.items()} == {n: contents(s) for n, s in sketches.tensors.items()}


def test_shards_merge_through_files_into_what_one_machine_would_have_counted(tmp_path: Path) -> None:
    one, other = some_sketches(0), some_sketches(1, images=3)
    one.save(tmp_path / "shard.npz")
    merged = Sketches.load(tmp_path / "shard.npz")
    merged.merge(other)
    other.merge(one)
    assert merged.images == other.images == 7
    assert {n: contents(s) for n, s in merged.tensors.items()} == {n: contents(s) for n, s in other.tensors.items()}


def test_shards_of_different_graphs_do_not_merge() -> None:
    other = some_sketches(1)
    other.tensors["head"] = other.tensors.pop("b")
    with pytest.raises(CalibrationError, match=r"different tensors \('b' is in one of them only\)"):
        some_sketches(0).merge(other)


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_file_of_sketches_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "sketches.npz"
    some_sketches(0).save(path)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(CalibrationError, match=r"sketches\.npz: not a file of sketches .*; run calibration again"):
        Sketches.load(path)


def test_a_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(CalibrationError, match="not a file of sketches"):
        Sketches.load(tmp_path / "evil.npz")
