"""`edgestill calibrate RECIPE`: shards of a recipe's calibration split, and the stage that takes them up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import run_edgestill

from pipeline.commands.calibrate_recipe import RecipeRequest, calibrate_recipe
from pipeline.errors import Cancelled, DataRejected, RecipeError
from pipeline.files.workspace import Workspace
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import QuietProgress
from pipeline.recipe import load_recipe
from pipeline.running import runner
from pipeline.running.selection import Selection


def calibrated(recipe: Path, shard: str, cancellation: Cancellation | None = None) -> Path:
    out = recipe.with_name(f"{shard.replace('/', '-')}.npz")
    request = RecipeRequest(str(recipe), shard, out, recipe.with_name("workspace"))
    outcome = calibrate_recipe(request, QuietProgress(), cancellation or Cancellation())
    assert Path(outcome.document["file"]) == out
    return out


def set_in_calibrate(recipe: Path, line: str) -> None:
    recipe.write_text(recipe.read_text().replace("[calibrate]\n", f"[calibrate]\n{line}\n"))


def run_calibrate(recipe: Path) -> Path:
    workspace = Workspace(recipe.with_name("workspace"))
    runs = runner.run(load_recipe(str(recipe)), workspace, QuietProgress(), Cancellation(), Selection(last="calibrate"))
    assert [run.stage for run in runs if run.ran] == ["calibrate"]
    return runs[-1].folder


def test_the_stage_makes_of_shards_the_bytes_of_its_own_pass(recipe: Path) -> None:
    whole = (recipe.with_name("workspace") / "04-calibrate").resolve()
    shards = [calibrated(recipe, f"{number}/3") for number in (3, 1, 2)]
    set_in_calibrate(recipe, f"sketches = {[shard.name for shard in shards]}")
    folder = run_calibrate(recipe)
    assert folder != whole
    for name in ("sketches.npz", "ranges.json", "cpu.int8.onnx", "fp16.onnx"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_the_report_says_how_sure_the_ranges_are(finished_run: tuple[Path, Path]) -> None:
    report = json.loads((finished_run[1] / "07-report" / "report.json").read_text())
    told = [finding["message"] for finding in report["findings"]]
    assert any("ranges lie within 10% either way (90 % intervals); the loosest, of" in message for message in told)
    layer = report["layers"][0]["layers"][0]
    assert layer["high_interval"][0] <= layer["high"] <= layer["high_interval"][1]


def test_a_missing_shard_and_shards_of_fewer_images_are_refused(recipe: Path) -> None:
    first = calibrated(recipe, "1/2")
    set_in_calibrate(recipe, f"sketches = ['{first.name}']")
    with pytest.raises(DataRejected, match="of 2 shards 2 is missing; give all of them"):
        run_calibrate(recipe)
    whole = calibrated(recipe, "1/1")
    recipe.write_text(recipe.read_text().replace(first.name, whole.name))
    set_in_calibrate(recipe, "images = 40")
    with pytest.raises(DataRejected, match=r"1-1\.npz: was measured on other data than these 40 images"):
        run_calibrate(recipe)


def test_sketches_that_auto_cut_short_are_refused_where_all_images_are_asked_for(recipe: Path) -> None:
    set_in_calibrate(recipe, 'images = "auto"')
    sketches = calibrated(recipe, "1/1")
    recipe.write_text(recipe.read_text().replace('images = "auto"', f"sketches = ['{sketches.name}']"))
    with pytest.raises(DataRejected, match=r"images that ranges of percentile:99\.999 needed; calibrate again with"):
        run_calibrate(recipe)
    set_in_calibrate(recipe, 'images = "auto"')
    assert (run_calibrate(recipe) / "sketches.npz").read_bytes() == sketches.read_bytes()


class StopsInThePass(Cancellation):
    """After the stages, which each ask once, and one batch."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 5

    def check(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Cancelled(15)


def test_a_stopped_pass_over_a_recipe_goes_on_to_the_same_bytes(recipe: Path) -> None:
    whole = calibrated(recipe, "1/1").read_bytes()
    recipe.with_name("1-1.npz").unlink()
    with pytest.raises(Cancelled):
        calibrated(recipe, "1/1", StopsInThePass())
    assert recipe.with_name("1-1.npz.partial").exists()
    assert calibrated(recipe, "1/1").read_bytes() == whole


def test_a_recipe_without_the_section_and_shards_of_an_auto_pass_are_refused(recipe: Path) -> None:
    text = recipe.read_text()
    set_in_calibrate(recipe, 'images = "auto"')
    with pytest.raises(RecipeError, match=r'\[calibrate\] images = "auto" looks at all images that came, and a shard'):
        calibrated(recipe, "1/2")
    recipe.write_text(text[: text.index("[calibrate]")])
    with pytest.raises(RecipeError, match=r"has no \[calibrate\] section: add one, or give an ONNX file with --data"):
        calibrated(recipe, "1/1")


def test_a_file_of_sketches_that_is_not_there_is_a_mistake_of_the_recipe(recipe: Path) -> None:
    set_in_calibrate(recipe, "sketches = ['gone.npz']")
    with pytest.raises(
        RecipeError, match=r"\[calibrate\] sketches 'gone\.npz': there is no file .*gone\.npz; paths are"
    ):
        load_recipe(str(recipe))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--images", "auto"], "a recipe makes no use of --images: leave it out"),
        (["digits", "--data", "x.npz", "--threads", "2"], "a recipe makes no use of --data, --threads: leave them out"),
        (["own.onnx"], "an ONNX file needs --data; a recipe brings its own"),
        (["own.onnx", "--data", "x.npz", "-w", "ws"], "an ONNX file makes no use of --workspace: leave it out"),
    ],
)
def test_options_that_the_subject_makes_no_use_of_are_refused(arguments: list[str], message: str) -> None:
    done = run_edgestill("calibrate", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
