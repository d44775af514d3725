"""How the range of a tensor is chosen from its statistics: one class a method, in a file of its own."""
