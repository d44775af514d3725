"""Which range each tensor gets, and the INT8 graph that follows from it.

Importing this package costs numpy and nothing heavier: onnx and onnxruntime come with `collect`, `prepare`,
`placement`, `qdq` and `float16`.
"""

from __future__ import annotations

from calibration.entropy import Entropy
from calibration.families import FAMILY
from calibration.method import Method
from calibration.minmax import MinMax
from calibration.mse import MSE
from calibration.percentile import Percentile

METHODS: dict[str, Method] = {method.name: method for method in (MinMax(), Percentile(), Entropy(), MSE())}
"""Calibration methods by name, with their usual settings. To add one: a file beside this one, and a place in this
line."""

FAMILIES: tuple[str, ...] = tuple(FAMILY)
"""Names of the placement families, one per kind of runtime that takes a Q/DQ graph differently."""
