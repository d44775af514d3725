"""The parts of `benchmarks/calibration.py`, the tools that it compares and how each is run."""
