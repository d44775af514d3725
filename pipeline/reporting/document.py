"""The report as a JSON document: its schema, and writing what conforms to it.

`python -m pipeline.reporting.document` writes `report.schema.json` anew after a change to the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.reporting.result import Report

SCHEMA = Path(__file__).with_name("report.schema.json")


def schema_from_model() -> dict[str, Any]:
    """JSON Schema 2020-12 of a written report, in which every key is present."""
    schema = Report.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:edgestill:report:1",
        **schema,
    }


def document_from_report(report: Report) -> dict[str, Any]:
    """The document, in the model's key order; versions and machine by name."""
    document = report.model_dump(mode="json")
    for name in ("versions", "machine"):
        document[name] = _sorted(document[name])
    return document


def write_json(report: Report, path: Path) -> None:
    """Writes the report's document after holding it against the schema that ships; the same report, the same bytes.

    Raises ValueError where the document breaks the schema, and writes nothing then.
    """
    document = document_from_report(report)
    errors = schema_errors(document)
    if errors:
        raise ValueError(f"{path.name} was not written, it breaks {SCHEMA.name}: {'; '.join(errors)}")
    path.write_text(_text(document), encoding="utf-8")


def schema_errors(document: object) -> list[str]:
    """What breaks the schema that ships, each with the place in the document; empty where it conforms."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    found = sorted(validator.iter_errors(document), key=lambda error: error.json_path)
    return [f"{error.json_path}: {error.message}" for error in found]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(_text(schema_from_model()), encoding="utf-8")
