"""Progress and cancellation of a build, through TensorRT's progress monitor."""

from __future__ import annotations

from engines.base import StepDone
from engines.tensorrt.api import IProgressMonitor, Module
from engines.tensorrt.log import Recorder


def progress_monitor(trt: Module, on_step: StepDone | None, recorder: Recorder) -> IProgressMonitor:
    """Reports to `on_step`. The recorder keeps whether that asked to stop, or what it raised; either ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base has no types
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return not recorder.cancelled and recorder.interruption is None

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self._steps.get(phase_name, 0))

        def _report(self, phase: str, done: int) -> None:
            if on_step is None or recorder.cancelled or recorder.interruption is not None:
                return
            try:
                recorder.cancelled = not on_step(phase, done, self._steps.get(phase, done))
            except BaseException as error:  # also KeyboardInterrupt: nothing may be raised through C++
                recorder.interruption = error

    return Monitor()
