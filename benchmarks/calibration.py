"""Calibration side by side: edgestill, `onnxruntime.quantization` and NVIDIA Model Optimizer, on the same networks.

    .venv/bin/python benchmarks/calibration.py --folder edgestill/calibration --install-model-optimizer

Prints Markdown. A run that is cut goes on where it was: every measurement is a process and a file of its own in the
folder. `--only PART` measures one part, `--tables` prints what is there. A whole run takes hours on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # This file has the name of a package that it measures; without its own folder in front, the package is found.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.calibrating.parts import main

    main(__doc__ or "")
