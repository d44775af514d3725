"""What a calibration is asked for, and with which data, whether a recipe or a command line asks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from calibration import FAMILIES, METHODS
from calibration.errors import CalibrationError
from calibration.methods.method_text import method_from_text, setting_of, text_from_method
from calibration.tensorrt_cache.version import wanted_version
from calibration.weights import WEIGHT_METHODS, WeightMethod
from engines.machine import cpu_family
from pipeline.building.engine_errors import engine_errors_explained
from pipeline.names import unknown

if TYPE_CHECKING:
    from calibration.statistics.collect import Batch

BEST = "best"
"""In place of a method's name: of each tensor the one that does the least harm where it is read."""
Repair = Literal["equalize", "shift", "widen", "rounding", "bias"]
REPAIRS: tuple[Repair, ...] = get_args(Repair)
"""In the order in which they are tried."""
MOVING_REPAIRS: tuple[Repair, ...] = ("equalize", "shift")
"""They change channels, so that what is kept of them is measured again over all data."""
DEFAULT_METHOD = "percentile"
"""Of the benchmark's networks of seeded weights, and both kinds of grid, nowhere far from the best; entropy loses 4 to
10 dB on three. Of a ResNet-50 trained on digits min-max is 6 dB ahead, which the repair `widen` finds."""
DEFAULT_REPAIR: tuple[Repair, ...] = ("widen", "rounding", "bias")
"""They cost a few forward passes over a few samples; equalization and shifts may cost a second calibration pass."""


Images = Literal["all", "auto"] | int
"""How many of the samples: `auto` means until the ranges are tight."""


