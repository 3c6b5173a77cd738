"""Checks of torch, the NVIDIA driver, the GPU and its memory.

`nvidia-smi` reports the whole card even where a machine was given a slice of it; torch.cuda.mem_get_info reports what
this process can have. The two are compared, so that a slice shows as a slice.

Lesson: 1 (the GPU slice)
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmcourse.doctor.report import Row
from lmcourse.doctor.software import pip_install

__all__ = [
    "Card",
    "Device",
    "TorchFacts",
    "check_device_memory",
    "check_driver",
    "check_gpu",
    "check_torch",
    "parse_cards",
    "probe_cards",
    "probe_driver_cuda",
    "probe_torch",
]

GIB = 1024**3
MEMORY_VARIABLE = "LMCOURSE_DEVICE_MEMORY_GIB"
_OLDEST_CAPABILITY = (7, 5)  # Turing: the oldest that torch 2.11 and Triton 3.6 compile for
_OLDEST_DRIVERS = {12: "525", 13: "580"}  # CUDA major version → driver branch that brought it


@dataclass(frozen=True)
class Device:
    """What torch sees of one GPU."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TorchFacts:
    """torch as it imports here: version None means that it does not, and `error` says why."""

    version: str | None
    error: str | None = None
    cuda_build: str | None = None  # CUDA version that torch was built for; None: the CPU build
    devices: tuple[Device, ...] = ()
    architectures: tuple[str, ...] = ()  # sm_80, … that torch holds kernels for


@dataclass(frozen=True)
class Card:
    """One line of nvidia-smi."""

    name: str
    driver: str
    total_bytes: int
    mig: bool


def probe_torch() -> TorchFacts:
    """Imports torch; whatever goes wrong with that comes back as `error`."""
    try:
        import torch
    except Exception as error:  # a broken build fails with OSError, ImportError, AttributeError, …
        return TorchFacts(None, f"{type(error).__name__}: {error}")
    devices: list[Device] = []
    problem = None
    try:
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(index)
            name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
            devices.append(Device(name, capability, free, total))
        architectures = tuple(torch.cuda.get_arch_list())
    except RuntimeError as error:
        problem, architectures = str(error).splitlines()[0], ()
    return TorchFacts(torch.__version__, problem, torch.version.cuda, tuple(devices), architectures)


def probe_cards() -> tuple[Card, ...]:
    """What nvidia-smi lists; nothing if it is missing, fails or hangs."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = "--query-gpu=name,driver_version,memory.total,mig.mode.current"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_cards(text)


def parse_cards(text: str) -> tuple[Card, ...]:
    """nvidia-smi's csv: name, driver, MiB, MIG mode."""
    cards = []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) == 4:
            mebibytes = float(fields[2]) if fields[2].replace(".", "").isdigit() else 0.0
            cards.append(Card(fields[0], fields[1], int(mebibytes * 1024**2), fields[3] == "Enabled"))
    return tuple(cards)


def probe_driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the installed driver can run, asked of the driver itself; None without one."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            version = ctypes.c_int()
            if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) == 0:
                return version.value // 1000, version.value % 1000 // 10
        except (OSError, AttributeError):
            continue
    return None


def check_torch(torch: TorchFacts, cards: Sequence[Card]) -> Row:
    if torch.version is None:
        return Row(
            "torch", "fix", torch.error or "does not import", pip_install("--force-reinstall", "torch>=2.11,<2.14")
        )
    if torch.cuda_build is None and cards:
        found = f"{torch.version} is the CPU build, but there is a GPU: {cards[0].name}"
        return Row("torch", "fix", found, pip_install("--force-reinstall", "torch>=2.11,<2.14"))
    build = f"built for CUDA {torch.cuda_build}" if torch.cuda_build else "CPU build"
    return Row("torch", "ok", f"{torch.version} ({build})")


