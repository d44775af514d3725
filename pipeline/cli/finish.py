"""How every command ends: its outcome or its error on stdout and stderr, and the exit code that says which."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from pipeline.commands.outcome import SCHEMA_VERSION, Outcome
from pipeline.errors import Cancelled, EdgestillError, ResourceExhausted
from pipeline.process.cancellation import Cancellation

INTERNAL_ERROR = 70
SIGNAL_BASE = 128
TRACEBACK = "EDGESTILL_TRACEBACK"


def finish(command: Callable[[Cancellation], Outcome], as_json: bool) -> int:
    """Runs a command, prints its outcome or its error, and returns the exit code that says which."""
    cancellation, code = Cancellation(), SIGNAL_BASE + signal.SIGPIPE
    try:
        with cancellation.listening():
            outcome = command(cancellation)
            code = outcome.exit_code
            if not outcome.silent:
                _show(outcome, as_json)
    except EdgestillError as error:
        code = failed(error, as_json)
    except MemoryError:
        code = failed(ResourceExhausted("out of memory; run again with smaller batches"), as_json)
    except BrokenPipeError:
        # The reader has seen enough, as `head` does; what is left in the buffer must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # the last resort: a mistake of ours, said as one
        code = _failed_internally(error, as_json)
    return code


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        _print_document({**outcome.document, "exit_code": outcome.exit_code})
        return
    from rich.console import Console

    console = Console(highlight=False)
    # Written by us: rich would end the process with 1 where the reader has left.
    with console.capture() as shown:
        outcome.show(console)
    sys.stdout.write(shown.get())
    sys.stdout.flush()


def _print_document(document: dict[str, Any]) -> None:
    # Escaped to ASCII: the same bytes whatever the locale.
    sys.stdout.write(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1) + "\n")
    sys.stdout.flush()


def failed(error: EdgestillError, as_json: bool) -> int:
    """Says what went wrong, and returns the exit code."""
    code = SIGNAL_BASE + error.signal_number if isinstance(error, Cancelled) else error.exit_code
    if as_json:
        _print_document({"error": type(error).__name__, "message": str(error), "exit_code": code})
    sys.stderr.write(f"edgestill: {error}\n")
    _print_traceback(error)
    return code


def _failed_internally(error: Exception, as_json: bool) -> int:
    if as_json:
        _print_document({"error": type(error).__name__, "message": str(error), "exit_code": INTERNAL_ERROR})
    sys.stderr.write(
        f"edgestill: internal error: {type(error).__name__}: {error}\n"
        f"This is a mistake of ours; run again with {TRACEBACK}=1 and report what it prints.\n"
    )
    _print_traceback(error)
    return INTERNAL_ERROR


def _print_traceback(error: Exception) -> None:
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
