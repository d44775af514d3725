"""Latency of several graphs on this CPU, in rounds of another order each, in a process of its own.

    python -m benchmarks.calibrating.graph_latency '{"graphs": {"fp32": "model.onnx"}, "images": "images.npy", ...}'

Its last line of output is JSON: milliseconds of each run, by graph.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.calibrating.image_file import read_batches
from benchmarks.calibrating.quantizing import float_session

WARM_UP_ROUNDS = 3


def main() -> None:
    asked = json.loads(sys.argv[1])
    sessions = {name: float_session(path, asked["threads"]) for name, path in asked["graphs"].items()}
    images = list(read_batches(Path(asked["images"]), 8, 1))  # rotated, so that none stays in a cache
    names, random = list(sessions), np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    started_s = time.perf_counter()
    for number in range(asked["rounds"] + WARM_UP_ROUNDS):
        turns = [names[place] for place in random.permutation(len(names))]  # what runs after FP32 finds its caches full
        for name in turns:
            session, feed = sessions[name]
            image = images[number % len(images)]
            began_s = time.perf_counter()
            session.run(None, {feed: image})
            if number >= WARM_UP_ROUNDS:
                found[name].append((time.perf_counter() - began_s) * 1000)
        if time.perf_counter() - started_s > asked["seconds"]:
            break
    print(json.dumps(found))


if __name__ == "__main__":
    main()
