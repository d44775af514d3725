"""The optimization profiles of a network: which sizes of its dynamic axes an engine takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.base import BATCH, AxisProfile, Target
from engines.errors import BuildFailed
from engines.tensorrt.api import Builder, IBuilderConfig, INetworkDefinition, IOptimizationProfile, ITensor

Sizes = Mapping[str, dict[str, int]]
"""min, opt and max by the name of the axis."""


@dataclass(frozen=True)
class Profile:
    """One optimization profile, as the builder got it."""

    sizes: Sizes
    shapes: Mapping[str, dict[str, tuple[int, ...]]]
    """min, opt and max of each dynamic input."""


def add_profiles(
    builder: Builder, network: INetworkDefinition, config: IBuilderConfig, graph: Path, target: Target
) -> tuple[Profile, ...]:
    """The target's profiles, each for all dynamic inputs; none where no input is dynamic.

    Raises BuildFailed.
    """
    inputs: list[ITensor] = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic: list[ITensor] = [tensor for tensor in inputs if -1 in _dims(tensor)]
    # TensorRT keeps the names that dimensions have in the ONNX file, and takes those of one name for equal.
    names = {tensor.name: _axes(tensor, target, graph) for tensor in dynamic}
    found = {name for axes in names.values() for name in axes.values()}
    _require_known(found, target, graph)
    dims = {tensor.name: _dims(tensor) for tensor in dynamic}
    sizes = tuple(_sizes(found, profile, graph) for profile in target.profiles) if dynamic else ()
    profiles = tuple(Profile(each, {name: _bounds(dims[name], names[name], each) for name in dims}) for each in sizes)
    for profile in profiles:
        _add(builder, config, profile, graph)
    return profiles


def _bounds(dims: tuple[int, ...], names: Mapping[int, str], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    return {
        bound: tuple(sizes[names[at]][bound] if size == -1 else size for at, size in enumerate(dims))
        for bound in ("min", "opt", "max")
    }


def _add(builder: Builder, config: IBuilderConfig, wanted: Profile, graph: Path) -> None:
    profile: IOptimizationProfile = builder.create_optimization_profile()
    for tensor, bounds in wanted.shapes.items():
        profile.set_shape(tensor, min=bounds["min"], opt=bounds["opt"], max=bounds["max"])
    if not profile or config.add_optimization_profile(profile) < 0:
        raise BuildFailed(f"{graph}: TensorRT refuses the sizes {dict(wanted.sizes)} of its axes; choose others")


def _axes(tensor: ITensor, target: Target, graph: Path) -> dict[int, str]:
    """Name of each dynamic dimension; the first one is the batch whatever it is called."""
    if tensor.is_shape_tensor:
        raise BuildFailed(
            f"{graph}: input {tensor.name!r} is of dynamic size and holds a shape, of which an engine has to know the "
            "size; fix it when exporting"
        )
    dims = _dims(tensor)
    named = {at: tensor.get_dimension_name(at) for at, size in enumerate(dims) if size == -1}
    if 0 in named and named[0] not in target.axes:
        named[0] = BATCH
    for at, name in named.items():
        if not name:
            raise BuildFailed(
                f"{graph}: input {tensor.name!r} has shape {list(dims)}: its dynamic dimension {at} has no name, so no "
                "target can say its sizes; name it when exporting, or fix it"
            )
    return {at: str(name) for at, name in named.items()}


def _require_known(found: set[str], target: Target, graph: Path) -> None:
    """Sizes for every dynamic axis, and for none beside: a profile for another one is a mistake."""
    there = f"its dynamic axes are {', '.join(sorted(found))}" if found else "it has no dynamic axis"
    asked = [*target.axes, *(name for profile in target.more_profiles for name in profile)]
    if unused := [name for name in asked if name not in found]:
        raise BuildFailed(f"{graph}: target {target.name!r} has sizes for axis {unused[0]!r}, and {there}; take it out")
    if missing := sorted(found - set(target.axes) - {BATCH}):
        raise BuildFailed(
            f"{graph}: axis {missing[0]!r} is dynamic and target {target.name!r} does not say its sizes; add "
            f"{missing[0]} = {{ min = …, opt = …, max = … }} to the target's axes, or fix it when exporting"
        )


def _sizes(found: set[str], profile: Mapping[str, AxisProfile], graph: Path) -> Sizes:
    return {name: _checked(name, profile[name], graph) for name in sorted(found)}


def _checked(name: str, profile: AxisProfile, graph: Path) -> dict[str, int]:
    if not 1 <= profile.min <= profile.opt <= profile.max:  # TensorRT-RTX takes a batch of 0
        raise BuildFailed(
            f"{graph}: the sizes {asdict(profile)} of axis {name!r} must be at least 1 and rise from min to max"
        )
    return asdict(profile)


def _dims(tensor: ITensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
