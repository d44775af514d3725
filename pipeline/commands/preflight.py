"""`edgestill preflight`: will an engine load there? Answered without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from engines.compatibility import Answer, EngineFacts, will_load
from engines.device import Device
from engines.files import sha256_of_file
from engines.plan import version_text
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.building.evidence import SUFFIX, device_here, evidence_beside, facts_from_evidence
from pipeline.commands.outcome import Outcome
from pipeline.errors import IntegrityError, NotAcceptable, RecipeError

if TYPE_CHECKING:
    from rich.console import Console


def preflight(engine: Path, device: Path | None, strict: bool) -> Outcome:
    """Exit 1 where the answer is no, and with `strict` also where it is unknown.

    Raises RecipeError for files that are not there or no device, IntegrityError where the engine is not the one that
    its manifest describes, or no whole plan.
    """
    for path in (engine, device):
        if path is not None and not path.is_file():
            raise RecipeError(f"{path}: there is no such file")
    there = device_here() if device is None else _device(device)
    evidence = evidence_beside(engine)
    if evidence is not None and (found := sha256_of_file(engine)) != evidence["sha256"]:
        raise IntegrityError(
            f"{engine}: SHA-256 is {found[:12]}…, its manifest describes {evidence['sha256'][:12]}…; build it again"
        )
    with engine_errors_explained("preflight"):
        facts = facts_from_evidence(engine, evidence)
    answer = will_load(facts, there)
    document = {
        "engine": str(engine),
        "verdict": answer.verdict,
        "reasons": list(answer.reasons),
        "runtime": facts.runtime,
        "version": version_text(facts.version),
        "manifest": evidence is not None,
        "device": there.to_json(),
    }
    refused = answer.verdict == "no" or (strict and answer.verdict == "unknown")
    code = NotAcceptable.exit_code if refused else 0
    return Outcome(document, lambda console: _show(console, engine, facts, answer, evidence is not None), code)


def _device(path: Path) -> Device:
    try:
        return Device.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(f"{path}: {error}; write it on the device: edgestill doctor --json > device.json") from error


def _show(console: Console, engine: Path, facts: EngineFacts, answer: Answer, has_manifest: bool) -> None:
    lines = [f"{engine.name}: {answer.verdict}", *(f"  {reason}" for reason in answer.reasons)]
    if not has_manifest:
        lines.append(f"  {engine.name}{SUFFIX} is not beside it: its header alone was read")
    lines.append(f"  written by {facts.runtime} {version_text(facts.version)}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
