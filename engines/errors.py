"""What can go wrong with an engine."""

from __future__ import annotations


class EngineError(Exception):
    """Something about an engine went wrong; the message says what, where and what to do."""


class RuntimeMissing(EngineError):
    """This machine lacks the library, driver or GPU that the work needs."""


class BuildFailed(EngineError):
    """The runtime refused the graph or the settings."""


class BuildCancelled(EngineError):
    """The build was cancelled from outside."""


class EngineDamaged(EngineError):
    """The engine file is not the one that was recorded; it was not loaded."""
