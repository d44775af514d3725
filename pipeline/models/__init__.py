"""Which network a recipe names, what it takes and gives, and its weights on disk. Networks are made by `networks`."""
