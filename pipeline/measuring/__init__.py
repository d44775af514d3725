"""What networks, graphs and engines answer on data, how much of it is right, and how long the engines take."""
