"""What is tried to bring a quantized graph nearer to the float one: rounding, bias correction, equalization."""
