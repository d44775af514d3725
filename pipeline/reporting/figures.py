"""Which drawings the HTML report shows: rows of label, drawing and number, from the result model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting import charts, formats
from pipeline.reporting.result import ChainStep, EngineResult, GpuRun, Latency, Report
from pipeline.reporting.scale import Axis, axis_from_zero, logarithmic_axis, metric_axis
from pipeline.reporting.scatter import Point, Series, scatter, y_scale


@dataclass(frozen=True)
class Row:
    label: str
    note: str
    drawing: Markup
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Figure:
    title: str
    columns: tuple[str, str, str]
    """What label, drawing and number are, for those who hear the table."""
    rows: tuple[Row, ...]
    scale: Markup | None = None


@dataclass(frozen=True)
class Scatter:
    scale: Markup
    plot: Markup


def chain_figure(report: Report) -> Figure:
    ends = [end for step in report.chain if step.accuracy for end in (step.accuracy.low, step.accuracy.high)]
    axis = metric_axis(ends)
    rows = tuple(_chain_row(step, axis) for step in report.chain)
    labels = charts.tick_labels(axis, formats.percent_ticks(axis.ticks))
    metric = formats.heading(report.metric)
    return Figure(f"{metric} after each step", ("Step", f"Interval of {report.metric}", metric), rows, labels)


def _chain_row(step: ChainStep, axis: Axis) -> Row:
    facts = [f"{formats.count(step.parameters)} parameters" if step.parameters is not None else ""]
    facts += [formats.bytes_(step.bytes) if step.bytes is not None else "", step.note]
    return Row(
        step.label,
        " · ".join(fact for fact in facts if fact),
        charts.interval_strip(step.accuracy, axis, step.precision, hollow=step.step == "baseline"),
        formats.percent(step.accuracy.value) if step.accuracy else "not measured",
        formats.percent_interval(step.accuracy) if step.accuracy else "",
    )


def scatter_figure(report: Report) -> Scatter | None:
    """None where no engine has both an accuracy and a latency."""
    plotted = [engine for engine in report.engines if engine.accuracy and engine.latency]
    if not plotted:
        return None
    one_target = len({engine.target for engine in plotted}) == 1
    series = [
        _series(engine, formats.precision(engine.precision) if one_target else formats.engine(engine))
        for engine in plotted
    ]
    ends = [end for one in series for end in (one.accuracy.low, one.accuracy.high)]
    x_axis = logarithmic_axis(point.x for one in series for point in one.points)
    y_axis = metric_axis(ends)
    plot = scatter(series, x_axis, y_axis, f"{formats.heading(report.metric)} against latency", _described(report))
    return Scatter(y_scale(y_axis, formats.percent_ticks(y_axis.ticks)), plot)


def _series(engine: EngineResult, name: str) -> Series:
    assert engine.accuracy is not None  # noqa: S101 - the caller chose it
    first = engine.latency[0]
    points = (
        Point(latency.p50_ms, f"{name}, batch {latency.batch_size}" if latency is first else str(latency.batch_size))
        for latency in engine.latency
    )
    return Series(engine.precision, engine.accuracy, tuple(points))


def _described(report: Report) -> str:
    return "; ".join(
        f"{formats.engine(engine)} at batch {latency.batch_size}: {formats.milliseconds(latency.p50_ms)}, "
        f"{formats.percent(engine.accuracy.value)}"
        for engine in report.engines
        if engine.accuracy
        for latency in engine.latency
    )


def latency_figures(report: Report) -> Iterator[Figure]:
    """One for each batch size, its engines below each other on one axis from zero."""
    for batch_size in sorted({latency.batch_size for engine in report.engines for latency in engine.latency}):
        pairs = [(e, found) for e in report.engines for found in e.latency if found.batch_size == batch_size]
        axis = _latency_axis([latency for _, latency in pairs])
        ticks = [f"{formats.plain(tick, 3)} ms" if tick else "0" for tick in axis.ticks]
        rows = tuple(_latency_row(engine, latency, axis) for engine, latency in pairs)
        columns = ("Engine", "Distribution of the time per call", "Median")
        yield Figure(f"Batch {batch_size}", columns, rows, charts.tick_labels(axis, ticks))


def _latency_axis(latencies: list[Latency]) -> Axis:
    """One stray call must not squeeze the rest: what lies beyond twice the slowest median is named, not drawn."""
    furthest = max(max((latency.p50_ms, *latency.quantiles_ms)) for latency in latencies)
    return axis_from_zero(min(furthest, 2 * max(latency.p50_ms for latency in latencies)) * 1.02)


def _latency_row(engine: EngineResult, latency: Latency, axis: Axis) -> Row:
    threads = f"{latency.threads} thread{'s' if latency.threads != 1 else ''}, " if latency.threads else ""
    drawing = charts.quantile_strip(latency, axis, engine.precision)
    remark = ""
    if latency.ratio_to_fp32:
        remark = f"{latency.ratio_to_fp32.value:.2f} of FP32: {latency.versus_fp32 or 'not judged'}"
    value = formats.milliseconds(latency.p50_ms)
    held = "".join(f", {each}" for each in _gpu_run(latency.gpu)) if latency.gpu else ""
    return Row(formats.engine(engine), f"{threads}{latency.samples} calls{held}", drawing, value, remark)


def _gpu_run(run: GpuRun) -> Iterator[str]:
    yield "with transfers" if run.transfers else "without transfers"
    yield "CUDA graph" if run.cuda_graph else "no CUDA graph"
    yield "spin-wait" if run.spin_wait else "sleeping wait"
    phases = {"H2D": run.h2d_ms, "GPU compute": run.gpu_compute_ms, "D2H": run.d2h_ms}
    yield from (f"{name} {formats.milliseconds(ms)}" for name, ms in phases.items() if ms is not None)


def size_figure(report: Report) -> Figure | None:
    sized = [(engine, engine.bytes) for engine in report.engines if engine.bytes is not None]
    if not sized:
        return None
    axis = axis_from_zero(max(size for _, size in sized))
    whole = {engine.target: size for engine, size in sized if engine.precision == "fp32"}
    rows = tuple(_size_row(engine, size, whole.get(engine.target), axis) for engine, size in sized)
    return Figure("Size of each engine file", ("Engine", "Bar", "Size"), rows)


def _size_row(engine: EngineResult, size: int, fp32: int | None, axis: Axis) -> Row:
    remark = f"{size / fp32:.2f} of FP32" if fp32 and engine.precision != "fp32" else ""
    drawing = charts.bar_strip(size, axis, engine.precision, hollow=engine.state != "measured")
    return Row(formats.engine(engine), engine.runtime, drawing, formats.bytes_(size), remark)


def stage_figure(report: Report) -> Figure | None:
    if not report.stages:
        return None
    axis = axis_from_zero(max(stage.seconds for stage in report.stages))
    rows = tuple(
        Row(
            stage.name,
            stage.key[:12],
            charts.bar_strip(stage.seconds, axis, "fp32"),
            formats.seconds(stage.seconds),
            f"peak {formats.bytes_(stage.peak_memory_bytes)}" if stage.peak_memory_bytes is not None else "",
        )
        for stage in report.stages
    )
    return Figure("Time and memory of each stage", ("Stage", "Bar", "Seconds"), rows)
