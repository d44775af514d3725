"""What travels beside an engine: an in-toto statement of what it is, what it was made from, and how.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines import ENGINES
from engines.base import BuiltEngine, Target
from engines.compatibility import EngineFacts, facts_of
from engines.device import Device, this_device
from engines.machine import Machine, this_machine
from engines.plan import plan_header
from engines.tensorrt import TensorRT
from engines.tensorrt.trtexec import trtexec_line
from pipeline.errors import IntegrityError
from pipeline.files import atomic

SUFFIX = ".manifest.json"
"""Of the file beside an engine."""

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:edgestill:engine:v1"


@dataclass(frozen=True)
class Origin:
    """SHA-256 by name of what an engine was made from: `graph` always, and what a recipe knows beside it."""

    graph: str
    """The file's name."""
    digests: Mapping[str, str]


def device_here(machine: Machine | None = None) -> Device:
    """What of this machine decides whether an engine loads: what `preflight --for` reads."""
    gpus = (machine or this_machine()).gpus
    versions = {name: next(iter(engine.versions().values()), None) for name, engine in ENGINES.items()}
    known = {name: found for name, found in versions.items() if found is not None}
    return this_device(known, TensorRT().dla_cores(), gpus[0].name if gpus else None)


def write_evidence(
    built: BuiltEngine,
    precision: str,
    target: Target,
    origin: Origin,
    device: Device,
    audit: Mapping[str, Any],
    takes: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `<engine>.manifest.json`; nothing in it differs between two builds of the same bytes on one machine."""
    to = built.file.with_name(built.file.name + SUFFIX)
    atomic.write_json(to, statement(built, precision, target, origin, device, audit, takes, parity))
    return to


def statement(
    built: BuiltEngine,
    precision: str,
    target: Target,
    origin: Origin,
    device: Device,
    audit: Mapping[str, Any],
    takes: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document, whose subject is the engine.

    `takes` says what it takes where that is not what the graph does, `parity` how it answers beside the graph.
    """
    # trtexec takes ranges from a calibration cache alone, which has none for what the parser invents.
    has_line = "shapes" in built.settings and not target.takes_ranges(precision)
    line = (
        trtexec_line(target, precision, origin.graph, built.file.name, built.settings["shapes"]) if has_line else None
    )
    return {
        "_type": STATEMENT,
        "subject": [{"name": built.file.name, "digest": {"sha256": built.sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "schema_version": 1,
            "bytes": built.bytes,
            "precision": precision,
            "target": asdict(target),
            "input": takes,
            "made_from": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in origin.digests.items()],
            "versions": dict(built.versions),
            "built_on": device.to_json(),
            "settings": dict(built.settings),
            "builder_log": list(built.log),
            "trtexec": line,
            "parity": parity,
            "audit": {name: audit[name] for name in ("summary", "patterns", "opponent", "layers")},
        },
    }


def evidence_beside(engine: Path) -> Mapping[str, Any] | None:
    """The predicate of the manifest beside an engine; None where there is none.

    Raises IntegrityError where it is none, or of other bytes than the engine's name and digest in it say.
    """
    path = engine.with_name(engine.name + SUFFIX)
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        subject, predicate = document["subject"][0]["digest"]["sha256"], document["predicate"]
        Target.from_json(predicate["target"])
        Device.from_json(predicate["built_on"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise IntegrityError(f"{path}: is no manifest of an engine ({error!r}); build the engine again") from error
    if document["_type"] != STATEMENT or document["predicateType"] != PREDICATE:
        raise IntegrityError(f"{path}: is of another kind ({document['predicateType']}); build the engine again")
    return {**predicate, "sha256": subject}


def facts_from_evidence(engine: Path, predicate: Mapping[str, Any] | None) -> EngineFacts:
    """From the plan's header, and from the manifest what the header does not tell; raises EngineDamaged."""
    header = plan_header(engine.read_bytes(), engine)
    if predicate is None:
        return EngineFacts(header.runtime, header.version, None, None, None)
    return facts_of(header, Target.from_json(predicate["target"]), predicate["built_on"])
