"""`run`, `status`, `data check`, `report` and `new`: the commands of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import Json_, Quiet_, Recipe_, Workspace_, finished, progress_of
from pipeline.commands.outcome import Outcome
from pipeline.process.cancellation import Cancellation

app = typer.Typer()
data_app = typer.Typer(help="Look at a recipe's data before anything trains on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command("run")
def _run(
    recipe: Recipe_,
    workspace: Workspace_ = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Start here; earlier stages must be done.")
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run it even if nothing changed; may be repeated.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="Show the trainings' curves too: tensorboard=FOLDER, mlflow=URI or FOLDER; may be repeated.",
        ),
    ] = None,
    as_json: Json_ = False,
    quiet: Quiet_ = False,
) -> None:
    """Run a recipe: stages whose inputs did not change are skipped, a killed run resumes."""

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.run import run
        from pipeline.running.selection import Selection

        selection = Selection(from_, until, frozenset(force or ()))
        return run(recipe, workspace, selection, progress_of(quiet), cancellation, tuple(track or ()))

    finished(command, as_json)


@app.command("status")
def _status(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False) -> None:
    """Show which stages are done, stale or damaged, and why."""
    from pipeline.commands.status import status

    finished(lambda _: status(recipe, workspace), as_json)


@data_app.command("check")
def _data_check(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False, quiet: Quiet_ = False) -> None:
    """Say what is wrong with a recipe's data: corrupt, repeated, nearly repeated across splits, badly scaled."""

    def command(cancellation: Cancellation) -> Outcome:
        from pipeline.commands.data_check import data_check

        return data_check(recipe, workspace, progress_of(quiet), cancellation)

    finished(command, as_json)


@app.command("report")
def _report(recipe: Recipe_, workspace: Workspace_ = None, as_json: Json_ = False) -> None:
    """Show the report of a finished run, after verifying everything that it rests on."""
    from pipeline.commands.run import report

    finished(lambda _: report(recipe, workspace), as_json)


@app.command("new")
def _new(
    path: Annotated[Path, typer.Argument(metavar="MY.toml", help="The file to write; it must not exist.")],
    from_: Annotated[
        str, typer.Option("--from", metavar="RECIPE", help="The built-in recipe to start from.")
    ] = "digits",
    as_json: Json_ = False,
) -> None:
    """Write a commented recipe to change."""
    from pipeline.commands.new import new

    finished(lambda _: new(path, from_), as_json)
