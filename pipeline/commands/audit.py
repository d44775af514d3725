"""`edgestill audit`: why an engine is as fast as it is, from what its builder said; on any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.counting import counted
from engines.audit import Audit
from engines.base import QUANTIZED_PRECISIONS
from engines.files import sha256_of_file
from pipeline.building.auditing import audit_of, opponent_of
from pipeline.commands.build import AUDIT_SUFFIX
from pipeline.commands.outcome import Outcome
from pipeline.errors import IntegrityError, RecipeError
from pipeline.files.manifest import MANIFEST, read_manifest
from pipeline.reporting.summary import first_names
from pipeline.stages.build import AUDIT_FILE

if TYPE_CHECKING:
    from rich.console import Console


def audit(engine: Path) -> Outcome:
    """Reads the audit beside the engine, of `build` or of a workspace, after verifying that it is this engine's.

    Raises RecipeError where there is none, IntegrityError where the engine is not the one that was audited.
    """
    if not engine.is_file():
        raise RecipeError(f"{engine}: there is no such file")
    record, sha256 = _record(engine)
    _require(engine, sha256)
    document = {"engine": str(engine), **{key: value for key, value in record.items() if key != "layers"}}
    return Outcome(document, lambda console: _show(console, engine, record))


def _record(engine: Path) -> tuple[Mapping[str, Any], str]:
    """The engine's audit, with its precision, and the digest that it is of."""
    beside = engine.with_name(engine.name + AUDIT_SUFFIX)
    if beside.is_file():
        record = _json(beside)
        return record, str(record["sha256"])
    built, name = engine.parent.parent, f"{engine.parent.name}/{engine.name}"
    if (built / AUDIT_FILE).is_file() and (built / MANIFEST).is_file():
        outputs = read_manifest(built).outputs
        if name in outputs:
            _require(built / AUDIT_FILE, outputs[AUDIT_FILE]["sha256"])
            found = _json(built / AUDIT_FILE)[f"{engine.parent.name}/{engine.stem}"]
            return {"precision": engine.stem, **found}, str(outputs[name]["sha256"])
    raise RecipeError(
        f"{engine}: no audit is beside it ({beside.name}), nor is it in a workspace's folder of engines; "
        "edgestill build writes one"
    )


def _require(file: Path, sha256: str) -> None:
    if (found := sha256_of_file(file)) != sha256:
        raise IntegrityError(f"{file}: SHA-256 is {found[:12]}…, recorded was {sha256[:12]}…; build the engine again")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: is no audit ({error}); build the engine again") from error


def _show(console: Console, engine: Path, record: Mapping[str, Any]) -> None:
    summary, precision = audit_of(record), record["precision"]
    lines = [f"{engine.name}: {precision}, {_counts(summary, precision)}"]
    lines += _beside(record)
    for each in record["patterns"]:
        size = f"{each['activation_bytes'] / 1e6:.3g} MB a sample"
        lines += [
            f"  {each['pattern']}: {counted(each['kernels'], 'kernel')}, {size}: {first_names(tuple(each['nodes']))}",
            f"    {each['meaning']}",
            f"    remedy: {each['remedy']}",
        ]
    if precision in QUANTIZED_PRECISIONS and not record["patterns"]:
        lines.append("  nothing in its layers speaks against it")
    lines.append(
        "This tells the operands of each kernel and the bytes it moves. How fast they are, only the device can."
    )
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _counts(audit: Audit, precision: str) -> str:
    kinds = {
        "INT8": audit.int8,
        "FP8": audit.float8,
        "FP16": audit.float16,
        "BF16": audit.bfloat16,
        "FP32": audit.float32,
    }
    products = ", ".join(f"{count} in {name}" for name, count in kinds.items() if count)
    share = f" ({audit.quantized_share:.2%} of multiply-adds quantized)" if precision in QUANTIZED_PRECISIONS else ""
    return (
        f"{audit.kernels} kernels, {audit.products} convolutions and products: {products}{share}, "
        f"{audit.activation_bytes / 1e6:.3g} MB of activations a sample"
    )


def _beside(record: Mapping[str, Any]) -> list[str]:
    opponent = opponent_of(record)
    if opponent is None:
        return []
    if opponent.audit is None:
        return [f"  no FP16 engine to compare with: {opponent.reason}"]
    counts = f"FP16 of the same network: {_counts(opponent.audit, 'fp16')}"
    return [f"  {counts}", *(f"  {remark}" for remark in record["opponent"]["remarks"])]
