"""Each error of an engine ends the command with the exit code that says what to do about it."""

from __future__ import annotations

import pytest

from engines.errors import BuildFailed, EngineDamaged, EngineError, RuntimeMissing
from engines.timing import InvalidMeasurement
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.errors import EdgestillError


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (EngineDamaged("its digest differs"), 5),
        (EngineDamaged("out of memory.plan: its digest differs"), 5),
        (RuntimeMissing("there is no driver"), 3),
        (BuildFailed("operator Unknowable is unknown"), 1),
        (InvalidMeasurement("nothing to time"), 8),
        (EngineError("the engine has no output"), 1),
        (EngineError("allocating 9 bytes on the GPU failed: cudaErrorMemoryAllocation (returned 2)"), 7),
        (EngineError("allocating 9 bytes on the GPU failed: MemoryError (cuMemAlloc failed: out of memory)"), 7),
        (BuildFailed("Error Code 2: OutOfMemory"), 7),
        (
            EngineError(
                "making a CUDA graph failed: CUDA_ERROR_OUT_OF_MEMORY (cuGraphInstantiateWithFlags returned 2)"
            ),
            7,
        ),
    ],
)
def test_an_engine_error_says_what_was_done_and_keeps_its_cause(error: EngineError, exit_code: int) -> None:
    with pytest.raises(EdgestillError) as caught, engine_errors_explained("target edge, int8"):
        raise error
    assert caught.value.exit_code == exit_code
    assert str(caught.value) == f"target edge, int8: {error}"
    assert caught.value.__cause__ is error


def test_what_is_no_engine_error_passes_through() -> None:
    with pytest.raises(KeyError), engine_errors_explained("target edge"):
        raise KeyError
