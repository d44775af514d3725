"""A loaded plan: host to device, execute, device to host, on one stream."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from engines.base import Session, TensorInfo
from engines.cuda import Cuda
from engines.device_array import DeviceArray, device_array
from engines.errors import EngineError
from engines.feeds import wrong_feeds
from engines.run_options import Phases, RunConditions, RunOptions
from engines.tensorrt.api import Module
from engines.tensorrt.buffers import Buffers
from engines.tensorrt.loading import Loaded, load_plan, tensor_infos, with_log
from engines.tensorrt.log import recording
from engines.tensorrt.module import captures_graphs_itself
from engines.tensorrt.prepared_context import Given, PreparedContext
from engines.tensorrt.profile_choice import chosen_profile, profile_ranges


def open_session(
    trt: Module, cuda: Cuda, plan: bytes, file: Path, options: RunOptions | None = None
) -> TensorRTSession:
    """Loads verified bytes; raises EngineError with what the runtime said, and then lets go of the GPU."""
    options = options or RunOptions()
    try:
        return TensorRTSession(trt, cuda, load_plan(trt, plan, file, options), file, options)
    except BaseException:
        cuda.close()
        raise


@final
class TensorRTSession(Session):
    """Runs one set of inputs at a time.

    An input is an array of numpy's, which is copied through page-locked memory, or lies on GPU 0 already (anything with
    `__cuda_array_interface__`): then the engine reads it where it is, so leave it alone until `run` returns. Work on
    torch's default stream is waited for; synchronize another stream yourself. Outputs are new arrays that belong to the
    caller. Not thread-safe: give each thread a session of its own; each has its own stream and memory.
    """

    def __init__(self, trt: Module, cuda: Cuda, loaded: Loaded, file: Path, options: RunOptions) -> None:
        self._trt, self._cuda, self._file, self._options = trt, cuda, file, options
        self._inputs = tensor_infos(trt, loaded.engine, trt.TensorIOMode.INPUT, file)
        self._outputs = tensor_infos(trt, loaded.engine, trt.TensorIOMode.OUTPUT, file)
        self._profiles = profile_ranges(loaded.engine, self._inputs)
        self._loaded: Loaded | None = loaded
        self._buffers = Buffers(cuda)
        self._stream = cuda.create_stream()
        self._context = PreparedContext(trt, cuda, loaded.context, self._profiles, self._buffers, self._stream)
        self._captures = options.cuda_graph and not captures_graphs_itself(trt)
        self._executed = False
        """Since the context was set up: TensorRT must run once before its work can be captured."""
        self._graph: int | None = None
        self._done = cuda.create_event(options.spin_wait)
        self._marks: tuple[int, ...] = ()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._outputs

    @property
    def conditions(self) -> RunConditions:
        return RunConditions(True, self._options.cuda_graph, self._options.spin_wait)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
        given = self._checked(feeds)
        with self._explained():
            self._copy_in(given)
            self._execute()
            results = self._copy_out()
            self._wait()
            return {name: result.copy() for name, result in results.items()}

    def run_in_phases(self, feeds: Mapping[str, Any]) -> Phases:
        """As `run`, with an event before and after each part; the results are left behind."""
        given = self._checked(feeds)
        with self._explained():
            self._marks = self._marks or tuple(self._cuda.create_event(self._options.spin_wait) for _ in range(5))
            self._prepare(given)  # what a new shape costs is no transfer
            self._mark(0)
            self._copy_in(given)
            self._mark(1)
            started = time.perf_counter_ns()
            self._execute()
            enqueue_ms = (time.perf_counter_ns() - started) / 1e6
            self._mark(2)
            self._copy_out(self._marks[3])
            self._mark(4)
            self._wait()
            h2d, compute, d2h = (self._cuda.elapsed_ms(self._marks[at], self._marks[at + 1]) for at in (0, 1, 3))
        return Phases(h2d, compute, d2h, enqueue_ms)

    def close(self) -> None:
        """Frees the GPU's memory; a second call does nothing."""
        if self._loaded is None:
            return
        try:
            self._drop_graph()
            self._context.close()
            self._loaded = None
            self._buffers.free()
            for event in (self._done, *self._marks):
                self._cuda.destroy_event(event)
            self._cuda.destroy_stream(self._stream)
        finally:
            self._loaded = None
            self._cuda.close()

    def _checked(self, feeds: Mapping[str, Any]) -> Given:
        """The inputs in the engine's order; raises EngineError before anything is copied."""
        if self._loaded is None:
            raise EngineError(f"{self._file}: its session is closed; open the engine again")
        try:
            given: dict[str, Any] = {name: device_array(name, feed) or feed for name, feed in feeds.items()}
            if problem := wrong_feeds(self._inputs, given):
                raise EngineError(problem)
            chosen_profile(self._profiles, {info.name: tuple(given[info.name].shape) for info in self._inputs})
        except EngineError as error:
            raise EngineError(f"{self._file}: {error}") from error
        return {info.name: given[info.name] for info in self._inputs}

    def _copy_in(self, given: Given) -> None:
        self._prepare(given)
        if any(isinstance(feed, DeviceArray) and feed.busy for feed in given.values()):
            self._cuda.synchronize_device()
        for info in self._inputs:
            feed = given[info.name]
            if isinstance(feed, DeviceArray):
                continue
            pinned = self._buffers.pinned(info.name, feed.shape, info.dtype)
            np.copyto(pinned, feed)
            self._cuda.copy_to_device_async(self._buffers.device(info.name, feed.nbytes), pinned, self._stream)

    def _prepare(self, given: Given) -> None:
        if not self._context.is_prepared_for(given):
            self._drop_graph()  # it holds the shapes and addresses that the context had
            self._executed = False
            self._context.prepare(given, self._inputs, self._outputs)
        if self._options.cuda_graph and (late := self._context.sized_by_data):
            raise EngineError(
                f"the size of output {late[0]!r} depends on the data, and such work is not captured in a CUDA graph; "
                "take cuda_graph out of the target"
            )

    def _execute(self) -> None:
        if not self._captures or not self._executed:
            self._context.enqueue()
            self._executed = True
            return
        if self._graph is None:
            try:
                self._graph = self._cuda.capture(self._stream, self._context.enqueue)
            except EngineError as error:
                advice = "not every engine can be captured: take cuda_graph out of the target"
                raise EngineError(f"{error}; {advice}") from error
        self._cuda.launch(self._graph, self._stream)

    def _copy_out(self, mark: int | None = None) -> dict[str, NDArray[Any]]:
        """Page-locked arrays, filled once the stream is done; `mark` is recorded before the first copy."""
        if self._context.sized_by_data:  # their shapes are known when the work is done
            self._cuda.synchronize(self._stream)
        if mark is not None:
            self._cuda.record(mark, self._stream)
        results = {}
        for info in self._outputs:
            shape, pointer = self._context.result(info)
            results[info.name] = pinned = self._buffers.pinned(info.name, shape, info.dtype)
            if pinned.nbytes:
                self._cuda.copy_to_host_async(pinned, pointer, self._stream)
        return results

    def _mark(self, index: int) -> None:
        self._cuda.record(self._marks[index], self._stream)

    def _wait(self) -> None:
        self._cuda.record(self._done, self._stream)
        self._cuda.wait(self._done)

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.destroy_graph(graph)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds the file, and the lines of TensorRT's log that led to an error."""
        with recording(self._trt) as (_, recorder):
            try:
                yield
            except EngineError as error:
                raise EngineError(f"{self._file}: {with_log(error, recorder.errors())}") from error
