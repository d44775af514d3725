"""Why a node is quantized or not, as data: one table for every family, and one for each kind of runtime."""

from __future__ import annotations

from calibration.placement.rules import cpu, dla, every_family, tensorrt
from calibration.placement.rules.rule import Rule

RULES: dict[str, Rule] = {
    rule.name: rule
    for table in (every_family, tensorrt, dla, cpu)
    for rule in vars(table).values()
    if isinstance(rule, Rule)
}
"""By name; `placement.json` carries the name of the rule that decided each node."""
