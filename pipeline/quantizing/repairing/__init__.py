"""Repairs of a quantized graph, each kept only for what it brings."""
