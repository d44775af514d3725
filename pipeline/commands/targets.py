"""`edgestill targets`: the devices that a recipe may name, and what this machine can do for each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from engines import ENGINES
from engines.base import Target
from engines.presets import PRESETS, Preset
from pipeline.building.target_presets import with_preset
from pipeline.building.target_settings import TargetSettings
from pipeline.commands.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class _Here:
    """What this machine can do with a target; None where nothing hinders it."""

    why_not_build: str | None
    why_not_run: str | None

    @property
    def able(self) -> str:
        able = [word for word, why in (("build", self.why_not_build), ("run", self.why_not_run)) if why is None]
        return " and ".join(able) or "neither"


def targets() -> Outcome:
    """Every preset with its runtime, its GPUs and the source of both, and whether it is built or run here."""
    here = {name: _here(target_of_preset(name)) for name in PRESETS}
    document = {
        "targets": {
            name: {**asdict(preset), "here": here[name].able, **asdict(here[name])} for name, preset in PRESETS.items()
        }
    }
    return Outcome(document, lambda console: _show(console, here))


def target_of_preset(name: str) -> Target:
    """What a recipe's target is that says nothing but `preset`."""
    return TargetSettings.model_validate(with_preset({"preset": name})).target(name, threads=1)


def _here(target: Target) -> _Here:
    engine = ENGINES[target.runtime]
    return _Here(engine.why_not_build(target), engine.why_not_run(target))


def _show(console: Console, here: dict[str, _Here]) -> None:
    console.print(_table(here))
    for reason, names in _reasons(here).items():
        console.print(f"\n{', '.join(names)}: {reason}", markup=False, soft_wrap=True)


def _table(here: dict[str, _Here]) -> Table:
    from rich.table import Table

    table = Table("target", "device", "runtime", "GPU", "precisions", "here", box=None, pad_edge=False)
    for name, preset in PRESETS.items():
        table.add_row(name, preset.device, preset.runtime, _gpu(preset), ", ".join(preset.precisions), here[name].able)
    return table


def _gpu(preset: Preset) -> str:
    if not ENGINES[preset.runtime].for_gpu:
        return "-"
    return ", ".join(preset.compute_capabilities) or "portable"


def _reasons(here: dict[str, _Here]) -> dict[str, list[str]]:
    """Each reason once, with the targets that it is of."""
    found: dict[str, list[str]] = {}
    for name, each in here.items():
        if each.why_not_build is not None and each.why_not_build == each.why_not_run:
            found.setdefault(f"neither built nor run here: {each.why_not_build}", []).append(name)
            continue
        for verb, why in (("not built here", each.why_not_build), ("not run here", each.why_not_run)):
            if why is not None:
                found.setdefault(f"{verb}: {why}", []).append(name)
    return found
