"""`make wheelhouse` and what comes of it: installs that ask no index. (The download itself is run by hand.)"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands_of(folder: Path, *words: str) -> str:
    """What make would run in a checkout without an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints-cpu.txt"):
        shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(["make", "-n", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_install_from_a_wheelhouse_leaves_the_network_alone(tmp_path: Path) -> None:
    commands = commands_of(tmp_path, "lab", "WHEELHOUSE=wheels")
    installs = re.findall(r"-m pip \S+ install [^|;\n]*", commands)
    assert installs
    assert all(f"--no-index --find-links {tmp_path}/wheels" in install for install in installs)
    assert "--no-index" not in commands_of(tmp_path, "lab")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_wheelhouse_holds_the_course_and_what_builds_it(tmp_path: Path) -> None:
    (download,) = re.findall(r"-m pip \S+ download [^\n]*\[all\][^\n]*", commands_of(tmp_path, "wheelhouse"))
    assert "setuptools" in download
    assert "--dest wheelhouse" in download
