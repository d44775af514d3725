"""The calibration cache of TensorRT 8 to 10: read, written, linted, and what each version makes of it."""
