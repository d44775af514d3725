"""The process that `engines.build_process` starts: it builds what it is asked for and reports on a pipe."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from engines import ENGINES
from engines.base import StepDone, Target
from engines.build_process import ERRORS, POLL_SECONDS
from engines.errors import EngineError
from engines.peak_memory import high_water_mark_bytes


def main() -> int:
    """The child: a descriptor to report to, and the request."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    request = json.loads(sys.argv[2])
    target, parent = Target.from_json(request["target"]), os.getppid()
    with open(int(sys.argv[1]), "w", encoding="utf-8") as pipe:  # noqa: PTH123 a descriptor has no path
        for build in request["builds"]:
            graph, to = Path(build["graph"]), Path(build["to"])
            ranges = None if build["ranges"] is None else Path(build["ranges"])
            try:
                built = ENGINES[target.runtime].build(
                    graph, build["precision"], target, to, reporting(pipe, parent), ranges
                )
                peak = high_water_mark_bytes()
                outcome: dict[str, Any] = {**asdict(replace(built, layers=(), peak_memory_bytes=peak)), "file": str(to)}
                outcome["layers"] = [asdict(layer) for layer in built.layers]
            except EngineError as error:
                outcome = {"error": _known(error), "message": str(error)}
            except OSError as error:
                outcome = {"error": "BuildFailed", "message": f"{to}: cannot be written ({error.strerror})"}
            print(json.dumps({"outcome": outcome}), file=pipe, flush=True)
    return 0


def _known(error: EngineError) -> str:
    return next(each.__name__ for each in type(error).__mro__ if each.__name__ in ERRORS)


def reporting(pipe: IO[str], parent: int) -> StepDone:
    """Tells the parent at most ten times a second; ends the build where there is no parent any more."""
    last = [0.0]

    def on_step(phase: str, done: int, total: int) -> bool:
        now = time.monotonic()
        if now - last[0] >= POLL_SECONDS or done == total:
            last[0] = now
            print(json.dumps({"phase": phase, "done": done, "total": total}), file=pipe, flush=True)
        return os.getppid() == parent

    return on_step


if __name__ == "__main__":
    sys.exit(main())
