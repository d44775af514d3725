"""Measurements that a cut run does not lose: each in a process of its own, its result in a file of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SAID_LINES = 3
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cells:
    """The results of a folder; one that failed, or that was asked for otherwise, is measured again by the next run."""

    folder: Path
    before: str
    """Put before each command, such as `nice -n 10`."""
    only_read: bool
    """Whether what is not there yet is left out."""

    def result(
        self, name: str, module: str, request: Mapping[str, Any], python: Path = Path(sys.executable)
    ) -> dict[str, Any]:
        """The last line that `python -m module '<request>'` prints, or `{"error": what it said}`."""
        file = self.folder / "cells" / f"{name}.json"
        found: dict[str, Any] = {"error": NOT_MEASURED}
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
        if "error" not in found and (self.only_read or found["request"] == json.loads(json.dumps(request))):
            return dict(found["result"])
        if self.only_read:
            return {"error": NOT_MEASURED}
        result = _measured(shlex.split(self.before), module, request, python)
        document = result if "error" in result else {"request": dict(request), "result": result}
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
        partial.replace(file)
        print(f"{name}: {result.get('error', 'done')}", file=sys.stderr, flush=True)
        return result


def _measured(before: list[str], module: str, request: Mapping[str, Any], python: Path) -> dict[str, Any]:
    threads = str(request.get("threads", 1))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ORT_DISABLE_TELEMETRY": "1",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
    }
    command = [*before, str(python), "-m", module, json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode != 0:
        said = " | ".join(done.stderr.strip().splitlines()[-SAID_LINES:]) or "it said nothing"
        return {"error": f"ended with {done.returncode}: {said}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))
