"""`engines.json`, read back: what was asked for, and what stands on disk for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engines.base import Target
from pipeline.artifact import Engines
from pipeline.building.engine_parity import EngineParity


@dataclass(frozen=True)
class BuiltRecord:
    """One precision of one target."""

    target: Target
    precision: str
    state: Literal["built", "not_built"]
    reason: str
    """Why it was not built."""
    failed: bool = False
    """Whether it was not built though it had to be."""
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    parity: EngineParity | None = None
    """Of its answers with its graph's; None where it was not built."""

    @property
    def name(self) -> str:
        """`cpu/int8`."""
        return f"{self.target.name}/{self.precision}"

    @property
    def reference(self) -> str:
        """The same target's FP32."""
        return f"{self.target.name}/fp32"


def built_records(engines: Engines) -> tuple[BuiltRecord, ...]:
    """In the order of the recipe."""
    return tuple(_record(entry) for entry in engines.json("engines.json"))


def _record(entry: dict[str, Any]) -> BuiltRecord:
    return BuiltRecord(
        target=Target.from_json(entry["target"]),
        precision=entry["precision"],
        state=entry["state"],
        reason=entry["reason"],
        failed=entry["failed"],
        file=entry.get("file"),
        bytes=entry.get("bytes"),
        sha256=entry.get("sha256"),
        parity=EngineParity(**entry["parity"]) if "parity" in entry else None,
    )
