"""From a network in torch to its ONNX graph, and whether the graph computes the same."""
