"""What every long work is given by its process: progress, a safe end, random numbers, the others that join in."""
