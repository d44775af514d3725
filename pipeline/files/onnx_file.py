"""ONNX graphs as files: read whatever their size, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import IntegrityError, NotAcceptable
from pipeline.files import atomic

if TYPE_CHECKING:
    import onnx


def loaded_graph(graph: Path) -> onnx.ModelProto:
    """With its weights, or, from 2 GB on, with the paths to them.

    Raises NotAcceptable where it is no graph, IntegrityError where weights are not where it says.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from calibration.external_data import loaded

    try:
        return loaded(graph)
    except DecodeError as error:
        raise NotAcceptable(f"{graph}: is no ONNX file ({error}); export it again") from error
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{graph}: its weights cannot be read ({error}); "
            "files of weights lie in the graph's folder, where the export put them, and move with it"
        ) from error


def write_graph(path: Path, model: onnx.ModelProto) -> list[Path]:
    """One file, or, from 2 GB on, a graph and a file of its weights beside it, named after it; gives what it wrote.

    The same bytes for the same graph. A graph that is there has all of its weights, whatever was killed.
    """
    from calibration.external_data import fits_one_file, serialized, write

    weights = weights_file(path)
    if fits_one_file(model):
        atomic.write_bytes(path, serialized(model))
        weights.unlink(missing_ok=True)  # of an earlier graph that was larger
        return [path]
    path.unlink(missing_ok=True)  # it must not be read with weights of another
    with atomic.replacing(weights) as temporary, temporary.open("wb") as file:
        graph = write(model, file, weights.name)
    atomic.write_bytes(path, graph)
    return [path, weights]


def remove_graph(path: Path) -> None:
    """And its weights; what is not there is fine."""
    path.unlink(missing_ok=True)
    weights_file(path).unlink(missing_ok=True)


def weights_file(graph: Path) -> Path:
    """Where the weights of a graph of 2 GB or more are written."""
    return graph.with_name(f"{graph.name}.data")
