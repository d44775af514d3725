"""What can go wrong, and the exit code that says so."""

from __future__ import annotations

from typing import ClassVar


class EdgestillError(Exception):
    """A mistake or a limit that a user can act on; the message says what, where and what to do."""

    exit_code: ClassVar[int] = 70


class NotAcceptable(EdgestillError):
    """The work was done and its result is not good enough: a gate, export parity, a refused graph, a divergence."""

    exit_code = 1


class RecipeError(EdgestillError):
    """The recipe or the command line is wrong; nothing ran."""

    exit_code = 2


class MachineLacks(EdgestillError):
    """This machine lacks a library, a driver or a device."""

    exit_code = 3


class DataRejected(EdgestillError):
    """The data would make the result meaningless."""

    exit_code = 4


class IntegrityError(EdgestillError):
    """A file is not the one that was recorded."""

    exit_code = 5


class WorkspaceLocked(EdgestillError):
    """Another live run holds the workspace."""

    exit_code = 6


class ResourceExhausted(EdgestillError):
    """Disk or memory ran out; the workspace is whole and the run can be resumed."""

    exit_code = 7


class MeasurementInvalid(EdgestillError):
    """The numbers cannot be trusted, so none is given."""

    exit_code = 8


class Cancelled(EdgestillError):
    """SIGINT or SIGTERM; the workspace can be resumed."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("cancelled; run the same command again to resume")
        self.signal_number = signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says so: on a CPU it is a plain RuntimeError."""
    return isinstance(error, MemoryError) or any(
        sign in str(error).lower() for sign in ("out of memory", "can't allocate memory")
    )
