"""Builds in a process of their own: what ends it, a native abort included, fails these builds and nothing else.

The child is `python -m engines.build_child`; it reports on a pipe, a JSON document a line, because native code
writes to its stdout and stderr as it likes. What it writes there is the log of a build that died.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, final

from engines.audit import RealizedLayer
from engines.base import BuiltEngine, Target
from engines.errors import BuildCancelled, BuildFailed, EngineDamaged, EngineError, RuntimeMissing

POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0
_LOG_LINES = 8
ERRORS: Mapping[str, type[EngineError]] = {
    each.__name__: each for each in (EngineError, RuntimeMissing, BuildFailed, BuildCancelled, EngineDamaged)
}


class OutOfMemory(BuildFailed):
    """A build took more memory than it was allowed."""


@dataclass(frozen=True)
class Build:
    """One engine to build."""

    graph: Path
    precision: str
    to: Path
    ranges: Path | None = None
    """The table of ranges of the graph, where the target's INT8 is built with one."""

    def to_json(self) -> dict[str, str | None]:
        ranges = None if self.ranges is None else str(self.ranges.absolute())
        paths = {"graph": str(self.graph.absolute()), "to": str(self.to.absolute()), "ranges": ranges}
        return {"precision": self.precision, **paths}


Outcome = BuiltEngine | EngineError


def built_apart(
    target: Target,
    builds: Sequence[Build],
    on_step: Callable[[int, str, int, int], bool] | None = None,
    memory_limit_bytes: int | None = None,
) -> list[Outcome]:
    """The engines of a target, one after the other in one process: each built, or the error that it ended with.

    `on_step` is told (index of the build, phase, steps done, steps in all) and returns False to cancel. A process that
    dies fails the build that it was at; the rest is built in a new one. Raises BuildCancelled, and what `on_step`
    raises; then the process is gone.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(builds):
        rest = builds[len(outcomes) :]
        before = len(outcomes)

        def step(index: int, phase: str, done: int, total: int, before: int = before) -> bool:
            return on_step is None or on_step(before + index, phase, done, total)

        outcomes += _Child(target, rest, memory_limit_bytes).outcomes(step)
    return outcomes


@final
class _Child:
    """One process, until it ends."""

    def __init__(self, target: Target, builds: Sequence[Build], memory_limit_bytes: int | None) -> None:
        self._target, self._builds, self._limit_bytes = target, builds, memory_limit_bytes

    def outcomes(self, on_step: Callable[[int, str, int, int], bool]) -> list[Outcome]:
        """Of the builds in order; fewer than there are where the process died, the last one then an error."""
        with tempfile.TemporaryFile() as log:
            reading, writing = os.pipe()
            with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123 a descriptor has no path
                try:
                    process = self._started(writing, log)
                finally:
                    os.close(writing)
                try:
                    return self._followed(process, pipe, log, on_step)
                finally:
                    _end(process)

    def _started(self, writing: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        request = {"target": asdict(self._target), "builds": [build.to_json() for build in self._builds]}
        return subprocess.Popen(  # noqa: S603 - this interpreter, a module beside this one
            [sys.executable, "-m", "engines.build_child", str(writing), json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            cwd="/",  # nothing of the user's working directory is imported
            start_new_session=True,  # Ctrl-C is ours to pass on
            env={**os.environ, "PYTHONPATH": _import_path(), "PYTHONSAFEPATH": "1"},
        )

    def _followed(
        self,
        process: subprocess.Popen[bytes],
        pipe: IO[bytes],
        log: IO[bytes],
        on_step: Callable[[int, str, int, int], bool],
    ) -> list[Outcome]:
        found: list[Outcome] = []
        last = ("start", 0, 1)
        for message in _messages(pipe):
            if message is not None and "outcome" in message:
                found.append(self._outcome(message["outcome"], len(found)))
                last = ("start", 0, 1)
            elif message is not None:
                last = (message["phase"], message["done"], message["total"])
            if len(found) < len(self._builds) and not on_step(len(found), *last):
                _end(process)
                _clear(self._builds[len(found)])
                raise BuildCancelled(f"{self._builds[len(found)].graph}: the build was cancelled; nothing was written")
            if (used := _resident_bytes(process.pid)) > (self._limit_bytes or sys.maxsize):
                _end(process)
                return [*found, self._too_large(self._builds[len(found)], used)]
        code = process.wait()
        if len(found) < len(self._builds):
            found.append(self._died(self._builds[len(found)], code, log))
        return found

    def _outcome(self, document: Mapping[str, Any], index: int) -> Outcome:
        if "error" in document:
            return ERRORS[document["error"]](document["message"])
        layers = tuple(RealizedLayer.from_json(each) for each in document["layers"])
        return BuiltEngine(
            **{**document, "file": self._builds[index].to, "layers": layers, "log": tuple(document["log"])}
        )

    def _too_large(self, build: Build, used_bytes: int) -> OutOfMemory:
        limit = (self._limit_bytes or 0) >> 20
        _clear(build)
        return OutOfMemory(
            f"{build.graph}: out of memory: the build took {used_bytes >> 20} MiB and memory_limit_mb allows {limit}; "
            "raise it, or build on a machine with more"
        )

    def _died(self, build: Build, code: int, log: IO[bytes]) -> BuildFailed:
        _clear(build)
        log.seek(0)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        said = " | ".join(lines[-_LOG_LINES:]) or "it said nothing"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return BuildFailed(f"{build.graph}: the process that builds {build.precision} {how}: {said}")


def _messages(pipe: IO[bytes]) -> Iterator[Mapping[str, Any] | None]:
    """What comes over the pipe; None each time that nothing came for a moment. Ends with the pipe."""
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], POLL_SECONDS)
        if not ready:
            yield None
            continue
        data = os.read(pipe.fileno(), 1 << 20)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _clear(build: Build) -> None:
    """Nothing of an engine stays that was not finished, its hidden partial file included."""
    for file in (build.to, *build.to.parent.glob(f".{build.to.name}.*")):
        file.unlink(missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _resident_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def _import_path() -> str:
    """What this process imports from, so that the child finds the same engines and the same runtimes."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
