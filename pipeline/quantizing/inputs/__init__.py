"""What a calibration reads: the arrays and images of a graph of the user's own, a few samples at a time."""
