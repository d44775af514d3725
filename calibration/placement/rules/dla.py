"""What is said of a node for NVIDIA's deep learning accelerator."""

from __future__ import annotations

from calibration.placement.rules.rule import Rule

_DLA = "NVIDIA TensorRT documentation, 'DLA Supported Layers and Restrictions'"
_DLA_VERSIONS = "Jetson: TensorRT 8.6 to 10.7, and 11.4.1 on AGX Orin"

DLA_CONVOLUTION = Rule(
    name="dla-convolution",
    pattern="two-dimensional Conv within the limits of DLA",
    reason="INT8 in and out on the accelerator",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
DLA_LAYER = Rule(
    name="dla-layer",
    pattern="activation, pooling, element-wise operator or Concat of four dimensions behind INT8 layers",
    reason="{operator} in INT8 on the accelerator: each tensor between its layers has a scale",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
DLA_LIMITS = Rule(
    name="dla-limits",
    pattern="convolution or pooling beyond the limits of DLA",
    reason="DLA does not take it ({limit}); it runs on the GPU in float",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
NO_DLA = Rule(
    name="no-dla-layer",
    pattern="any other operator",
    reason="DLA has no INT8 {operator}; it runs on the GPU, or on DLA in FP16, in float",
    source=_DLA,
    versions=_DLA_VERSIONS,
)
