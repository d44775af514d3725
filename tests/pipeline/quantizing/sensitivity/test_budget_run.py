"""[calibrate.budget] in a recipe: from the validation split to a gate and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_run import TINY, run_edgestill, write_recipe

BUDGET = '[calibrate]\nfamilies = ["cpu"]\nbudget = { min_sqnr_db = 99, max_drop = 50, placements = 3 }\n'


def test_a_budget_that_is_not_met_fails_the_run_with_the_closest_graph_and_a_gate(tmp_path: Path) -> None:
    text = TINY.replace('[calibrate]\nfamilies = ["cpu"]\n', BUDGET).replace("epochs = 40\n", "epochs = 2\n")
    recipe = write_recipe(tmp_path, text)
    until = run_edgestill("run", recipe, "-w", tmp_path / "ws", "--until", "calibrate")
    assert until.returncode == 1, until.stderr[-3000:]
    assert "cpu: budget NOT met (3 placements tried" in until.stderr
    found = json.loads((tmp_path / "ws" / "04-calibrate" / "sensitivity.json").read_text())
    assert (found["metric"], found["judged_on"], found["samples"]) == ("accuracy", "validation split", 60)
    assert not (tmp_path / "ws" / "04-calibrate" / "evaluations.json").exists()
    done = run_edgestill("run", recipe, "-w", tmp_path / "ws", "--json")
    assert done.returncode == 1, done.stderr[-3000:]
    report = json.loads(done.stdout)["report"]
    gates = {gate["name"]: gate["state"] for gate in report["gates"]}
    assert (gates["calibrate.min_sqnr_db"], gates["calibrate.max_drop"]) == ("failed", "passed")
    assert [family["family"] for family in report["layers"]] == ["cpu"]
    assert len(report["layers"][0]["placements"]) == 3
