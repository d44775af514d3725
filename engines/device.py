"""What of a device decides whether an engine loads there: read here, or from what `doctor --json` wrote there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engines import cuda

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Device:
    """None is unknown: an old report, or a machine that does not tell."""

    system: str
    """As `platform.system()` has it, such as `Linux`."""
    architecture: str
    """Such as `x86_64` or `aarch64`."""
    runtimes: Mapping[str, str]
    """Version by runtime, of those that are installed."""
    compute_capability: str | None
    """Of GPU 0; None also where there is no GPU."""
    gpu: str | None
    """Its name."""
    cuda_driver: str | None
    """The newest CUDA that the driver serves."""
    dla_cores: int | None

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Device:
        """What `to_json` wrote, alone or as `device` in the document of `doctor`; raises ValueError for all else."""
        found = document.get("device", document)
        if not isinstance(found, Mapping) or found.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"holds no device of schema_version {SCHEMA_VERSION}")
        try:
            device = cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise ValueError(f"lacks {error} of a device") from error
        if not isinstance(device.runtimes, Mapping) or not all(isinstance(v, str) for v in device.runtimes.values()):
            raise ValueError("its runtimes are not versions by name")
        return device


def this_device(runtimes: Mapping[str, str], dla_cores: int | None = None, gpu: str | None = None) -> Device:
    """This machine, with the runtimes that the caller knows of, and the name of GPU 0 where nvidia-smi told it."""
    return Device(
        system=platform.system(),
        architecture=platform.machine(),
        runtimes=dict(runtimes),
        compute_capability=cuda.compute_capability(),
        gpu=gpu,
        cuda_driver=cuda.driver_version(),
        dla_cores=dla_cores,
    )
