"""The commands; nothing but parsing and printing."""

from __future__ import annotations

import gc
import io
import signal
import sys
from typing import Annotated

import typer

from pipeline.cli import calibration, engines, recipes
from pipeline.cli.finish import SIGNAL_BASE, failed
from pipeline.errors import RecipeError

# typer raises it for a wrong command line and, version by version, takes it from elsewhere.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="edgestill",
    help="From a trained teacher to INT8 engines that can ship.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (recipes, calibration, engines):  # the order of --help
    app.add_typer(group.app)


@app.callback(invoke_without_command=True)
def _edgestill(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        print(version("edgestill"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(RecipeError.exit_code)


def main() -> None:
    """The console script."""
    # Imports make many objects and no garbage: looking for it after every 700th costs a tenth of the start.
    gc.set_threshold(50_000)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale without the characters that we print shows others; it is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        code = app(prog_name="edgestill", standalone_mode=False)
    except UsageError as error:
        code = failed(RecipeError(_usage(error)), "--json" in sys.argv)
    except KeyboardInterrupt:
        code = SIGNAL_BASE + signal.SIGINT
    sys.exit(code or 0)


def _usage(error: Exception) -> str:
    """What is wrong with the command line, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "edgestill"
    message = getattr(error, "format_message", error.__str__)()
    sentence = message if message.endswith((".", "?")) else f"{message}."
    return f"{sentence} See {command} --help."
