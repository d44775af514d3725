"""The teacher's answers on disk: the same as live, made once, verified, and never those of another teacher."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import context_in, splits_in

from pipeline.artifact import Artifacts, Splits, Teacher
from pipeline.context import Context
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.distillation.augment import Augment
from pipeline.distillation.losses.hint import Hint
from pipeline.distillation.losses.kd import KD
from pipeline.distillation.losses.loss import DistillationLoss, LayerPair
from pipeline.distillation.optimizer import Optimizer
from pipeline.distillation.signals import TeacherSignals
from pipeline.distillation.teacher_cache import CacheSettings
from pipeline.distillation.teachers import confidence_weights
from pipeline.distillation.teaching import Teaching
from pipeline.distillation.top_k import filled, top_k_of
from pipeline.distillation.training import Training
from pipeline.distillation.views import Batches, Views
from pipeline.errors import IntegrityError, RecipeError
from pipeline.stages.teacher import TrainTeacher

AUGMENT = Augment(rotate_degrees=10, translate=0.1)
FEATURES = (KD(), Hint(pairs=(LayerPair(student="head", teacher="stages"),)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifacts]:
    folder = tmp_path_factory.mktemp("cached")
    splits = splits_in(folder)
    return folder, Artifacts([splits, taught(folder, "teacher", splits)])


def taught(folder: Path, name: str, splits: Splits, **settings: Any) -> Teacher:
    stage = TrainTeacher.model_validate(
        {
            "model": {"name": "residual", "widths": [4]},
            "epochs": 6,
            "batch_size": 8,
            "optimizer": {"name": "adamw", "learning_rate": 0.03},
            **settings,
        }
    )
    stage.run(Artifacts([splits]), folder / name, context_in(folder / name, recipe_folder=folder))
    return Teacher(folder / name)


def opened(
    made: tuple[Path, Artifacts],
    folder: Path,
    cache: CacheSettings,
    terms: tuple[DistillationLoss, ...] = FEATURES,
    views: int | None = 2,
    inputs: Artifacts | None = None,
) -> tuple[Context, Dataset, Training, TeacherSignals]:
    context = replace(context_in(folder, recipe_folder=made[0]), cache=folder / "cache")
    artifacts = inputs or made[1]
    dataset = open_dataset(artifacts[Splits], context)
    training = Training(4, 8, Optimizer(), AUGMENT, views=views)
    with Teaching(terms, "average", cache, dataset, training, artifacts, context) as teaching:
        return context, dataset, training, teaching.signals(1)


def folders(folder: Path) -> set[str]:
    return {entry.name for entry in (folder / "cache").iterdir()} if (folder / "cache").exists() else set()


def test_cached_answers_are_the_live_ones(made: tuple[Path, Artifacts], tmp_path: Path) -> None:
    context, dataset, _, cached = opened(made, tmp_path, CacheSettings(features="float32"))
    assert "computed once for 2 views" in cached.in_words()
    views = Views(AUGMENT, context.seed, len(dataset.indices("train")), 2)
    batches = Batches(dataset, views, False, torch.device("cpu"), torch.float32)
    teaching = Teaching(FEATURES, "average", CacheSettings(mode="off"), dataset, training_of(2), made[1], context)
    with teaching:
        live = teaching.signals(1)
        assert live.in_words() == "computed at each step"
        rows = np.array([5, 1, 30, 17])
        for view in (0, 1):
            batch = batches.of(rows, view)
            one, other = cached.of(batch, rows, view), live.of(batch, rows, view)
            torch.testing.assert_close(one.outputs["logits"], other.outputs["logits"], rtol=0, atol=1e-5)
            torch.testing.assert_close(one.features["stages"], other.features["stages"], rtol=0, atol=1e-5)
    assert not torch.equal(*(cached.of(batch, rows, view).outputs["logits"] for view in (0, 1)))


def training_of(views: int) -> Training:
    return Training(4, 8, Optimizer(), AUGMENT, views=views)


def test_answers_are_computed_once_and_read_again(made: tuple[Path, Artifacts], tmp_path: Path) -> None:
    opened(made, tmp_path, CacheSettings())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert len(files) == 4  # two views of logits and one layer
    opened(made, tmp_path, CacheSettings())
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}


def test_what_makes_other_answers_makes_another_cache_and_the_old_one_goes(
    made: tuple[Path, Artifacts], tmp_path: Path
) -> None:
    folder, artifacts = made
    other = taught(folder, "other", artifacts[Splits], epochs=7)
    seen = []
    for settings, terms, inputs in (
        (CacheSettings(), FEATURES, None),
        (CacheSettings(), (KD(),), None),
        (CacheSettings(top_k=2), FEATURES, None),
        (CacheSettings(features="float32"), FEATURES, None),
        (CacheSettings(), FEATURES, Artifacts([artifacts[Splits], other])),
    ):
        opened(made, tmp_path, settings, terms, inputs=inputs)
        seen.append(folders(tmp_path))
    assert [len(each) for each in seen] == [1] * 5
    assert len(set.union(*seen)) == 5


def test_a_damaged_answer_is_not_used(made: tuple[Path, Artifacts], tmp_path: Path) -> None:
    opened(made, tmp_path, CacheSettings())
    file = next((tmp_path / "cache").rglob("*.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"is not the file that was recorded; remove .* and run again"):
        opened(made, tmp_path, CacheSettings())


def test_a_pass_that_was_cut_goes_on_where_it_was(made: tuple[Path, Artifacts], tmp_path: Path) -> None:
    opened(made, tmp_path / "whole", CacheSettings(), views=3)
    opened(made, tmp_path / "cut", CacheSettings(), views=3)
    (name,) = folders(tmp_path / "whole")
    cut = tmp_path / "cut" / "cache" / name
    # As after a kill in the last view: its files are not in the index.
    index = (cut / "index.json").read_text()
    shutil.copytree(cut, tmp_path / "copy")
    import json

    document = json.loads(index)
    del document["views"]["2"]
    (cut / "index.json").write_text(json.dumps(document))
    kept = next(cut.glob("*.0.npy")).stat().st_mtime_ns
    opened(made, tmp_path / "cut", CacheSettings(), views=3)
    assert next(cut.glob("*.0.npy")).stat().st_mtime_ns == kept
    for file in (tmp_path / "whole" / "cache" / name).glob("*.npy"):
        assert (cut / file.name).read_bytes() == file.read_bytes()


def test_answers_that_are_used_once_are_not_cached_unless_asked(made: tuple[Path, Artifacts], tmp_path: Path) -> None:
    context, _, _, signals = opened(made, tmp_path, CacheSettings(), views=None)
    assert signals.in_words() == "computed at each step"
    assert "(each of its answers is used once)" in context.log.read_text()
    assert "computed once for 4 views" in opened(made, tmp_path, CacheSettings(mode="on"), views=None)[3].in_words()
    context, *_ = opened(made, tmp_path / "small", CacheSettings(max_gb=1e-9))
    assert "GB of teacher outputs are more than max_gb = 1e-09" in context.log.read_text()


def test_the_largest_logits_are_exact_and_the_rest_keeps_its_weight() -> None:
    logits = torch.randn(5, 9, 2, generator=torch.Generator().manual_seed(0)) * 3
    found = filled(*top_k_of(logits, 3))
    wanted, got = logits.softmax(1), found.softmax(1)
    places = logits.topk(3, dim=1).indices
    torch.testing.assert_close(found.gather(1, places), logits.gather(1, places))
    torch.testing.assert_close(got.gather(1, places), wanted.gather(1, places))
    torch.testing.assert_close(filled(*top_k_of(logits, 20)), logits)


def test_teachers_are_weighed_by_how_little_they_err() -> None:
    losses = [torch.tensor([0.1, 2.0]), torch.tensor([1.0, 0.5]), torch.tensor([3.0, 0.7])]
    exponentials = np.exp(np.stack([each.numpy() for each in losses]).astype(np.float64))
    expected = (1 - exponentials / exponentials.sum(0)) / 2  # arXiv 2201.00007, equation 5
    found = confidence_weights(losses)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(0).numpy(), 1, rtol=1e-6)


def test_a_teacher_that_stays_in_training_mode_is_refused() -> None:
    from pipeline.distillation.teachers import Teachers
    from pipeline.tasks import TASKS

    class Stubborn(torch.nn.Linear):
        def train(self, mode: bool = True) -> Stubborn:
            del mode
            self.training = True
            return self

    with pytest.raises(RecipeError, match=r"^the teacher stays in training mode after eval\(\): the network itself; "):
        Teachers([Stubborn(2, 2)], TASKS["classification"], [], "average", None)
