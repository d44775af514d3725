"""Where curves can be watched while they grow. To add a tracker: a file here, a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.errors import RecipeError
from pipeline.names import unknown
from pipeline.tracking.mlflow import MLflow
from pipeline.tracking.tensorboard import TensorBoard
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.tracking import Tracking

TRACKERS: dict[str, type[Tracker]] = {each.name: each for each in (TensorBoard, MLflow)}


def opened(asked: Sequence[str], recipe: str, warn: Callable[[str], None]) -> Tracking:
    """The trackers of `--track NAME=PLACE`; raises RecipeError or MachineLacks, so that nothing runs, for one that
    is not known or cannot be opened.
    """
    split = [_split(text) for text in asked]
    for index, (name, place) in enumerate(split):
        if (name, place) in split[:index]:
            raise RecipeError(f"--track {name}={place}: stands twice; write it once")
    return Tracking([TRACKERS[name](place, recipe) for name, place in split], warn)


def _split(text: str) -> tuple[str, str]:
    name, _, place = text.partition("=")
    if name not in TRACKERS:
        raise RecipeError(f"--track {text}: {unknown('tracker', name, TRACKERS)}")
    if not place:
        raise RecipeError(f"--track {text}: write NAME=PLACE, such as {name}=curves")
    return name, place
