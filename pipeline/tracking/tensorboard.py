"""Event files for TensorBoard: one folder a training, one record an epoch.

Written at once and not by a thread, so that what an epoch has written is there when its checkpoint is, and a disk that
is full is noticed here. TensorBoard's own writer would put the machine's name into the file's.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.errors import MachineLacks
from pipeline.tracking.tracker import Event, State, TrackedTraining, Tracker

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event as Record

FILES = "events.out.tfevents.*"
"""TensorBoard looks for `tfevents`, and reads the files of a folder in the order of their names."""
FILE_VERSION = "brain.Event:2"


@dataclass
class _Kept:
    """What the folder of a training holds."""

    epochs: int
    file: Path
    """That this run adds to. After those of earlier runs: to one that a kill cut off nothing can be added."""


@final
class TensorBoard(Tracker):
    """`--track tensorboard=FOLDER`; look with `tensorboard --logdir FOLDER`."""

    name: ClassVar[str] = "tensorboard"

    def __init__(self, place: str, recipe: str) -> None:
        try:
            importlib.import_module("tensorboard.summary.writer.record_writer")
        except ImportError as error:
            raise MachineLacks(
                "--track tensorboard: the package tensorboard is not installed: pip install 'edgestill[tensorboard]'"
            ) from error
        self._folder = Path(place) / recipe
        self._kept: dict[str, _Kept] = {}
        probe = self._folder / ".writable"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MachineLacks(
                f"--track tensorboard={place}: {error.strerror or error}; choose a folder that can be written"
            ) from error

    def write(self, training: TrackedTraining, events: Sequence[Event]) -> None:
        if training.name not in self._kept:
            self._kept[training.name] = _kept_in(self._folder / training.name)
        kept = self._kept[training.name]
        missing = [event for event in events if event["epoch"] > kept.epochs]
        if not missing:
            return
        records = [_record(_summary_of(training, event), event["epoch"]) for event in missing]
        if kept.epochs == 0:
            records = [_record(_settings_as_text(training)), _record(_settings_as_hparams(training)), *records]
        _append(kept.file, records)
        kept.epochs = missing[-1]["epoch"]

    def end(self, training: TrackedTraining, state: State) -> None:
        """TensorBoard knows no end, and no file is open between two epochs."""


def epochs_in(folder: Path) -> int:
    """How many epochs the event files of a training hold; a record that a kill cut off counts as none."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    steps = (
        event.step
        for file in sorted(folder.glob(FILES))
        for event in LegacyEventFileLoader(str(file)).Load()
        if event.summary.value
    )
    return max(steps, default=0)


def _kept_in(folder: Path) -> _Kept:
    return _Kept(epochs_in(folder), folder / f"events.out.tfevents.{len(list(folder.glob(FILES))):06d}")


def _append(file: Path, records: Sequence[Record]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event as Record
    from tensorboard.summary.writer.record_writer import RecordWriter

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        records = [Record(wall_time=time.time(), file_version=FILE_VERSION), *records]
    with file.open("ab") as opened:
        writer = RecordWriter(opened)
        for record in records:
            writer.write(record.SerializeToString())


def _record(summary: Any, step: int = 0) -> Record:
    from tensorboard.compat.proto.event_pb2 import Event as Record

    return Record(wall_time=time.time(), step=step, summary=summary)


def _summary_of(training: TrackedTraining, event: Event) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    numbers = training.scalars(event)
    return Summary(value=[Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()])


def _settings_as_hparams(training: TrackedTraining) -> Any:
    """For the HPARAMS tab, which compares trainings."""
    # Not `hparams.api`, which wants TensorFlow.
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    return hparams_pb(training.flat_settings(), trial_id=training.name, start_time_secs=time.time())


def _settings_as_text(training: TrackedTraining) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    text = f"```json\n{json.dumps(training.flat_settings(), indent=1)}\n```"
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto())
    metadata = create_summary_metadata(display_name="settings", description="")
    return Summary(value=[Summary.Value(tag="settings", metadata=metadata, tensor=tensor)])
