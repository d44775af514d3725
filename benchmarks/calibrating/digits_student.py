"""The student of the built-in recipe `digits`, and the images that its recipe calibrates and tests it on.

    python -m benchmarks.calibrating.digits_student '{"folder": "...", "threads": 1}'

Runs the recipe up to its export; its last line of output is JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.calibrating.image_file import write_images
from benchmarks.calibrating.subjects import Subject

SCALE = 0.0625
"""The recipe's `[data] preprocess`."""
IMAGES = {"calibration": "calibration.npy", "test": "test.npy"}


def main() -> None:
    from sklearn.datasets import load_digits

    folder = Path(json.loads(sys.argv[1])["folder"])
    workspace = folder / "workspace"
    command = [sys.executable, "-m", "pipeline", "run", "digits", "--until", "export", "--workspace", str(workspace)]
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(workspace / "03-export" / "model.onnx", folder / "student.onnx")
    data = load_digits()
    records = json.loads((workspace / "00-data" / "splits.json").read_text(encoding="utf-8"))
    for split, file in IMAGES.items():
        chosen = [index for index, record in enumerate(records) if record["split"] == split]
        write_images((data.images[chosen, None] * SCALE).astype(np.float32), folder / file)
        write_images(data.target[chosen].astype(np.int64), folder / f"{split}-labels.npy")
    counts = {split: len(np.load(folder / file)) for split, file in IMAGES.items()}
    print(json.dumps(counts))


def student_subject(folder: Path) -> Subject:
    """The files that this module writes."""
    return Subject(
        name="digits-student",
        title="digits student",
        graph=folder / "student.onnx",
        calibration=folder / IMAGES["calibration"],
        evaluation=folder / IMAGES["test"],
        labels=folder / "test-labels.npy",
    )


if __name__ == "__main__":
    main()
