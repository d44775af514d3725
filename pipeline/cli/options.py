"""Options that several commands take, and how a command ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline.cli.finish import finish
from pipeline.commands.outcome import Outcome
from pipeline.process.cancellation import Cancellation

if TYPE_CHECKING:
    from pipeline.process.progress import Progress

Recipe_ = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name, or a path ending in .toml.")]
Workspace_ = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Where results stand; default ./edgestill/<recipe name>.")
]
Json_ = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
Quiet_ = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Threads_ = Annotated[int, typer.Option(min=1)]
BatchSize_ = Annotated[int, typer.Option(min=1, help="Samples read at once.")]


def progress_of(quiet: bool) -> Progress:
    """On stderr: a bar on a terminal, lines elsewhere, nothing where nothing is wanted."""
    from pipeline.process.progress import progress_for

    return progress_for(sys.stderr, quiet)


def finished(command: Callable[[Cancellation], Outcome], as_json: bool) -> NoReturn:
    """Runs the command, prints its outcome and leaves with its exit code."""
    raise typer.Exit(finish(command, as_json))
