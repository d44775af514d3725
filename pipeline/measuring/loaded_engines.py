"""The engines of a run that are loaded here: what they take, and the memory that they need."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engines import ENGINES
from engines.base import BATCH, UINT8_NHWC, Session, Target
from engines.peak_memory import peak_memory_bytes
from pipeline.artifact import Engines
from pipeline.building.built import BuiltRecord
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.models.interface import Interface


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is loaded here."""

    target: Target
    session: Session
    file: Path
    sha256: str

    @property
    def takes_bytes(self) -> bool:
        return self.target.input == UINT8_NHWC

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """Least and most that its first profile takes; a CPU takes any."""
        for_gpu = ENGINES[self.target.runtime].for_gpu
        return (self.target.batch.min, self.target.batch.max) if for_gpu else (1, sys.maxsize)

    def takes(self, batch_size: int) -> bool:
        """Through whichever profile."""
        batches = [profile[BATCH] for profile in self.target.profiles]
        for_gpu = ENGINES[self.target.runtime].for_gpu
        return not for_gpu or any(batch.min <= batch_size <= batch.max for batch in batches)


def why_not_run(record: BuiltRecord) -> str | None:
    """None where this machine runs the engine; else what it or the build lacks."""
    if record.state != "built":
        return record.reason
    return ENGINES[record.target.runtime].why_not_run(record.target)


def loaded_engines(records: tuple[BuiltRecord, ...], engines: Engines, stack: ExitStack) -> dict[str, LoadedEngine]:
    """By name, those that run here; the stack closes their sessions."""
    running = {}
    for record in records:
        if why_not_run(record) is not None or record.file is None or record.sha256 is None:
            continue
        file = engines.path(record.file)
        with engine_errors_explained(record.name):
            session = ENGINES[record.target.runtime].open(file, record.sha256, record.target)
        stack.callback(session.close)
        running[record.name] = LoadedEngine(record.target, session, file, record.sha256)
    return running


def peak_memory(engine: LoadedEngine, batch_sizes: tuple[int, ...], interface: Interface) -> int | None:
    """Of a process that runs the largest batch that the engine takes; None where it takes none of the sizes."""
    largest = max((size for size in batch_sizes if engine.takes(size)), default=None)
    if largest is None:
        return None
    shapes = {spec.name: spec.shape for spec in interface.inputs}
    if engine.takes_bytes:
        shapes = {name: (height, width, channels) for name, (channels, height, width) in shapes.items()}
    with engine_errors_explained("peak memory"):
        return peak_memory_bytes(
            engine.target.runtime, engine.file, engine.sha256, engine.target, largest, shapes=shapes
        )
