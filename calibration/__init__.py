"""Which range each tensor gets, and the INT8 graph that follows from it.

Importing this package costs numpy and nothing heavier: onnx and onnxruntime come with `collect`, `prepare`,
`placement`, `qdq` and `float16`.
"""

from __future__ import annotations

from calibration.methods.entropy import Entropy
from calibration.methods.method import Method
from calibration.methods.minmax import MinMax
from calibration.methods.mse import MSE
from calibration.methods.percentile import Percentile
from calibration.placement.families import FAMILY

METHODS: dict[str, Method] = {method.name: method for method in (MinMax(), Percentile(), Entropy(), MSE())}
"""Calibration methods by name, with their usual settings. To add one: a file beside this one, and a place in this
line."""

FAMILIES: tuple[str, ...] = tuple(FAMILY)
"""Names of the placement families, one per kind of runtime that takes a Q/DQ graph differently."""
