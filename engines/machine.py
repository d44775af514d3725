"""What this machine is: read from /proc, /sys and /etc, where a missing file means unknown and never an error."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError

ROOT = Path("/")
GIB = 1 << 30
NVIDIA_SMI_SECONDS = 10.0

# The kernel's word for each instruction set that decides how fast, or how exact, INT8 is.
ISA = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
}
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
X86 = frozenset({"x86_64", "amd64", "i686"})
ARM64 = frozenset({"aarch64", "arm64"})

# Arm's /proc/cpuinfo has no model name: (implementer, part), from arch/arm64/include/asm/cputype.h.
ARM_CORES = {
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",  # Jetson Orin
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
    ("0x41", "0xd83"): "Arm Neoverse-V3AE",  # Jetson Thor
    ("0x4e", "0x004"): "NVIDIA Carmel",  # Jetson Xavier
}


@dataclass(frozen=True)
class Gpu:
    """As nvidia-smi tells it; None where it does not."""

    name: str
    compute_capability: str | None
    driver: str | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """What measurements depend on; None is unknown."""

    system: str
    kernel: str | None
    architecture: str
    cpu_model: str | None
    isa: tuple[str, ...]
    logical_cores: int
    """That this process may use."""
    cpu_quota: float | None
    """Cores' worth of time that a container grants; None: no limit."""
    memory_bytes: int | None
    gpus: tuple[Gpu, ...]
    board: str | None
    """The device tree's model, such as `NVIDIA Jetson AGX Orin Developer Kit`."""
    l4t: str | None
    """Release of Jetson Linux, such as `36.4.3`."""
    python: str
    container: str | None
    virtual: bool
    load_average: tuple[float, float, float] | None
    """Over 1, 5 and 15 minutes, when this was read."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def fingerprint(self) -> str:
        """Digest of what does not change between two runs on one machine: no load, memory in whole GiB."""
        stable = self.to_json()
        del stable["load_average"], stable["python"]
        stable["memory_bytes"] = None if self.memory_bytes is None else round(self.memory_bytes / GIB)
        return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:16]


def this_machine(root: Path = ROOT, architecture: str | None = None) -> Machine:
    """Everything known of this machine; `root` and `architecture` let a test describe another."""
    cpu = _fields(_text(root / "proc/cpuinfo"))
    flags = _flags(cpu)
    return Machine(
        system=_system(root),
        kernel=_text(root / "proc/sys/kernel/osrelease").strip() or None,
        architecture=architecture or platform.machine(),
        cpu_model=_cpu_model(cpu),
        isa=_isa(flags),
        logical_cores=_logical_cores(root),
        cpu_quota=_cpu_quota(root),
        memory_bytes=_memory_bytes(root),
        gpus=_gpus(root),
        board=_text(root / "proc/device-tree/model").strip("\0\n ") or None,
        l4t=jetson_linux(root),
        python=platform.python_version(),
        container=_container(root),
        virtual="hypervisor" in flags,
        load_average=_load_average(root),
    )


def cpu_family(machine: Machine | None = None) -> str:
    """The Q/DQ placement family of this machine's CPU: cpu-vnni, cpu-avx2 or cpu-arm64."""
    architecture = (machine.architecture if machine else platform.machine()).lower()
    if architecture in X86:
        # Without a machine at hand only the processor is looked at: asking for GPUs takes a process of its own.
        isa = machine.isa if machine else _isa(_flags(_fields(_text(ROOT / "proc/cpuinfo"))))
        return "cpu-vnni" if VNNI & set(isa) else "cpu-avx2"
    if architecture in ARM64:
        return "cpu-arm64"
    raise EngineError(
        f"no INT8 placement is known for {architecture} CPUs; name a family: cpu-vnni, cpu-avx2, cpu-arm64"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    """`key : value` lines; the first processor's, where a key repeats."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _flags(cpu: dict[str, str]) -> list[str]:
    return f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split()


def _isa(flags: list[str]) -> tuple[str, ...]:
    return tuple(name for word, name in ISA.items() if word in flags)


def _system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release"), re.MULTILINE)
    return found[1] if found else platform.system()


def _cpu_model(cpu: dict[str, str]) -> str | None:
    if "model name" in cpu:
        return cpu["model name"]
    core = cpu.get("CPU implementer", ""), cpu.get("CPU part", "")
    return ARM_CORES.get(core, f"implementer {core[0]} part {core[1]}") if all(core) else None


def _logical_cores(root: Path) -> int:
    allowed = _fields(_text(root / "proc/self/status")).get("Cpus_allowed_list", "")
    ranges = re.findall(r"(\d+)(?:-(\d+))?", allowed)
    if ranges:
        return sum(int(last or first) - int(first) + 1 for first, last in ranges)
    return len(os.sched_getaffinity(0))


def _cpu_quota(root: Path) -> float | None:
    group = root / "sys/fs/cgroup"
    words = _text(group / "cpu.max").split() or [
        _text(group / f"cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    quota, period = (int(word) if word.isdigit() else 0 for word in (*words, "", "")[:2])
    return quota / period if quota and period else None


def _memory_bytes(root: Path) -> int | None:
    found = re.match(r"(\d+) kB", _fields(_text(root / "proc/meminfo")).get("MemTotal", ""))
    return int(found[1]) * 1024 if found else None


def _gpus(root: Path) -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi", path=None if root == ROOT else str(root / "usr/bin"))
    if command is None:
        return ()
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    try:
        told = subprocess.run(  # noqa: S603 - found on the user's PATH, fixed arguments
            [command, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=NVIDIA_SMI_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # no driver behind it
    return tuple(_gpu(line) for line in told.stdout.splitlines() if line.count(",") == 3)


def _gpu(line: str) -> Gpu:
    name, capability, driver, mebibytes = (word.strip() for word in line.split(","))
    return Gpu(
        name=name,
        compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else None,
        driver=driver if re.fullmatch(r"[\d.]+", driver) else None,
        memory_bytes=int(mebibytes) << 20 if mebibytes.isdigit() else None,
    )


def jetson_linux(root: Path = ROOT) -> str | None:
    """Its release, such as `36.4.3`; None where this is no Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else None


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if "microsoft" in _text(root / "proc/sys/kernel/osrelease").lower():
        return "wsl"
    found = re.search(r"kubepods|docker|lxc|containerd", _text(root / "proc/1/cgroup"))
    return found[0] if found else None


def _load_average(root: Path) -> tuple[float, float, float] | None:
    words = _text(root / "proc/loadavg").split()[:3]
    try:
        one, five, fifteen = (float(word) for word in words)
    except ValueError:
        return None
    return one, five, fifteen