def check_driver(
    torch: TorchFacts, cards: Sequence[Card], driver_cuda: tuple[int, int] | None, environment: Mapping[str, str]
) -> Row:
    """Driver against torch: the driver's CUDA major version must not be older than torch's."""
    if not cards and driver_cuda is None and not torch.devices:
        return Row("NVIDIA driver", "ok", "none: the engine runs on the CPU")
    driver = cards[0].driver if cards else "unknown version (nvidia-smi does not answer)"
    found = driver + (f", up to CUDA {driver_cuda[0]}.{driver_cuda[1]}" if driver_cuda else "")
    if torch.devices or torch.cuda_build is None:
        return Row("NVIDIA driver", "ok", found)
    if environment.get("CUDA_VISIBLE_DEVICES", "unset") in ("", "-1"):
        return Row(
            "NVIDIA driver", "warn", f"{found}; CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES"
        )
    major = int(torch.cuda_build.split(".")[0])
    if driver_cuda and driver_cuda[0] < major:
        wanted = _OLDEST_DRIVERS.get(major, "newer")
        fix = f"update the NVIDIA driver to {wanted} or newer (on a shared machine its administrator does)"
        return Row("NVIDIA driver", "fix", f"{found}, but torch needs CUDA {major}", fix)
    why = torch.error or "torch finds no GPU"
    return Row("NVIDIA driver", "fix", f"{found}; {why}", "nvidia-smi  # if it shows no GPU, start the machine again")


def check_gpu(torch: TorchFacts) -> Row:
    if not torch.devices:
        return Row("GPU", "ok", "none: every lesson runs on the CPU; GPU cells show recorded results")
    device = torch.devices[0]
    more = f", and {len(torch.devices) - 1} more" if len(torch.devices) > 1 else ""
    found = f"{device.name}, compute capability {device.capability[0]}.{device.capability[1]}{more}"
    if device.capability < _OLDEST_CAPABILITY:
        return Row(
            "GPU", "fix", f"{found}: older than 7.5", "export CUDA_VISIBLE_DEVICES=  # runs the course on the CPU"
        )
    majors = {
        int(name.removeprefix("sm_").rstrip("af")) // 10 for name in torch.architectures if name.startswith("sm_")
    }
    if majors and device.capability[0] not in majors:
        command = pip_install("--upgrade", "torch>=2.11,<2.14")
        return Row("GPU", "fix", f"{found}; torch holds no kernels for it", command)
    return Row("GPU", "ok", found)


def check_device_memory(torch: TorchFacts, cards: Sequence[Card], environment: Mapping[str, str]) -> Row:
    """The memory that this process can have, whether it is a slice of the card, and the course's own limit."""
    asked = environment.get(MEMORY_VARIABLE)
    if asked is not None and not _is_positive(asked):
        return Row(
            "device memory", "fix", f"{MEMORY_VARIABLE}={asked!r} is not a number of GiB", f"unset {MEMORY_VARIABLE}"
        )
    limit = f"{MEMORY_VARIABLE}={asked}: the engine stays inside {asked} GiB" if asked else f"{MEMORY_VARIABLE} not set"
    if not torch.devices:
        return Row("device memory", "ok", limit if asked else f"{limit}: on the CPU the engine stays inside 1 GiB")
    device = torch.devices[0]
    free, total = device.free_bytes / GIB, device.total_bytes / GIB
    same = [card for card in cards if card.name == device.name] or list(cards)
    whole = max((card.total_bytes for card in same), default=device.total_bytes) / GIB
    sliced = total < 0.9 * whole or "MIG" in device.name or any(card.mig for card in same)
    size = f"{total:.1f} GiB, a slice of a card of {whole:.1f} GiB" if sliced else f"{total:.1f} GiB"
    found = f"{free:.1f} GiB free of {size}; {limit}"
    if free < 2:
        return Row(
            "device memory", "warn", found, "nvidia-smi  # shows who holds it; shut down other notebooks' kernels"
        )
    return Row("device memory", "ok", found)


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
