"""Where `quantize` writes: a folder, or one INT8 graph by its own name with everything else beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RecipeError

_GRAPH, _INT8 = ".onnx", ".int8.onnx"


@dataclass(frozen=True)
class Destination:
    """Each file is called `<stem>.<name>`, but for the INT8 graph where that has a name of its own."""

    folder: Path
    stem: str
    int8: Path | None = None

    def path(self, name: str) -> Path:
        """Of a file by what it is, such as `ranges.json` or `tensorrt.int8.onnx`."""
        return self.int8 if self.int8 is not None and name.endswith(_INT8) else self.folder / f"{self.stem}.{name}"


def destination_of(model: Path, out: Path | None, families: Sequence[str]) -> Destination:
    """`out` is a folder, or a path ending in .onnx; without it files lie beside the model.

    Raises RecipeError for the name of one graph where several families ask for one each, and for the model itself.
    """
    if out is None or out.suffix != _GRAPH or out.is_dir():
        return Destination(out or model.parent, model.stem)
    if len(families) > 1:
        raise RecipeError(f"--out {out}: names one graph, and {len(families)} families are asked for; name a folder")
    if out.resolve() == model.resolve():
        raise RecipeError(f"--out {out}: would replace the model; choose another file")
    return Destination(out.parent, out.stem, out)
