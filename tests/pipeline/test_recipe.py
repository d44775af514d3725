"""A recipe becomes stages, or an error that says everything that is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_training import RECIPE, arrays, recipe_in, save_npz

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, built_in_recipes, load_recipe, recipe_from_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the recipe's data."""
    folder = tmp_path_factory.mktemp("recipe")
    save_npz(folder / "images.npz", arrays())
    return folder


def changed(old: str, new: str) -> str:
    assert RECIPE.count(old) >= 1, f"the recipe has no {old!r}"
    return RECIPE.replace(old, new, 1)


def mistakes(text: str, folder: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, folder, "my.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("my.toml: ") for line in lines)
    return [line.removeprefix("my.toml: ") for line in lines]


def test_a_recipe_holds_its_stages_in_the_order_in_which_they_run(folder: Path) -> None:
    recipe = recipe_from_text(RECIPE, folder, "my.toml")
    names = [stage.name for stage in recipe.stages]
    assert names == ["data", "teacher", "distill", "export", "calibrate", "build", "measure", "report"]


def test_a_recipe_cannot_be_changed_after_it_was_checked(folder: Path) -> None:
    recipe = recipe_from_text(RECIPE, folder, "my.toml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        recipe.stages[1].epochs = 1  # type: ignore[attr-defined]


def test_the_order_of_the_sections_in_the_file_does_not_matter(folder: Path) -> None:
    head, *sections = RECIPE.split("\n\n")
    shuffled = "\n\n".join([head, *reversed(sections)])
    assert recipe_from_text(shuffled, folder, "a") == recipe_from_text(RECIPE, folder, "a")


@pytest.mark.parametrize("name", sorted(built_in_recipes()))
def test_every_built_in_recipe_is_valid(name: str) -> None:
    assert isinstance(load_recipe(name), Recipe)


def test_a_recipe_written_by_an_editor_that_marks_utf_8_is_read(tmp_path: Path) -> None:
    path = recipe_in(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_recipe(str(path)).name == "small"


def test_a_recipe_that_ends_early_needs_no_later_section(folder: Path) -> None:
    text = RECIPE[: RECIPE.index("[teacher]")]
    assert [stage.name for stage in recipe_from_text(text, folder, "my.toml").stages] == ["data"]


def test_all_mistakes_are_said_at_once(folder: Path) -> None:
    text = changed("seed = 0", "sed = 0").replace("epochs = 6", "epochs = 0").replace("opset = 18", "opset = 17")
    found = mistakes(text, folder)
    assert found[0].startswith("key 'sed' is unknown; did you mean 'seed'? choose from build, ")
    assert found[1:] == [
        "[teacher] epochs must be greater than 0, found 0",
        "[export] opset must be at least 18, found 17",
    ]


MISTAKES = {
    # No TOML, or a header that is none.
    "no TOML": ("seed = 0", "seed = ", "is not TOML: Invalid value (at line 4, column 8)"),
    "a number of 5,000 digits": ("seed = 0", "seed = " + "9" * 5000, "is not TOML: Exceeds the limit…"),
    "arrays 10,000 deep": ("seed = 0", "seed = " + "[" * 10_000, "is not TOML: …"),
    "another schema": ("schema_version = 1", "schema_version = 2", "schema_version must be 1, found 2"),
    "no name": ('name = "small"\n', "", "'name' is missing"),
    "a path for a name": ('name = "small"', 'name = "a/b"', "name: 'a/b' cannot name a folder; …"),
    "a parent for a name": ('name = "small"', 'name = ".."', "name: '..' cannot name a folder; …"),
    "a date for a name": ('name = "small"', "name = [2026-01-01]", "name must be text in quotes, found ['2026-01-01']"),
    "task": (
        '"classification"',
        '"clasification"',
        "task 'clasification' is unknown; did you mean 'classification'? choose from classification, "
        "multi-label, regression, segmentation, sequence-classification, token-classification, or name a class of your "
        "own as tasks.py:MyTask",
    ),
    "a negative seed": ("seed = 0", "seed = -1", "seed must be at least 0, found -1"),
    "too large a seed": ("seed = 0", "seed = 4294967296", "seed must be less than 4294967296, found 4294967296"),
    "text for a number": ("seed = 0", 'seed = "1"', "seed must be a whole number, found '1'"),
    "true for a number": ("seed = 0", "seed = true", "seed must be a whole number, found true"),
    "a fraction for a count": ("threads = 1", "threads = 1.5", "threads must be a whole number, found 1.5"),
    "no threads": ("threads = 1", "threads = 0", "threads must be at least 1, found 0"),
    "a mistyped section": ("[export]", "[exprt]", "section 'exprt' is unknown; did you mean 'export'? choose from …"),
    "a number for a table": (
        "augment = { rotate_degrees = 5, translate = 0.1, zoom = 0.1 }",
        "augment = 3",
        "[data] augment must be a table, found 3",
    ),
    "many tables for a section": ("[gates]", "[[gates]]", "[gates] must be a table, found [{'accuracy_ratio_to_fp32'…"),
    # Data.
    "a mistyped key": ("augment = {", "augmnt = {", "[data] 'augmnt' is no key; did you mean 'augment'?"),
    "augment": (
        "rotate_degrees",
        "rotate_degree",
        "[data] 'augment.rotate_degree' is no key; did you mean 'rotate_degrees'?",
    ),
    "nan": (
        "rotate_degrees = 5",
        "rotate_degrees = nan",
        "[data] augment.rotate_degrees must be at most 180, found nan",
    ),
    "inf": ("zoom = 0.1", "zoom = inf", "[data] augment.zoom must be less than 1, found inf"),
    "preprocess": ("scale", "scal", "[data] 'preprocess.scal' is no key; did you mean 'scale'?"),
    "a scale of 0": ("scale = 1.0", "scale = 0", "[data] preprocess.scale must be greater than 0, found 0"),
    "a deviation of 0": ("std = [1.0]", "std = [0.0]", "[data] preprocess.std[0] must be greater than 0, found 0.0"),
    "a mean without array": ("mean = [0.0]", "mean = 0.0", "[data] preprocess.mean must be an array, found 0.0"),
    "no mean": (
        "mean = [0.0], std = [1.0]",
        "mean = [], std = [1.0]",
        "[data] preprocess.mean must have at least 1 value, found []",
    ),
    "means without deviations": (
        "mean = [0.0]",
        "mean = [0.0, 1.0]",
        "[data] preprocess: mean has 2 values and std has 1; give one for each channel",
    ),
    "half a size": ("scale = 1.0", "resize = [8]", "[data] 'preprocess.resize[1]' is missing"),
    "a huge size": (
        "scale = 1.0",
        "resize = [1000000, 8]",
        "[data] preprocess.resize[0] must be at most 16384, found 1000000",
    ),
    "a crop beyond the resize": (
        "scale = 1.0",
        "resize = [8, 8], crop = [8, 9]",
        "[data] preprocess: crop 8x9 is larger than resize 8x8, which comes first",
    ),
    "layout": (
        "scale = 1.0",
        'layout = "nchw"',
        "[data] preprocess.layout must be 'hw', 'hwc' or 'chw', found 'nchw'",
    ),
    "shares": ("train = 0.4", "train = 0.5", "[data] split: the shares sum to 1.1; they must sum to 1"),
    "a share of nothing": (
        "validation = 0.2",
        "validation = 0",
        "[data] split.validation must be greater than 0, found 0",
    ),
    "split": (
        "validation = 0.2",
        "val = 0.2",
        "[data] 'split.val' is no key; the keys are train, validation, calibration, test",
    ),
    "two sources": (
        'npz = "images.npz"',
        'npz = "images.npz"\nsource = "digits"',
        "[data] give exactly one of source, npz, folder, factory; found source, npz",
    ),
    "no source": (
        'npz = "images.npz"\n',
        "",
        "[data] give exactly one of source, npz, folder, factory; found none",
    ),
    "source": (
        'npz = "images.npz"',
        'source = "digts"',
        "[data] source must be 'digits', 'digit-canvases' or 'digit-rows', found 'digts'",
    ),
    "an empty path": ('npz = "images.npz"', 'npz = ""', "[data] npz must not be empty, found ''"),
    "data factory": (
        'npz = "images.npz"',
        'factory = "data:make"',
        "[data] factory: 'data:make' is not of the form file.py:function, such as models.py:make_student",
    ),
    # Networks.
    "network": (
        'name = "plain"',
        'name = "plan"',
        "[teacher] model: network 'plan' is unknown; did you mean 'plain'? choose from efficientnet, mobilenet, "
        "plain, repvgg, residual, segmenter, transformer, vision_transformer",
    ),
    "no network": (
        'model = { name = "plain", widths = [4, 8] }',
        "model = {}",
        "[teacher] model: give either name = one of efficientnet, mobilenet, plain, repvgg, residual, segmenter, "
        'transformer, vision_transformer, timm:NAME, torchvision:NAME, or file = "models.py:function"',
    ),
    "a network by name and by file": (
        'name = "plain"',
        'name = "plain", file = "models.py:make"',
        "[teacher] model: give either name = one of efficientnet, mobilenet, plain, repvgg, residual, segmenter, "
        'transformer, vision_transformer, timm:NAME, torchvision:NAME, or file = "models.py:function"',
    ),
    "a missing network": (
        'model = { name = "plain", widths = [4, 8] }\n',
        "",
        "[teacher] 'model' is missing",
    ),
    "model": (
        "widths = [4, 8]",
        "width = [4, 8]",
        "[teacher] model: 'widths' is missing; 'width' is no key; did you mean 'widths'?",
    ),
    "no widths": ("widths = [4, 8]", "widths = []", "[teacher] model: widths must have at least 1 value, found []"),
    "a width of 0": ("widths = [4, 8]", "widths = [4, 0]", "[teacher] model: widths[1] must be at least 1, found 0"),
    "a huge width": (
        "widths = [4, 8]",
        "widths = [100000000]",
        "[teacher] model: widths[0] must be at most 65536, found 100000000",
    ),
    "model file": (
        'name = "plain", widths = [4, 8]',
        'file = "models.py"',
        "[teacher] model: file: 'models.py' is not of the form file.py:function, such as models.py:make_student",
    ),
    "nan for a factory": (
        'name = "plain", widths = [4, 8]',
        'file = "models.py:make", options = { dropout = [nan] }',
        "[teacher] model: options hold nan or inf; give finite numbers",
    ),
    # Training.
    "optimizer": (
        "learning_rate",
        "learning_rte",
        "[teacher] 'optimizer.learning_rte' is no key; did you mean 'learning_rate'?",
    ),
    "optimizer name": (
        'name = "adamw"',
        'name = "adam"',
        "[teacher] optimizer.name must be 'adamw' or 'sgd', found 'adam'",
    ),
    "an infinite rate": (
        "learning_rate = 2e-2",
        "learning_rate = inf",
        "[teacher] optimizer.learning_rate must be a finite number, found inf",
    ),
    "weights": (
        "epochs = 6",
        'weights = "teacher.bin"',
        "[teacher] weights: 'teacher.bin' must end in .safetensors, .pt, .pth",
    ),
    "loss": (
        'name = "kd"',
        'name = "kdd"',
        "[distill] losses[0]: loss 'kdd' is unknown; did you mean 'kd'? choose from attention_maps, "
        "attention_transfer, crd, cwd, dist, dkd, hidden_states, hint, kd, label_smoothing, labels, mimic, rkd, "
        "similarity, standardized_kd",
    ),
    "a loss without a name": (
        'name = "kd"\n',
        "",
        "[distill] losses[0]: must be a table with a name, one of attention_maps, attention_transfer, crd, cwd, dist, "
        "dkd, hidden_states, hint, kd, label_smoothing, labels, mimic, rkd, similarity, standardized_kd",
    ),
    "losses": (
        "temperature",
        "temprature",
        "[distill] losses[0]: 'temprature' is no key; did you mean 'temperature'?",
    ),
    "one table for losses": (
        "[[distill.losses]]",
        "[distill.losses]",
        "[distill] losses must be an array of tables, each under [[double brackets]], found {'name': 'kd'…",
    ),
    "a temperature of 0": (
        "temperature = 4.0",
        "temperature = 0",
        "[distill] losses[0]: temperature must be greater than 0, found 0",
    ),
    "a negative temperature": (
        "temperature = 4.0",
        "temperature = -4.0",
        "[distill] losses[0]: temperature must be greater than 0, found -4.0",
    ),
    "a temperature that is no number": (
        "temperature = 4.0",
        "temperature = nan",
        "[distill] losses[0]: temperature must be a finite number, found nan",
    ),
    "alpha": ("alpha = 0.3", "alpha = 2", "[distill] losses[0]: alpha must be at most 1, found 2"),
    "baseline": ("baseline = true", 'baseline = "yes"', "[distill] baseline must be true or false, found 'yes'"),
    # Graphs and engines.
    "opset": ("opset = 18", "opset = 24", "[export] opset must be at most 23, found 24"),
    "parity": ("atol", "atl", "[export] 'parity.atl' is no key; did you mean 'atol'?"),
    "method": (
        '"entropy"',
        '"entropi"',
        "[calibrate] method 'entropi' is unknown; did you mean 'entropy'? choose from …",
    ),
    "images": (
        'method = "entropy"',
        'images = "some"',
        "[calibrate] images must be 'all' or 'auto' or must be a whole number, found 'some'",
    ),
    "family": (
        '"tensorrt-rtx"]',
        '"tensorrt-rt"]',
        "[calibrate] families: family 'tensorrt-rt' is unknown; did you mean 'tensorrt-rtx'? choose from …",
    ),
    "a family twice": ('["cpu", ', '["cpu", "cpu", ', "[calibrate] families: 'cpu' stands twice; write it once"),
    "a budget of nothing": (
        'method = "entropy"',
        "budget = { max_drop = 0 }",
        "[calibrate] budget.max_drop must be greater than 0, found 0",
    ),
    "a budget of more than all": (
        'method = "entropy"',
        "budget = { max_drop = 101 }",
        "[calibrate] budget.max_drop must be at most 100, found 101",
    ),
    "a budget without a limit": (
        'method = "entropy"',
        "budget = { placements = 5 }",
        "[calibrate] budget: give max_drop, min_sqnr_db, or both",
    ),
    "a family that a target needs": (
        'families = ["cpu", "tensorrt-rtx"]',
        'families = ["tensorrt-rtx"]',
        "[build.targets.cpu] asks for int8: add 'cpu' to [calibrate] families",
    ),
    "bf16 that a target needs": (
        'precisions = ["fp32", "fp16"]',
        'precisions = ["fp32", "bf16"]',
        "[build.targets.gpu] asks for bf16: add bf16 = true to [calibrate]",
    ),
    "targets": ("[build.targets.cpu]", "[build.target.cpu]", "[build] 'target' is no key; did you mean 'targets'?"),
    "target": (
        "compute_capabilities",
        "compute_capability",
        "[build] 'targets.gpu.compute_capability' is no key; did you mean 'compute_capabilities'?",
    ),
    "a target that is called like a key": (
        '[build.targets.gpu]\nruntime = "tensorrt-rtx"',
        '[build.targets.batch]\nruntime = "tensorrt-rtx"\noptionl = true',
        "[build] 'targets.batch.optionl' is no key; did you mean 'optional'?",
    ),
    "a path for a target": (
        "[build.targets.cpu]",
        '[build.targets."../x"]',
        "[build] targets.../x: '../x' cannot name …",
    ),
    "runtime": (
        '"onnxruntime"',
        '"onnxruntme"',
        "[build] targets.cpu.runtime: runtime 'onnxruntme' is unknown; did you mean 'onnxruntime'? choose from …",
    ),
    "precision": (
        '["fp32", "int8"]',
        '["fp32", "int4"]',
        "[build] targets.cpu.precisions: precision 'int4' is unknown; did you mean 'int8'? "
        "choose from bf16, fp16, fp32, fp8, int8, int8+fp16, tf32",
    ),
    "a precision twice": (
        '["fp32", "int8"]',
        '["fp32", "fp32"]',
        "[build] targets.cpu.precisions: 'fp32' stands twice; write it once",
    ),
    "a precision that the runtime never builds": (
        '["fp32", "int8"]',
        '["fp32", "fp16"]',
        "[build] targets.cpu: onnxruntime on a CPU computes FP16 in FP32 between casts, which is slower than FP32; "
        "take 'fp16' out of precisions",
    ),
    "a GPU's key for a CPU": (
        '["fp32", "int8"]',
        '["fp32", "int8"]\ncompute_capabilities = ["8.6"]',
        "[build] targets.cpu: compute_capabilities is for GPUs, onnxruntime runs on a CPU; take it out",
    ),
    "a compute capability without its point": (
        "compute_capabilities = []",
        'compute_capabilities = ["86"]',
        "[build] targets.gpu.compute_capabilities[0]: '86' is no compute capability; "
        "write it with its point, such as 8.6 or 12.0",
    ),
    "profile": (
        "min = 1, opt",
        "min = 9, opt",
        "[build] targets.gpu.batch: min 9, opt 8, max 64 must rise in this order",
    ),
    "profile key": ("opt = 8", "optt = 8", "[build] 'targets.gpu.batch.optt' is no key; did you mean 'opt'?"),
    "a batch beyond a profile": (
        "batch_sizes = [1, 8]",
        "batch_sizes = [1, 65, 128]",
        "[measure] batch_sizes asks for 65, 128, [build.targets.gpu] takes 1 to 64: "
        "widen its batch, or leave the size out",
    ),
    "no batch sizes": (
        "batch_sizes = [1, 8]",
        "batch_sizes = []",
        "[measure] batch_sizes must have at least 1 value, found []",
    ),
    "preset": ('"quick"', '"quik"', "[measure] preset 'quik' is unknown; did you mean 'quick'? choose from …"),
    "a cache of a TensorRT that reads no exported graph": (
        'families = ["cpu", "tensorrt-rtx"]',
        'families = ["cpu", "tensorrt-rtx"]\ntensorrt_cache = ["10.3.0", "8.6.1"]',
        "[calibrate] tensorrt_cache: TensorRT 8.6.1 reads opsets up to 17, and the graph that its calibration cache is "
        "used beside has opset 18: export the network at opset 13 to 17 and give that file to edgestill quantize",
    ),
    # Gates.
    "gates": (
        "accuracy_ratio_to_fp32",
        "accuracy_ratio_fp32",
        "[gates] 'accuracy_ratio_fp32' is no key; did you mean 'accuracy_ratio_to_fp32'?",
    ),
    "a gate in percent": (
        "accuracy_ratio_to_fp32 = 0.9",
        "accuracy_ratio_to_fp32 = 99",
        "[gates] accuracy_ratio_to_fp32 must be at most 1, found 99",
    ),
    "an infinite gate": (
        "accuracy_ratio_to_fp32 = 0.9",
        "latency_ratio_to_fp32 = inf",
        "[gates] latency_ratio_to_fp32 must be a finite number, found inf",
    ),
    # Files.
    "a data file that is not there": (
        '"images.npz"',
        '"image.npz"',
        "[data] npz 'image.npz': there is no file {folder}/image.npz; paths are relative to the recipe",
    ),
    "a folder that is not there": (
        'npz = "images.npz"',
        'folder = "photos"',
        "[data] folder 'photos': there is no folder {folder}/photos; paths are relative to the recipe",
    ),
    "a file for a folder": (
        'npz = "images.npz"',
        'folder = "images.npz"',
        "[data] folder 'images.npz': there is no folder {folder}/images.npz; paths are relative to the recipe",
    ),
    "a model file that is not there": (
        'name = "plain", widths = [4, 8]',
        'file = "models.py:make"',
        "[teacher] model.file 'models.py:make': there is no file {folder}/models.py; paths are relative to the recipe",
    ),
    "weights that are not there": (
        "epochs = 6",
        'weights = "teacher.pt"',
        "[teacher] weights 'teacher.pt': there is no file {folder}/teacher.pt; paths are relative to the recipe",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_with_its_place_and_its_mend(mistake: str, folder: Path) -> None:
    old, new, message = MISTAKES[mistake]
    (found,) = mistakes(changed(old, new), folder)
    wanted = message.replace("{folder}", str(folder))
    assert found == wanted or (wanted.endswith("…") and found.startswith(wanted[:-1]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[data]", "[teacher] needs Splits, which [data] makes: add a [data] section"),
        ("[teacher]", "[distill] needs Teacher, which [teacher] makes: add a [teacher] section"),
        ("[calibrate]", "[build] needs Graphs, which [calibrate] makes: add a [calibrate] section"),
        ("[measure]", "[gates] needs Measurements, which [measure] makes: add a [measure] section"),
    ],
)
def test_a_missing_stage_is_named_by_the_one_that_needs_it(section: str, message: str, folder: Path) -> None:
    start = RECIPE.index(section)
    end = RECIPE.index("\n\n", start)
    assert mistakes(RECIPE[:start] + RECIPE[end:], folder)[0] == message


def test_a_recipe_without_stages_is_told_which_there_are(folder: Path) -> None:
    assert mistakes(RECIPE[: RECIPE.index("[data]")], folder) == [
        "no stage; add a section for each of data, teacher, distill, export, calibrate, build, measure"
    ]


def test_a_ratio_gate_without_a_reference_is_refused_before_the_work(folder: Path) -> None:
    text = changed('["fp32", "int8"]', '["int8"]').replace('["fp32", "fp16"]', '["fp16"]')
    assert mistakes(text, folder) == [
        "[gates] accuracy_ratio_to_fp32 needs a target with 'fp32' and another precision to compare with it; "
        "none has both"
    ]


def test_ranges_beside_a_float_graph_and_a_budget_of_q_dq_pairs_exclude_each_other(folder: Path) -> None:
    text = changed(
        'families = ["cpu", "tensorrt-rtx"]', 'families = ["cpu", "tensorrt-dla"]\nbudget = { max_drop = 1 }'
    )
    head, tail = text.split("[build.targets.gpu]")
    gpu, rest = tail.split("\n\n", 1)
    assert "tensorrt-rtx" in gpu
    [said] = mistakes(f'{head}[build.targets.orin]\npreset = "agx-orin-dla"\n\n{rest}', folder)
    assert said == (
        "[build.targets.orin] int8 = 'ranges' leaves no layer in float, which [calibrate.budget] decides by Q/DQ "
        "pairs; take one of them out"
    )


def test_a_long_value_is_cut_in_the_message(folder: Path) -> None:
    (found,) = mistakes(changed("seed = 0", f'seed = "{"9" * 500}"'), folder)
    assert found == f"seed must be a whole number, found '{'9' * 59}…"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "there is no built-in recipe 'digit'; did you mean 'digits'? built in: "),
        ("zzz", "there is no built-in recipe 'zzz'; built in: "),
        ("missing.toml", "missing.toml: cannot be read ("),
    ],
)
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert str(caught.value).startswith(message)


def test_a_recipe_that_is_no_text_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"my.toml: cannot be read \('utf-8' codec"):
        load_recipe(str(tmp_path / "my.toml"))
