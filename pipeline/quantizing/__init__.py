"""From a float graph and data to its quantized graphs, and what each layer of them costs."""
