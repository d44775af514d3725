"""Sketches as a file: an .npz of plain arrays, tensors and groups by number, beside a header in JSON."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.statistics import Origin, Sketches
from calibration.statistics.binning import BINS
from calibration.statistics.channel_extremes import ChannelExtremes
from calibration.statistics.extremes import Image, Peaks
from calibration.statistics.groups import GROUP_BINS, Group
from calibration.statistics.sketch import Sketch

_FORMAT = 5
_PEAKS = 2


def write(sketches: Sketches, path: Path) -> None:
    """An .npz whose bytes depend on the statistics alone."""
    names = sorted(sketches.tensors)
    tensors = [sketches.tensors[name] for name in names]
    images = _images(tensors)
    header = {
        "format": _FORMAT,
        "images": sketches.images,
        "tensors": names,
        "origin": asdict(sketches.origin) if sketches.origin is not None else None,
        "group_size": sketches.group_size,
        "peak_images": [[image.index, image.name] for image in images],
    }
    arrays: dict[str, NDArray[Any]] = {
        "header": np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8),
        "minimum": np.array([sketch.minimum for sketch in tensors], np.float64),
        "maximum": np.array([sketch.maximum for sketch in tensors], np.float64),
        **{name: np.array([getattr(sketch, name) for sketch in tensors], np.int64) for name in _NUMBERS},
        "has_exponent": np.array([sketch.exponent is not None for sketch in tensors], np.bool_),
        "exponent": np.array([sketch.exponent or 0 for sketch in tensors], np.int32),
        "counts": np.array([sketch.counts for sketch in tensors], np.int64).reshape(len(names), 2 * BINS - 1),
        **_peak_arrays(tensors, images),
        **_group_arrays(tensors),
        **_channel_arrays(tensors),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


_NUMBERS = ("count", "counted", "zeros", "masked")


def _images(tensors: Sequence[Sketch]) -> list[Image]:
    """Those that a peak is of, in the order of the data."""
    peaks = (peak for sketch in tensors for side in (sketch.highest, sketch.lowest) for peak in side.held)
    return sorted({peak.image for peak in peaks}, key=lambda image: (image.index, image.name))


def _peak_arrays(tensors: Sequence[Sketch], images: Sequence[Image]) -> dict[str, NDArray[Any]]:
    """(tensors, 2 sides, 2) each; places in `images`, below 0 where there is none."""
    place_of = {image: place for place, image in enumerate(images)}
    values = np.full((len(tensors), 2, _PEAKS), -math.inf)
    places = np.full((len(tensors), 2, _PEAKS), -1, np.int64)
    for row, sketch in enumerate(tensors):
        for side, peaks in enumerate((sketch.highest, sketch.lowest)):
            for rank, peak in enumerate(peaks.held):
                values[row, side, rank], places[row, side, rank] = peak.value, place_of[peak.image]
    return {"peak_values": values, "peak_places": places}


def _group_arrays(tensors: Sequence[Sketch]) -> dict[str, NDArray[Any]]:
    """(tensors, groups, ...) each; `groups` holds their numbers."""
    numbers = sorted({number for sketch in tensors for number in sketch.groups})
    rows = [[sketch.groups.get(number, Group()) for number in numbers] for sketch in tensors]
    shape = (len(tensors), len(numbers))
    return {
        "groups": np.array(numbers, np.int64),
        "group_minimum": np.array([[each.minimum for each in row] for row in rows], np.float64).reshape(shape),
        "group_maximum": np.array([[each.maximum for each in row] for row in rows], np.float64).reshape(shape),
        "group_count": np.array([[each.count for each in row] for row in rows], np.int64).reshape(shape),
        "group_zeros": np.array([[each.zeros for each in row] for row in rows], np.int64).reshape(shape),
        "group_counts": np.array([[each.counts for each in row] for row in rows], np.int64).reshape(
            *shape, 2 * GROUP_BINS - 1
        ),
    }


def _channel_arrays(tensors: Sequence[Sketch]) -> dict[str, NDArray[Any]]:
    """Of all tensors in one row, which `channels` says how to divide; none where nobody asked."""
    found = [sketch.channels for sketch in tensors]
    held = [each for each in found if each is not None]
    if not held:
        return {}
    return {
        "channels": np.array([0 if each is None else each.low.size for each in found], np.int64),
        "channel_low": np.concatenate([each.low for each in held]),
        "channel_high": np.concatenate([each.high for each in held]),
    }


def _channels(arrays: Mapping[str, NDArray[Any]], row: int) -> ChannelExtremes | None:
    if "channels" not in arrays or not arrays["channels"][row]:
        return None
    start = int(arrays["channels"][:row].sum())
    part = slice(start, start + int(arrays["channels"][row]))
    return ChannelExtremes(arrays["channel_low"][part], arrays["channel_high"][part])


def read(path: Path) -> Sketches:
    """Raises CalibrationError where the file is something else or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _sketches({name: archive[name] for name in archive.files})
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path}: not a file of sketches ({error}); run calibration again") from error


def _sketches(arrays: Mapping[str, NDArray[Any]]) -> Sketches:
    header = json.loads(arrays["header"].tobytes())
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
    images = [Image(int(index), str(name)) for index, name in header["peak_images"]]
    tensors = {name: _sketch(arrays, row, images) for row, name in enumerate(header["tensors"])}
    origin = Origin(**header["origin"]) if header["origin"] is not None else None
    return Sketches(int(header["images"]), tensors, origin, int(header["group_size"]))


def _sketch(arrays: Mapping[str, NDArray[Any]], row: int, images: Sequence[Image]) -> Sketch:
    highest, lowest = (_peaks(arrays, row, side, images) for side in (0, 1))
    return Sketch(
        minimum=float(arrays["minimum"][row]),
        maximum=float(arrays["maximum"][row]),
        count=int(arrays["count"][row]),
        counted=int(arrays["counted"][row]),
        zeros=int(arrays["zeros"][row]),
        masked=int(arrays["masked"][row]),
        exponent=int(arrays["exponent"][row]) if arrays["has_exponent"][row] else None,
        counts=arrays["counts"][row].astype(np.int64),
        channels=_channels(arrays, row),
        highest=highest,
        lowest=lowest,
        groups={
            int(number): Group(
                minimum=float(arrays["group_minimum"][row, place]),
                maximum=float(arrays["group_maximum"][row, place]),
                count=int(arrays["group_count"][row, place]),
                zeros=int(arrays["group_zeros"][row, place]),
                counts=arrays["group_counts"][row, place].astype(np.int64),
            )
            for place, number in enumerate(arrays["groups"])
            if arrays["group_count"][row, place]
        },
    )


def _peaks(arrays: Mapping[str, NDArray[Any]], row: int, side: int, images: Sequence[Image]) -> Peaks:
    found = Peaks()
    for value, place in zip(arrays["peak_values"][row, side], arrays["peak_places"][row, side], strict=True):
        if place >= 0:
            found.add(float(value), images[int(place)])
    return found