@dataclass(frozen=True)
class CalibrationData:
    """The samples, in batches that can be gone through as often as a step asks."""

    samples: int
    batches: Callable[[], Iterator[Batch]]
    """All of them, from the first one on, at each call."""
    between: Callable[[int, int], Iterator[Batch]] | None = None
    """Samples from one number up to another, without reading those before."""
    with_numbers: Callable[[Sequence[int]], Iterator[Batch]] | None = None
    """Samples of these numbers, which rise, in one way through the data."""
    digest_of_all: Callable[[], str] | None = None
    """Another one where any sample differs; without it, of the samples' ids."""
    images_a_run: int = 1
    """As many as the graph takes at once, where it fixes them."""

    def first(self, samples: int) -> list[Batch]:
        """The first batches, until they hold so many samples."""
        held: list[Batch] = []
        for batch in self.batches():
            held.append(batch)
            if sum(len(each.ids) for each in held) >= samples:
                break
        return held

    def part(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the samples from `start` to before `stop`."""
        return self.between(start, stop) if self.between is not None else part_of(self.batches(), start, stop)

    def chosen(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Batches of the samples of these numbers, which rise and are whole runs of the graph."""
        if self.with_numbers is not None:
            yield from self.with_numbers(numbers)
            return
        for number in numbers[:: self.images_a_run]:
            yield from self.part(number, number + self.images_a_run)

    def digest(self) -> str:
        """SHA-256 of the data."""
        if self.digest_of_all is not None:
            return self.digest_of_all()
        found = hashlib.sha256()
        for batch in self.batches():
            found.update("".join(f"{name}\0" for name in batch.ids).encode())
        return found.hexdigest()


def part_of(batches: Iterable[Batch], start: int, stop: int) -> Iterator[Batch]:
    """The samples from `start` to before `stop` of some batches."""
    first = 0
    for batch in batches:
        rows = slice(max(start - first, 0), max(stop - first, 0))
        if batch.ids[rows]:
            yield batch.rows(rows)
        first += len(batch.ids)


@dataclass(frozen=True)
class QuantizationSettings:
    """What shapes the graphs, beside the data."""

    method: str
    families: tuple[str, ...]
    """As they were asked for: `cpu` is this machine's."""
    threads: int = 1
    cache_versions: tuple[str, ...] = ()
    """Versions of TensorRT, such as 10.3.0, that a calibration cache is written for."""
    weights: WeightMethod = "max"
    """What the scale of a weight's output channel comes from."""
    repair: tuple[Repair, ...] = DEFAULT_REPAIR
    """What is tried on the graphs, and kept where it brings something."""
    images: Images = "all"
    """How many of the samples the pass goes through."""
    channel_extremes: bool = False
    """Whether sketches and ranges.json hold the extremes of each channel, for a second run of each sample."""
    bf16: bool = False
    """Whether the graph in BF16 is written too."""


def checked_repair(repair: Any) -> tuple[Repair, ...]:
    """Names of repairs, or `auto` alone for all, `none` for none; raises ValueError with the nearest right name."""
    if isinstance(repair, str):
        repair = (repair,)
    if not isinstance(repair, list | tuple) or not all(isinstance(each, str) for each in repair):
        raise ValueError(f"repair must be a name or an array of names, found {repair!r}")
    if tuple(repair) in (("auto",), ("none",)):
        return REPAIRS if repair[0] == "auto" else ()
    for name in repair:
        if name not in REPAIRS:
            raise ValueError(unknown("repair", name, (*REPAIRS, "auto", "none")))
    return tuple(name for name in REPAIRS if name in repair)


def checked_weights(weights: Any) -> WeightMethod:
    """`max` or `mse`; raises ValueError with the nearest right name."""
    if weights not in WEIGHT_METHODS:
        raise ValueError(unknown("weights", str(weights), WEIGHT_METHODS))
    return "max" if weights == "max" else "mse"


def check_repair_beside_caches(repair: Sequence[str], cache_versions: Sequence[str]) -> None:
    """Raises ValueError where a cache would be used beside a graph that it is not of."""
    moved = next((each for each in MOVING_REPAIRS if each in repair), None)
    if moved is not None and cache_versions:
        raise ValueError(
            f"repair '{moved}' changes the weights, and a calibration cache is used beside the graph as it was "
            "exported; leave one of them out"
        )


def check_opset_beside_caches(opset: int, cache_versions: Sequence[str]) -> None:
    """Raises ValueError where a TensorRT could not read the graph that its cache is used beside."""
    for version in map(wanted_version, cache_versions):
        if version.newest_opset is not None and opset > version.newest_opset:
            raise ValueError(
                f"TensorRT {version.release} reads opsets up to {version.newest_opset}, and the graph that its "
                f"calibration cache is used beside has opset {opset}: export the network at opset 13 to "
                f"{version.newest_opset} and give that file to edgestill quantize"
            )


def resolved_family(family: str) -> str:
    """`cpu` is this machine's."""
    if family != "cpu":
        return family
    with engine_errors_explained("family 'cpu'"):
        return cpu_family()


def checked_method(method: Any) -> str:
    """`entropy`, `percentile:99.9` or `{ name = "percentile", percentile = 99.9 }`, as the text of the first two.

    Raises ValueError with what to write instead, the nearest right name among it.
    """
    if method == BEST:
        return BEST
    if isinstance(method, Mapping):
        method = _text_from_table(method)
    name = method.partition(":")[0] if isinstance(method, str) else None
    if name is None:
        raise ValueError(f"method must be a name or a table with a name, found {method!r}")
    if name not in METHODS:
        raise ValueError(unknown("method", name, (*METHODS, BEST)))
    try:
        return text_from_method(method_from_text(method))
    except CalibrationError as error:
        raise ValueError(str(error)) from error


def _text_from_table(table: Mapping[str, Any]) -> str:
    name, settings = table.get("name"), {key: value for key, value in table.items() if key != "name"}
    if not isinstance(name, str):
        raise ValueError(f"method must be a name or a table with a name, one of {', '.join(sorted(METHODS))}")
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    known = setting_of(METHODS[name])
    for key, value in settings.items():
        if key != known:
            keys = ("name", known) if known else ("name",)
            raise ValueError(f"method '{name}' has no key '{key}'; its keys are {', '.join(keys)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"method '{name}': {key} must be a number, found {value!r}")
    return ":".join((name, *(f"{value!r}" for value in settings.values())))


def checked_families(families: tuple[str, ...]) -> tuple[str, ...]:
    """The placement families, `cpu` among them; raises ValueError with the nearest right name."""
    for family in families:
        if family not in ("cpu", *FAMILIES):
            raise ValueError(unknown("family", family, ("cpu", *FAMILIES)))
    return families


def checked_cache_versions(versions: tuple[str, ...]) -> tuple[str, ...]:
    """Versions of TensorRT, such as 10.3.0; raises ValueError where one takes no cache."""
    try:
        named = [wanted_version(version).first_line for version in versions]
    except CalibrationError as error:
        raise ValueError(str(error)) from error
    for index, line in enumerate(named):
        if line in named[:index]:
            raise ValueError(f"{versions[index]!r} stands twice; write it once")
    return versions
