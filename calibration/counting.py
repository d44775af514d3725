"""Numbers of things in words."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Such as `1 image` and `359 images`."""
    return f"{count} {noun}" if count == 1 or noun.endswith("s") else f"{count} {noun}s"
