"""What lies on disk: written whole or not at all, read without running it, known by its digests."""
