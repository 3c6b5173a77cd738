"""doctor(): gathers the facts of this machine and judges them, subject by subject.

Lesson: 1 (doctor)
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from lmcourse.doctor import compiler, course, gpu, machine, network, ports, software
from lmcourse.doctor.report import Report, Row

__all__ = ["choose_model", "course_memory_bytes", "doctor"]

_PORTS = {
    23333: "serve api_server",
    6006: "serve gradio",
    7860: "the lesson's gradio_llava.py",
    8888: "JupyterLab",
}
_REPORTED = (
    "lmcourse",
    "torch",
    "transformers",
    "tokenizers",
    "triton",
    "safetensors",
    "numpy",
    "jupyterlab",
    "gradio",
)


def doctor(*, offline: bool = False) -> Report:
    """Every check of this machine, in a few seconds; `offline` leaves out the question whether model hubs answer."""
    torch, cards = gpu.probe_torch(), gpu.probe_cards()
    subjects: dict[str, Callable[[], list[Row]]] = {
        "software": _software_rows,
        "GPU": lambda: _gpu_rows(torch, cards, os.environ),
        "machine": lambda: _machine_rows(torch),
        "course model": lambda: _course_rows(torch),
        "ports": lambda: machine.check_ports(_PORTS, ports.find_listeners(_PORTS)),
        "model hubs": lambda: network.check_hubs(None if offline else network.probe_hubs(network.hub_addresses())),
    }
    rows = [row for subject, check in subjects.items() for row in _survive(subject, check)]
    return Report(tuple(rows), _versions(torch))


def _survive(subject: str, check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a subject; a probe that fails on an odd machine costs its own subject, not the report."""
    try:
        return check()
    except Exception as error:
        found = f"could not be checked: {type(error).__name__}: {error}"
        return [Row(subject, "warn", found, "lmcourse doctor --json  # paste it into an issue")]


def _software_rows() -> list[Row]:
    version = sys.version_info[:3]
    installed = software.installed_version
    return [
        software.check_python(version, software.required_python()),
        software.check_packages("packages", software.required_packages(), installed),
        software.check_packages("JupyterLab", software.required_packages("lab"), installed),
        software.check_encoding(getattr(sys.stdout, "encoding", None)),
        software.check_chinese_font(software.find_chinese_font()),
    ]


def _gpu_rows(torch: gpu.TorchFacts, cards: tuple[gpu.Card, ...], environment: Mapping[str, str]) -> list[Row]:
    capability = torch.devices[0].capability if torch.devices else None
    c_compiler, has_headers = compiler.probe_c_compiler()
    return [
        gpu.check_torch(torch, cards),
        gpu.check_driver(torch, cards, gpu.probe_driver_cuda(), environment),
        gpu.check_gpu(torch),
        gpu.check_device_memory(torch, cards, environment),
        compiler.check_triton(compiler.probe_triton(capability), sys.platform),
        compiler.check_c_compiler(c_compiler, has_headers=has_headers, has_gpu=bool(torch.devices)),
    ]


def _machine_rows(torch: gpu.TorchFacts) -> list[Row]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    folders = {"disk (home)": Path.home(), "disk (hub cache)": hub}
    disks = []
    for name, folder in folders.items():
        free_bytes, writable = machine.probe_free_bytes(folder)
        disks.append(machine.check_disk(name, folder, free_bytes, writable=writable))
    return [
        machine.check_cpu(cores, machine.read_cpu_quota(), _torch_threads(torch)),
        machine.check_memory(machine.read_memory()),
        *disks,
    ]


def _torch_threads(torch: gpu.TorchFacts) -> int | None:
    if torch.version is None:
        return None
    import torch as library

    return library.get_num_threads()


def _course_rows(torch: gpu.TorchFacts) -> list[Row]:
    home, memory_bytes, has_gpu = Path.home(), course_memory_bytes(torch), bool(torch.devices)
    return [
        course.check_model(os.environ, memory_bytes, has_gpu=has_gpu),
        course.check_lesson_link(home, course.find_real_models(home), memory_bytes, has_gpu=has_gpu),
    ]


def course_memory_bytes(torch: gpu.TorchFacts) -> int | None:
    """Where a model would be loaded: the GPU's memory, or the machine's; None: unknown."""
    if torch.devices:
        return torch.devices[0].total_bytes
    memory = machine.read_memory()
    return memory.available_bytes if memory else None


def choose_model(home: Path) -> Path | None:
    """The real InternLM2-chat-1.8B, if a copy lies in a usual place and fits into memory; None: the bundled one."""
    torch = gpu.probe_torch()
    memory_bytes = course_memory_bytes(torch)
    for facts in course.find_real_models(home):
        if memory_bytes and course.fits(facts.weight_bytes or 0, memory_bytes, has_gpu=bool(torch.devices)):
            return facts.folder
    return None


def _versions(torch: gpu.TorchFacts) -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _REPORTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions["cuda build"] = torch.cuda_build or "none"
    versions["gpu"] = torch.devices[0].name if torch.devices else "none"
    return versions
