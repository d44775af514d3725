"""Measured tactics of earlier builds: TensorRT takes from the file what it would else time again."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from engines.cuda import compute_capability
from engines.errors import BuildFailed
from engines.files import replacing
from engines.machine import this_machine
from engines.tensorrt.api import IBuilderConfig, ITimingCache, Module


def timing_cache_file(trt: Module, name: str) -> Path:
    """The file of a name in which `{device}` and `{version}` may stand, so that each gets a cache of its own.

    The device is what nvidia-smi or the board's device tree calls it, else its compute capability.
    """
    if "{" not in name:
        return Path(name)
    return Path(name.replace("{device}", _device()).replace("{version}", str(trt.__version__)))


def _device() -> str:
    machine = this_machine()
    name = machine.gpus[0].name if machine.gpus else machine.board or compute_capability() or "no GPU"
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def take_timing_cache(trt: Module, config: IBuilderConfig, file: Path, must_exist: bool) -> str:
    """Gives the builder what the file holds, or an empty cache where there is none yet; returns its SHA-256.

    Raises BuildFailed where the file cannot be read, is missing though it must exist, or is of another device or
    version: TensorRT would time everything again, without a word.
    """
    if must_exist and not file.is_file():
        raise BuildFailed(
            f"{file}: there is no such timing cache, and a reproducible build takes every tactic from it; "
            "build once without 'reproducible' on the device"
        )
    data = _bytes(file)
    cache: ITimingCache = config.create_timing_cache(data)
    if not cache or not config.set_timing_cache(cache, False):
        raise BuildFailed(
            f"{file}: {trt.__name__} {trt.__version__} does not take this timing cache: it is damaged, or of another "
            "device or version; put {{device}} and {{version}} into its name, or name another file"
        )
    return hashlib.sha256(data).hexdigest()


def keep_timing_cache(config: IBuilderConfig, file: Path) -> None:
    """Writes what the builder has timed, merged with what another build has written meanwhile."""
    timed: ITimingCache = config.get_timing_cache()
    merged: ITimingCache = config.create_timing_cache(_bytes(file))
    merged.combine(timed, False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write_bytes(bytes(merged.serialize()))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise BuildFailed(f"{file}: the timing cache cannot be read ({error.strerror})") from error
