"""What a refusal of `calibration` means to the person who runs the command: its exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from calibration.errors import CalibrationError, GraphRefused, PoisonedData
from pipeline.errors import DataRejected, NotAcceptable


@contextlib.contextmanager
def quantization_errors_explained(subject: str) -> Iterator[None]:
    """What calibration refuses becomes a message with the exit code that it has here."""
    try:
        yield
    except PoisonedData as error:
        raise DataRejected(str(error)) from error
    except GraphRefused as error:
        raise NotAcceptable(f"{subject}: {error}") from error
    except CalibrationError as error:
        raise DataRejected(str(error)) from error
