"""Arrays in .npy and .npz files, read some samples at a time: they may be larger than the memory."""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.errors import DataRejected

_PART_BYTES = 8 << 20
_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a zip's member: the lengths of its name and of what stands between name and content."""
_UNREADABLE = (OSError, ValueError, EOFError, TypeError, NotImplementedError, RuntimeError, zlib.error)
_UNREADABLE_ARCHIVE = (*_UNREADABLE, zipfile.BadZipFile)


@dataclass(frozen=True)
class StoredArray(ABC):
    """Samples along the first axis."""

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @abstractmethod
    def read(self, first: int, stop: int, size: int) -> Iterator[NDArray[Any]]:
        """Samples from `first` to before `stop`, `size` of them at a time. Raises DataRejected for a damaged file."""

    @abstractmethod
    def chosen(self, numbers: Sequence[int], size: int) -> Iterator[NDArray[Any]]:
        """The samples of these numbers, which rise, `size` of them at a time, in one way through the file."""

    @property
    def samples(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def sample_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def value(self) -> NDArray[Any]:
        """Of an array of shape (), as such."""
        (found,) = self.read(0, 1, 1)
        return found.reshape(())

    def parts(self) -> Iterator[NDArray[Any]]:
        """All of it, some megabytes at a time."""
        if not self.shape:
            return self.read(0, 1, 1)
        return self.read(0, self.samples, max(1, _PART_BYTES // max(1, self.sample_bytes)))


@final
@dataclass(frozen=True)
class PlainArray(StoredArray):
    """As it is in memory, from byte `start` of the file on."""

    start: int

    def read(self, first: int, stop: int, size: int) -> Iterator[NDArray[Any]]:
        for row in range(first, stop, size):
            shape = (min(size, stop - row), *self.shape[1:])
            offset = self.start + row * self.sample_bytes
            found = np.fromfile(self.file, self.dtype, math.prod(shape), offset=offset)
            if found.size != math.prod(shape):
                raise DataRejected(f"{self.file}: ends before sample {row + shape[0]}; write it again")
            yield found.reshape(shape)

    def chosen(self, numbers: Sequence[int], size: int) -> Iterator[NDArray[Any]]:
        for part in _in_parts(numbers, size):
            yield np.concatenate([each for number in part for each in self.read(number, number + 1, 1)])


@final
@dataclass(frozen=True)
class CompressedArray(StoredArray):
    """Within an archive; each reading goes through it from its begin to the last sample that it wants."""

    member: str

    def read(self, first: int, stop: int, size: int) -> Iterator[NDArray[Any]]:
        with self._content() as stream:
            _skip(stream, first * self.sample_bytes)
            for row in range(first, stop, size):
                yield self._next(stream, min(size, stop - row))
            if stop == self.samples:
                stream.read()  # its end, where the checksum is looked at

    def chosen(self, numbers: Sequence[int], size: int) -> Iterator[NDArray[Any]]:
        with self._content() as stream:
            done = 0
            for part in _in_parts(numbers, size):
                rows = []
                for number in part:
                    _skip(stream, (number - done) * self.sample_bytes)
                    rows.append(self._next(stream, 1))
                    done = number + 1
                yield np.concatenate(rows)

    @contextlib.contextmanager
    def _content(self) -> Iterator[IO[bytes]]:
        """Behind the header."""
        try:
            with zipfile.ZipFile(self.file) as archive, archive.open(self.member) as stream:
                _header(stream)
                yield stream
        except _UNREADABLE_ARCHIVE as error:
            raise _no_archive(self.file, error) from error

    def _next(self, stream: IO[bytes], count: int) -> NDArray[Any]:
        data = stream.read(count * self.sample_bytes)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


@final
@dataclass(frozen=True)
class HeldArray(StoredArray):
    """In memory as a whole: of one in Fortran's order no sample can be read alone."""

    values: NDArray[Any]

    def read(self, first: int, stop: int, size: int) -> Iterator[NDArray[Any]]:
        for row in range(first, stop, size):
            yield np.ascontiguousarray(self.values[row : min(row + size, stop)])

    def chosen(self, numbers: Sequence[int], size: int) -> Iterator[NDArray[Any]]:
        for part in _in_parts(numbers, size):
            yield np.ascontiguousarray(self.values[list(part)])


def arrays_of_npz(path: Path) -> dict[str, StoredArray]:
    """By name. Raises DataRejected where it is damaged, or holds anything but plain arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _of_member(path, archive, info) for info in archive.infolist()}
    except _UNREADABLE_ARCHIVE as error:
        raise _no_archive(path, error) from error


def array_of_npy(path: Path) -> StoredArray:
    """Raises DataRejected where it is damaged, or no plain array."""
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _header(stream)
            start = stream.tell()
        if fortran:
            return HeldArray(path, dtype, shape, np.load(path, allow_pickle=False))
        wanted = start + math.prod(shape) * dtype.itemsize
        if path.stat().st_size < wanted:
            raise ValueError(f"it has {path.stat().st_size:,} of {wanted:,} bytes")
    except _UNREADABLE as error:
        raise DataRejected(f"{path}: is not a readable .npy of a plain array ({error})") from error
    return PlainArray(path, dtype, shape, start)


def _in_parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _of_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredArray:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        header_bytes = stream.tell()
        if info.file_size != header_bytes + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"member {info.filename!r} has {info.file_size:,} bytes, which its shape {shape} does not")
        if fortran:
            values = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
            return HeldArray(path, dtype, shape, values)
        if info.compress_type != zipfile.ZIP_STORED:
            return CompressedArray(path, dtype, shape, info.filename)
        while stream.read(_PART_BYTES):  # at its end the checksum is looked at
            pass
    return PlainArray(path, dtype, shape, _content_of(path, info) + header_bytes)


def _content_of(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed member begins."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, type; the stream stands behind it. Raises ValueError."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("its header is for arrays of named fields")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return tuple(int(size) for size in shape), bool(fortran) and len(shape) > 1, dtype


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        count -= len(stream.read(min(count, _PART_BYTES))) or count


def _no_archive(path: Path, error: Exception) -> DataRejected:
    return DataRejected(f"{path}: is not a readable .npz of plain arrays ({error})")
