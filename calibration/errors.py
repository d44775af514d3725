"""What calibration refuses, and why."""

from __future__ import annotations


class CalibrationError(Exception):
    """Calibration cannot give a result that could be trusted; the message says what, where and what to do."""


class PoisonedData(CalibrationError):
    """A NaN or an infinity in an image or in an activation; the message names image and tensor."""


class GraphRefused(CalibrationError):
    """The ONNX graph cannot be quantized; the message says what, where and what to do."""
