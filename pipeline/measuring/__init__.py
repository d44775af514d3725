"""What a network, a graph or an engine answers, how much of it is right, and how sure that is."""
