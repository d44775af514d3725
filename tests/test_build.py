"""The build stage: what it refuses before anything runs, and what it says of a target that cannot be built here."""

from __future__ import annotations

import platform

import pytest
from tensorrt_graphs import needs_tensorrt_rtx

from engines import ENGINES
from engines.base import Target
from pipeline.errors import MachineLacks, RecipeError
from pipeline.stages.build import Build

WITHOUT_DRIVER = pytest.mark.skipif(
    ENGINES["tensorrt"].why_not_build(Target("here", "tensorrt")) is None, reason="this machine builds with tensorrt"
)


def stage(**target: object) -> Build:
    return Build.model_validate({"targets": {"edge": target}})


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX has wheels for x86-64 alone")
def test_where_there_is_a_wheel_tensorrt_rtx_is_installed_so_no_test_of_it_is_skipped() -> None:
    assert ENGINES["tensorrt-rtx"].why_not_build(Target("portable", "tensorrt-rtx")) is None


@needs_tensorrt_rtx
@pytest.mark.parametrize("optional", [False, True])
def test_a_compute_capability_that_no_machine_builds_for_is_a_mistake_of_the_recipe(optional: bool) -> None:
    build = stage(runtime="tensorrt-rtx", compute_capabilities=("9.9",), optional=optional)
    said = r"^\[build\.targets\.edge\] TensorRT-RTX [\d.]+ does not build for compute capability 9\.9; choose from 7\.5"
    with pytest.raises(RecipeError, match=said):
        build.require()


@WITHOUT_DRIVER
def test_a_target_that_this_machine_cannot_build_stops_the_run_before_it_starts() -> None:
    said = r"^\[build\.targets\.edge\] .*\(or set optional = true\)$"
    with pytest.raises(MachineLacks, match=said):
        stage(runtime="tensorrt").require()


@WITHOUT_DRIVER
def test_an_optional_target_that_cannot_be_built_here_is_part_of_the_key_so_that_it_is_built_once_it_can_be() -> None:
    build = stage(runtime="tensorrt", optional=True)
    build.require()
    why = build.surroundings()["not_built_here"]["edge"]
    assert why == ENGINES["tensorrt"].why_not_build(Target("edge", "tensorrt"))
