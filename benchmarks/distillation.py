"""Distillation: what each loss brings against labels alone, what a step costs, what the teacher's cache saves.

    .venv/bin/python benchmarks/distillation.py gains [--folder DIR] [--only DATA]
    .venv/bin/python benchmarks/distillation.py speed

`gains` trains about 270 small students (one core, an hour and more) and goes on where it was cut; `speed` takes a few
minutes. Both print Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    from benchmarks.distillation_gains import gains
    from benchmarks.distillation_speed import speed

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("gains", "speed"))
    parser.add_argument("--folder", type=Path, default=Path("edgestill/distillation"), help="keeps every cell")
    parser.add_argument("--only", help="a part of a data set's name")
    asked = parser.parse_args()
    lines = gains(asked.folder.resolve(), asked.only) if asked.part == "gains" else speed()
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main()
