"""What a device's preset says of a target that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.base import INT8_PRECISIONS
from engines.presets import PRESETS


def with_presets(section: Any) -> Any:
    """`[build]` as read from TOML, each target completed by its preset; what is wrong in it stays as it is."""
    if not isinstance(section, Mapping) or not isinstance(section.get("targets"), Mapping):
        return section
    return {**section, "targets": {name: with_preset(each) for name, each in section["targets"].items()}}


def with_preset(target: Any) -> Any:
    """One target: what the preset says, where the target itself does not."""
    if not isinstance(target, Mapping) or target.get("preset") not in PRESETS:
        return target
    found = {**_of_preset(target["preset"]), **target}
    if "int8" not in target and not set(INT8_PRECISIONS) & set(found["precisions"]):
        found.pop("int8", None)
    return found


def _of_preset(name: str) -> dict[str, Any]:
    preset = PRESETS[name]
    options = {option: getattr(preset.builder, option) for option in preset.builder.asked()}
    found: dict[str, Any] = {"runtime": preset.runtime, "precisions": preset.precisions, **options}
    if preset.compute_capabilities:
        found["compute_capabilities"] = preset.compute_capabilities
    if preset.opset is not None:
        found["opset"] = preset.opset
    if preset.int8 != "qdq":
        found["int8"] = preset.int8
    return found
