"""What an engine's error means to the person who runs the command: its exit code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from engines.errors import EngineDamaged, EngineError, RuntimeMissing
from engines.timing import InvalidMeasurement
from pipeline.errors import (
    EdgestillError,
    IntegrityError,
    MachineLacks,
    MeasurementInvalid,
    NotAcceptable,
    ResourceExhausted,
)

_QUOTED_NODE = re.compile(r"node '([^']+)'")

# CUDA's name of the error and the words that CUDA, pycuda and TensorRT have for it.
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "out_of_memory", "cudaerrormemoryallocation")

_KIND: tuple[tuple[type[EngineError], type[EdgestillError]], ...] = (
    (RuntimeMissing, MachineLacks),
    (InvalidMeasurement, MeasurementInvalid),
    (EngineError, NotAcceptable),
)
"""The first that fits; a failed build or run is the graph's and so not acceptable."""


@contextlib.contextmanager
def engine_errors_explained(what: str) -> Iterator[None]:
    """An EngineError becomes the EdgestillError that says `what: why`; a cancelled build is for the caller to catch."""
    try:
        yield
    except EngineError as error:
        raise explained(what, error) from error


def explained(what: str, error: EngineError) -> EdgestillError:
    """What an engine's error means: `what: why`, with the error as its cause."""
    found = _kind(error)(f"{what}: {error}")
    found.__cause__ = error
    return found


def with_source_modules(message: str, modules: Mapping[str, str]) -> str:
    """The message, with the source module of each ONNX node that it quotes and that the export recorded."""

    def named(found: re.Match[str]) -> str:
        module = modules.get(found[1])
        return f"{found[0]} of module '{module}'" if module else found[0]

    return _QUOTED_NODE.sub(named, message)


def _kind(error: EngineError) -> type[EdgestillError]:
    if isinstance(error, EngineDamaged):
        return IntegrityError
    if any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
        return ResourceExhausted
    return next(kind for found, kind in _KIND if isinstance(error, found))
