"""Peak host memory of an engine: loaded and run once, in a process of its own. What lies on a GPU is not in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from engines.base import Target
from engines.errors import EngineError

TIMEOUT_SECONDS = 300.0
_STDERR_LINES = 5


def peak_memory_bytes(
    runtime: str,
    engine: Path,
    sha256: str,
    target: Target,
    batch_size: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> int:
    """Peak resident host memory of a process that opens the engine and runs one batch, interpreter and libraries
    included. Of a GPU's engine it is the host's share alone: what a discrete GPU allocates is not counted.

    `shapes` are of one sample, by input: for inputs with other dynamic dimensions than the batch.
    Raises EngineError with the end of what that process said when it fails or takes too long.
    """
    where = f"{engine.name}: peak host memory at batch size {batch_size}"
    request = {
        "runtime": runtime,
        "engine": str(engine.absolute()),
        "sha256": sha256,
        "target": asdict(target),
        "batch_size": batch_size,
        "shapes": {name: list(shape) for name, shape in (shapes or {}).items()},
    }
    try:
        child = subprocess.run(  # noqa: S603 - this interpreter, this module
            [sys.executable, "-m", "engines.peak_memory", json.dumps(request)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
            cwd="/",  # nothing of the user's working directory is imported
            env={**os.environ, "PYTHONPATH": _import_path(), "PYTHONSAFEPATH": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{where}: not done after {timeout_seconds:g} s; take a smaller batch size") from error
    if child.returncode != 0:
        said = " | ".join(child.stderr.strip().splitlines()[-_STDERR_LINES:]) or "it said nothing"
        raise EngineError(f"{where}: the process that loads it ended with {child.returncode}: {said}")
    return int(json.loads(child.stdout.splitlines()[-1])["peak_host_memory_bytes"])


def high_water_mark_bytes(status: Path = Path("/proc/self/status")) -> int:
    """VmHWM of this process: unlike getrusage's, it does not start from what the parent had when it forked."""
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise EngineError(f"{status}: has no VmHWM line; this kernel does not tell the peak memory of a process")


def main() -> int:
    """The child: its one argument is the request, its last line of stdout the answer."""
    from engines import ENGINES
    from engines.feeds import random_feeds

    request = json.loads(sys.argv[1])
    target = Target.from_json(request["target"])
    try:
        with ENGINES[request["runtime"]].open(Path(request["engine"]), request["sha256"], target) as session:
            session.run(random_feeds(session.inputs, request["batch_size"], seed=0, shapes=request["shapes"]))
            peak_host_bytes = high_water_mark_bytes()
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({"peak_host_memory_bytes": peak_host_bytes}) + "\n")
    return 0


def _import_path() -> str:
    """What this process imports from, so that the child finds the same engines and the same runtimes."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)


if __name__ == "__main__":
    sys.exit(main())
