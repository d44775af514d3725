"""From what a target asks for to its engines, and the evidence that each carries."""
