"""Where `quantize` and `calibrate` get what they work on, and which options each source goes without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import typer

Source = Literal["--data", "--sketches", "--sketches with --data", "--cache", "--explain"]

_ALWAYS: Final = frozenset({"model", "family", "as_json", "quiet"})
_USES: Final[dict[Source, frozenset[str]]] = {
    "--sketches": frozenset({"sketches", "method", "weights", "out", "tensorrt_version", "bf16"}),
    "--cache": frozenset({"cache", "out", "tensorrt_version", "explain"}),
    "--explain": frozenset({"explain"}),
}
"""The parameters of the command by name; `--data` uses all that no other source brings."""
_OF_THE_PASS: Final = frozenset({"images", "channel_extremes"})
"""What sketches have decided already."""


def source_of_ranges(context: typer.Context) -> Source:
    """The one source that the command line names; `--explain` alone needs none.

    Raises typer.BadParameter without a source, and where an option is given that this source would not use.
    """
    given = {name for name in context.params if _is_given(context, name)}
    source = _named(given)
    used = _USES.get(source, given - {"cache"})
    if source == "--sketches with --data":
        used -= _OF_THE_PASS
    unused = sorted(_option(name) for name in given - used - _ALWAYS)
    if unused:
        raise typer.BadParameter(f"{source} makes no use of {', '.join(unused)}: {_remedy(source, unused)}")
    return source


def refuse_options(context: typer.Context, names: Sequence[str], subject: str) -> None:
    """Raises typer.BadParameter where one of them is given, of which the subject makes no use."""
    if unused := [_option(name) for name in names if _is_given(context, name)]:
        rest = "it" if len(unused) == 1 else "them"
        raise typer.BadParameter(f"{subject} makes no use of {', '.join(unused)}: leave {rest} out")


def _named(given: set[str]) -> Source:
    if {"sketches", "data"} <= given:
        return "--sketches with --data"
    for source in ("--sketches", "--cache", "--data", "--explain"):
        if source.removeprefix("--") in given:
            return source
    raise typer.BadParameter("--data is missing; only --sketches, --explain and --cache go without")


def _remedy(source: Source, unused: list[str]) -> str:
    rest = "it" if len(unused) == 1 else "them"
    if source == "--explain":
        return f"give --data too, or leave {rest} out"
    if "--data" in unused or source == "--sketches with --data":
        return f"leave {rest} out"
    if source == "--sketches" and not {*map(_option, _OF_THE_PASS)} & {*unused}:
        return f"leave {rest} out, or give --data too"
    return f"leave {rest} out, or give --data in place of {source}"


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
