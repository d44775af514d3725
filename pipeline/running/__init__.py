"""Runs the stages of a recipe: which of them, in which order, and which have their result already."""
