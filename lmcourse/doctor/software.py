"""Checks of what is installed: Python, packages in the ranges of pyproject.toml, JupyterLab, text encoding, fonts.

The ranges come from the installed package's own metadata, so that they cannot part from pyproject.toml.

Lesson: 1 (the environment)
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lmcourse.doctor.report import Row

__all__ = [
    "check_chinese_font",
    "check_encoding",
    "check_packages",
    "check_python",
    "find_chinese_font",
    "installed_version",
    "pip_install",
    "required_packages",
    "required_python",
]

_FALLBACK_PYTHON = ">=3.11"
_CHINESE_FONTS = ("cjk", "sourcehan", "wqy", "simhei", "simsun", "msyh", "pingfang", "notosanssc", "uming", "ukai")


def installed_version(name: str) -> str | None:
    """The version that pip installed, without importing the package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_python() -> str:
    """requires-python of pyproject.toml."""
    try:
        return str(importlib.metadata.metadata("lmcourse").json.get("requires_python", _FALLBACK_PYTHON))
    except importlib.metadata.PackageNotFoundError:
        return _FALLBACK_PYTHON


def required_packages(extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for on this platform: the core, or what one extra adds. Empty if not installed."""
    try:
        lines = importlib.metadata.requires("lmcourse") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    core = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return core
    return [r for r in wanted if r not in core and r.marker is not None and r.marker.evaluate({"extra": extra})]


def pip_install(*requirements: str) -> str:
    """The command that installs these here; without an NVIDIA driver it keeps torch's CPU build."""
    constraints = Path(__file__).parents[2] / "constraints-cpu.txt"
    cpu = ["-c", str(constraints)] if constraints.is_file() and shutil.which("nvidia-smi") is None else []
    return shlex.join([sys.executable, "-m", "pip", "install", *cpu, *requirements])


def check_python(version: tuple[int, int, int], required: str) -> Row:
    found = ".".join(map(str, version))
    if found in SpecifierSet(required):
        return Row("Python", "ok", found)
    oldest = required.lstrip(">=").split(",")[0]
    return Row("Python", "fix", f"{found}, not {required}", f"conda create -n lmcourse -y python={oldest}")


def check_packages(
    name: str, required: Sequence[Requirement], installed: Callable[[str], str | None], *, needed: bool = True
) -> Row:
    """One row for a group: its versions, or all that is missing or out of range with one command for all of them."""
    if not required:
        root = Path(__file__).parents[2]
        return Row(name, "fix", "lmcourse is not installed in this Python", pip_install("-e", str(root)))
    versions = {r.name: installed(r.name) for r in required}
    wrong = [r for r in required if not _fits(r, versions[r.name])]
    if not wrong:
        return Row(name, "ok", ", ".join(f"{package} {version}" for package, version in versions.items()))
    found = ", ".join(f"{r.name} {versions[r.name] or 'missing'} (wants {r.specifier})" for r in wrong)
    command = pip_install(*(f"{r.name}{r.specifier}" for r in wrong))
    return Row(name, "fix" if needed else "warn", found, command)


def _fits(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def check_encoding(encoding: str | None) -> Row:
    """encoding of standard output; a notebook and a redirected file count too."""
    if encoding is None or encoding.lower().replace("-", "").startswith("utf8"):
        return Row("text encoding", "ok", encoding or "set by the front end")
    return Row("text encoding", "fix", f"{encoding}: Chinese text cannot be printed", "export PYTHONUTF8=1")


def find_chinese_font() -> str | None:
    """A font with Chinese glyphs for plots, by fontconfig or by the names of files in the usual folders."""
    if shutil.which("fc-list"):
        command = ["fc-list", ":lang=zh", "family"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        return listed.splitlines()[0].split(",")[0] if listed.strip() else None
    folders = ["~/.fonts", "~/.local/share/fonts", "/usr/share/fonts", "/Library/Fonts", "/System/Library/Fonts"]
    for folder in [*folders, os.path.join(os.environ.get("WINDIR", ""), "Fonts")]:
        for path in Path(folder).expanduser().rglob("*.[ot]t[fc]"):
            if any(mark in path.name.lower().replace("-", "") for mark in _CHINESE_FONTS):
                return path.name
    return None


def check_chinese_font(font: str | None) -> Row:
    if font:
        return Row("Chinese font", "ok", font)
    return Row(
        "Chinese font", "warn", "none: Chinese labels in plots show as boxes", "sudo apt-get install -y fonts-noto-cjk"
    )
