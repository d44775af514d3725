"""What a machine is, read from fixture trees of /proc, /sys and /etc."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from engines.errors import EngineError
from engines.machine import Gpu, cpu_family, this_machine

ORIN: Mapping[str, str] = {
    "proc/cpuinfo": """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1
""",
    "proc/meminfo": "MemTotal:       31363384 kB\nMemFree:        20114212 kB\n",
    "proc/loadavg": "0.42 0.38 0.25 2/512 4242\n",
    "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3,8\n",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
}
XEON: Mapping[str, str] = {
    "proc/cpuinfo": """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 hypervisor avx2 avx512f avx512_vnni avx_vnni amx_bf16 amx_tile amx_int8
processor\t: 1
model name\t: another
""",
    "proc/1/cgroup": "0::/kubepods.slice/kubepods-pod1\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def nvidia_smi(root: Path, script: str) -> None:
    command = tree(root, {"usr/bin/nvidia-smi": f"#!/bin/sh\n{script}\n"}) / "usr/bin/nvidia-smi"
    command.chmod(0o755)


def test_a_jetson_orin_is_recognised(tmp_path: Path) -> None:
    machine = this_machine(tree(tmp_path, ORIN), architecture="aarch64")
    assert machine.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert machine.l4t == "36.4.3"
    assert machine.system == "Ubuntu 22.04.5 LTS"
    assert machine.kernel == "5.15.148-tegra"
    assert machine.cpu_model == "Arm Cortex-A78AE"
    assert machine.isa == ("neon", "dotprod")
    assert machine.logical_cores == 5
    assert machine.memory_bytes == 31363384 * 1024
    assert machine.load_average == (0.42, 0.38, 0.25)
    assert (machine.container, machine.virtual, machine.gpus) == (None, False, ())
    assert cpu_family(machine) == "cpu-arm64"


def test_a_virtual_xeon_in_a_container_is_recognised(tmp_path: Path) -> None:
    machine = this_machine(tree(tmp_path, XEON), architecture="x86_64")
    assert machine.cpu_model == "Intel(R) Xeon(R) Platinum 8481C"
    assert machine.isa == ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    assert (machine.container, machine.virtual, machine.cpu_quota) == ("kubepods", True, 1.5)
    assert (machine.board, machine.l4t) == (None, None)
    assert cpu_family(machine) == "cpu-vnni"


@pytest.mark.parametrize(
    ("flags", "family"),
    [("avx2", "cpu-avx2"), ("avx2 avx512f", "cpu-avx2"), ("avx2 avx_vnni", "cpu-vnni"), ("sse2", "cpu-avx2")],
)
def test_an_x86_cpu_is_placed_by_its_vnni(tmp_path: Path, flags: str, family: str) -> None:
    tree(tmp_path, {"proc/cpuinfo": f"flags : {flags}\n"})
    assert cpu_family(this_machine(tmp_path, architecture="x86_64")) == family


def test_a_cpu_without_a_placement_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="known for riscv64 CPUs; name a family: cpu-vnni, cpu-avx2, cpu-arm64"):
        cpu_family(this_machine(tmp_path, architecture="riscv64"))


def test_an_unknown_arm_core_is_named_by_its_numbers(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/cpuinfo": "CPU implementer : 0x61\nCPU part : 0x022\n"})
    assert this_machine(tmp_path, architecture="aarch64").cpu_model == "implementer 0x61 part 0x022"


def test_a_machine_that_tells_nothing_is_unknown_and_no_error(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert (machine.cpu_model, machine.kernel, machine.memory_bytes, machine.load_average) == (None, None, None, None)
    assert (machine.isa, machine.gpus, machine.cpu_quota) == ((), (), None)
    assert machine.logical_cores >= 1


@pytest.mark.parametrize("broken", ["", "\0\xff", "max", ":", "1 2", "MemTotal: much\nflags\n"])
def test_files_of_no_sense_are_no_error(tmp_path: Path, broken: str) -> None:
    names = [*ORIN, *XEON, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "proc/device-tree/model"]
    machine = this_machine(tree(tmp_path, dict.fromkeys(names, broken)))
    assert (machine.memory_bytes, machine.l4t, machine.load_average) == (None, None, None)


def test_the_quota_of_an_older_container_is_read_and_minus_one_is_none(tmp_path: Path) -> None:
    period = {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    limited = tree(tmp_path / "limited", {**period, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n"})
    free = tree(tmp_path / "free", {**period, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"})
    assert this_machine(limited).cpu_quota == 2.5
    assert this_machine(free).cpu_quota is None


@pytest.mark.parametrize(
    ("file", "text", "container"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2", "wsl"),
        ("proc/1/cgroup", "0::/init.scope", None),
    ],
)
def test_a_container_is_recognised(tmp_path: Path, file: str, text: str, container: str | None) -> None:
    assert this_machine(tree(tmp_path, {file: text})).container == container


def test_gpus_are_what_nvidia_smi_tells(tmp_path: Path) -> None:
    nvidia_smi(tmp_path, "echo 'NVIDIA RTX A4000, 8.6, 570.86.15, 16376'; echo 'Orin (nvgpu), [N/A], 540.4.0, [N/A]'")
    assert this_machine(tmp_path).gpus == (
        Gpu("NVIDIA RTX A4000", "8.6", "570.86.15", 16376 << 20),
        Gpu("Orin (nvgpu)", None, "540.4.0", None),
    )


@pytest.mark.parametrize(
    "script", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'", "kill -9 $$"]
)
def test_nvidia_smi_without_a_driver_means_no_gpu(tmp_path: Path, script: str) -> None:
    nvidia_smi(tmp_path, script)
    assert this_machine(tmp_path).gpus == ()


def test_the_fingerprint_forgets_the_load_and_a_few_megabytes_but_not_the_cpu(tmp_path: Path) -> None:
    machine = this_machine(tree(tmp_path, ORIN), architecture="aarch64")
    later = replace(machine, load_average=(9.0, 9.0, 9.0), memory_bytes=(machine.memory_bytes or 0) - (4 << 20))
    assert machine.fingerprint() == later.fingerprint()
    assert machine.fingerprint() != replace(machine, cpu_model="another").fingerprint()
    assert machine.fingerprint() != replace(machine, gpus=(Gpu("NVIDIA L4", "8.9", "570.1", 1 << 34),)).fingerprint()


def test_this_machine_goes_into_json_and_keeps_its_fingerprint() -> None:
    machine = this_machine()
    told = json.loads(json.dumps(machine.to_json()))
    assert told["architecture"] == machine.architecture
    assert told["memory_bytes"] > 0
    assert this_machine().fingerprint() == machine.fingerprint()
