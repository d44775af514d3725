"""What a command has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """The same for programs and for people."""

    document: dict[str, Any]
    """For --json."""
    show: Callable[[Console], None]
    """For a terminal or a log."""
    exit_code: int = 0
    silent: bool = False
    """Whether there is nothing to say, not even with --json: another process speaks."""
