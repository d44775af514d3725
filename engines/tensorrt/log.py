"""What TensorRT says while it works: through its logger, and past it to file descriptor 2."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, TextIO

from engines.tensorrt.api import ILogger, Module

Severity = Literal["error", "warning", "note"]

# After an API error on a machine without a driver, TensorRT-RTX reports its own failed look for one as a second error.
# Only the line of that look is noise: `In generateForCurrent ... (cudaError 35 ...)` is a real failure.
NO_DRIVER_NOISE = re.compile(r"catchCudaError.*\(cudaError 35: ")

_STDERR = 2

_CPP_PLACES = (
    re.compile(
        r"\.?\s*In \w+(?:\(\))? at \S+?:\d+"
    ),  # ". In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012"
    re.compile(r"\[\w+\.(?:cpp|h|cu):\d+: \w+\]\s*"),  # "[pass.cpp:337: check_turing_op_compatibility] "
    re.compile(r"^\w+\.cpp:\d+: "),  # "onnxOpImporters.cpp:1980: "
    re.compile(r"\bI\w+::\w+: "),  # "IBuilder::buildSerializedNetwork: "
    re.compile(r"\s*\(\s*\)"),  # what these leave empty
)


@dataclass
class Recorder:
    """The lines of one build or one load."""

    lines: list[tuple[Severity, str]] = field(default_factory=list)
    cancelled: bool = False
    interruption: BaseException | None = None
    """What Python raised inside a callback, such as KeyboardInterrupt: it must not travel through C++."""

    def errors(self) -> list[str]:
        return [text for text in self._texts("error") if not NO_DRIVER_NOISE.search(text)]

    def warnings(self) -> list[str]:
        return self._texts("warning")

    def last_starting_with(self, start: str) -> str | None:
        found = [text for _, text in self.lines if text.startswith(start)]
        return found[-1] if found else None

    def _texts(self, wanted: Severity) -> list[str]:
        return [text for severity, text in self.lines if severity == wanted]


# State of the process, because TensorRT's is: a logger that comes while an object of another one lives is, it warns,
# ignored for what no object of its own says. So each module gets one logger, for good, that passes lines on.
_LOGGERS: dict[str, ILogger] = {}
_RECORDERS: list[Recorder] = []


@contextlib.contextmanager
def recording(trt: Module) -> Iterator[tuple[ILogger, Recorder]]:
    """The module's logger, and a recorder of what goes through it meanwhile."""
    recorder = Recorder()
    _RECORDERS.append(recorder)
    try:
        yield _LOGGERS.get(trt.__name__) or _logger(trt), recorder
    finally:
        _RECORDERS.remove(recorder)


def _logger(trt: Module) -> ILogger:
    severities: dict[object, Severity] = {
        trt.ILogger.INTERNAL_ERROR: "error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base has no types
        def log(self, severity: object, msg: str) -> None:
            try:
                line = (severities.get(severity, "note"), msg)
                for recorder in _RECORDERS:
                    recorder.lines.append(line)
            except BaseException as error:
                for recorder in _RECORDERS:
                    recorder.interruption = error

    _LOGGERS[trt.__name__] = Logger()
    return _LOGGERS[trt.__name__]


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Lines that native code writes to file descriptor 2 meanwhile, filled in at the end; Python's own go on to it.

    The descriptor belongs to the process: no two captures at a time.
    """
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(_STDERR)
    with tempfile.TemporaryFile() as file, _python_stderr_on(saved):
        os.dup2(file.fileno(), _STDERR)
        try:
            yield lines
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            lines += _written_lines(file)


def readable(text: str) -> str:
    """A message of TensorRT's on one line, without the places in its C++ sources."""
    for place in _CPP_PLACES:
        text = place.sub("", text)
    return " ".join(text.split())


@contextlib.contextmanager
def _python_stderr_on(descriptor: int) -> Iterator[None]:
    """A progress bar that draws on stderr, from any thread, must not end up in the capture."""
    if not _draws_on_stderr(sys.stderr):
        yield
        return
    with (
        open(os.dup(descriptor), "w", encoding=sys.stderr.encoding, errors="replace", buffering=1) as stream,  # noqa: PTH123
        contextlib.redirect_stderr(stream),
    ):
        yield


def _draws_on_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == _STDERR
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        return False


def _written_lines(file: BinaryIO) -> list[str]:
    file.seek(0)
    lines = file.read().decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
