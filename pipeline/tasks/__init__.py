"""What a task is: its labels, its supervised loss, its metric, how teacher and student outputs pair up.

`TASKS` is the table that a recipe's `task` chooses from; `task = "tasks.py:MyTask"` names a user's own.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.names import unknown
from pipeline.tasks.classification import Classification, SequenceClassification, TokenClassification
from pipeline.tasks.multi_label import MultiLabel
from pipeline.tasks.regression import Regression
from pipeline.tasks.segmentation import Segmentation
from pipeline.tasks.task import Task
from pipeline.userfile import call_factory

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MultiLabel(),
        Segmentation(),
        SequenceClassification(),
        TokenClassification(),
        Regression(),
    )
}


def task_named(name: str, recipe_folder: Path) -> Task:
    """A built-in task, or what a user's `tasks.py:MyTask` makes; raises RecipeError where it is neither."""
    if ":" not in name:
        if name not in TASKS:
            raise RecipeError(f"{unknown('task', name, TASKS)}, or name a class of your own as tasks.py:MyTask")
        return TASKS[name]
    made = call_factory(name, recipe_folder, "task")
    if not isinstance(made, Task):
        raise RecipeError(
            f"task: {name} made {type(made).__name__}; write a subclass of pipeline.tasks.task.Task, and name the class"
        )
    return made
