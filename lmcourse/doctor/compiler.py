"""Checks of Triton: does it import, and does its compiler turn a kernel into machine code, with or without a GPU?

Compiling needs no GPU. A launch does, and first builds a small C stub: it needs a C compiler and Python's headers.

Lesson: 1 (doctor)
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmcourse.doctor.report import Row
from lmcourse.doctor.software import installed_version, pip_install

__all__ = ["TritonFacts", "check_c_compiler", "check_triton", "probe_c_compiler", "probe_triton"]

_DEFAULT_TARGET = 80  # compute capability 8.0, an A100: what is compiled for where there is no GPU to ask


@dataclass(frozen=True)
class TritonFacts:
    """version None: not installed. machine_code_bytes None: compiling failed, and `error` says how."""

    version: str | None
    target: int = _DEFAULT_TARGET  # compute capability times ten
    machine_code_bytes: int | None = None
    error: str | None = None


def probe_triton(capability: tuple[int, int] | None) -> TritonFacts:
    """Compiles a trivial kernel for the GPU's compute capability, or for 8.0."""
    version = installed_version("triton")
    target = capability[0] * 10 + capability[1] if capability else _DEFAULT_TARGET
    if version is None:
        return TritonFacts(None, target)
    try:
        from lmcourse.doctor.trivial_kernel import compile_double

        return TritonFacts(version, target, compile_double(target))
    except Exception as error:  # whatever is broken in Triton, LLVM or the cache folder is the finding
        return TritonFacts(version, target, None, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def check_triton(triton: TritonFacts, platform: str) -> Row:
    if triton.version is None:
        if not platform.startswith("linux"):
            return Row("Triton", "ok", f"not made for {platform}; the engine uses plain torch")
        return Row("Triton", "fix", "missing", pip_install("triton>=3.6,<3.8"))
    if triton.machine_code_bytes is None:
        if "PermissionError" in (triton.error or "") or "OSError" in (triton.error or ""):
            fix = 'export TRITON_CACHE_DIR="$(mktemp -d)"'
        else:
            fix = pip_install("--force-reinstall", "--no-deps", f"triton=={triton.version}")
        return Row("Triton", "fix", f"{triton.version} cannot compile: {triton.error}", fix)
    return Row(
        "Triton", "ok", f"{triton.version}; its compiler works (sm_{triton.target}, {triton.machine_code_bytes} bytes)"
    )


def probe_c_compiler(environment: Mapping[str, str] = os.environ) -> tuple[str | None, bool]:
    """The C compiler that Triton would call, and whether Python.h is there for it."""
    names = [environment["CC"]] if environment.get("CC") else ["gcc", "clang"]
    compiler = next((path for path in map(shutil.which, names) if path), None)
    return compiler, (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def check_c_compiler(compiler: str | None, *, has_headers: bool, has_gpu: bool) -> Row:
    if not has_gpu:
        return Row("C compiler", "ok", f"{compiler or 'none'} (needed only with a GPU)")
    if compiler is None:
        return Row("C compiler", "fix", "none: Triton cannot launch kernels", "sudo apt-get install -y gcc")
    if not has_headers:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        found = f"{compiler}, but no Python.h: Triton cannot launch kernels"
        return Row("C compiler", "fix", found, f"sudo apt-get install -y {package}")
    return Row("C compiler", "ok", compiler)
