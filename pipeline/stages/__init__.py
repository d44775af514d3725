"""The stages, in the order in which they run. To add one: a file here, a line in the table."""

from __future__ import annotations

from pipeline.stage import Stage
from pipeline.stages.build import Build
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.data import Data
from pipeline.stages.distill import Distill
from pipeline.stages.export import Export
from pipeline.stages.measure import Measure
from pipeline.stages.report import WriteReport
from pipeline.stages.teacher import TrainTeacher

STAGES: tuple[type[Stage], ...] = (
    Data,
    TrainTeacher,
    Distill,
    Export,
    Calibrate,
    Build,
    Measure,
    WriteReport,
)
