"""One place says what is installed: pyproject.toml. The other files that install things must agree with it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints-cpu.txt").read_text().splitlines() if line and line[0] != "#"
)


def requirement_of(name: str) -> str:
    return next(entry for entry in PROJECT["dependencies"] if re.match(rf"{name}\b", entry)).partition(";")[0]


def test_environment_yml_installs_this_package_and_names_no_version_itself() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    (install,) = packages["pip"]
    found = re.fullmatch(r"--editable \.\[([a-z,]+)\]", install)
    assert found
    assert set(found[1].split(",")) <= set(PROJECT["optional-dependencies"])
    asked = tuple(int(part) for part in python.removeprefix("python=").split("."))
    least = tuple(int(part) for part in PROJECT["requires-python"].removeprefix(">=").split("."))
    assert asked >= least


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_lie_within_the_requirements(name: str) -> None:
    from packaging.specifiers import SpecifierSet

    assert CONSTRAINTS[name] in SpecifierSet(requirement_of(name).removeprefix(name).strip())


def test_torch_and_triton_are_a_known_pair() -> None:
    """torch's CPU wheel pins no Triton, so the constraints must."""
    known = {"2.11": "3.6.0", "2.12": "3.7.0", "2.13": "3.7.1"}
    assert CONSTRAINTS["triton"] == known[CONSTRAINTS["torch"].rpartition(".")[0]]


def test_makefile_accepts_the_pythons_of_the_package() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    least = PROJECT["requires-python"].removeprefix(">=").replace(".", ", ")
    assert f"({least}) <= sys.version_info[:2]" in makefile


def test_makefile_installs_extras_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for extras in re.findall(r"^\w+_EXTRAS := (\S+)$", makefile, re.MULTILINE):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_core_needs_no_notebook_and_no_server() -> None:
    core = {re.split(r"[<>=;\[ ]", entry)[0] for entry in PROJECT["dependencies"]}
    assert core == {
        "torch", "transformers", "triton", "numpy", "safetensors", "einops", "sentencepiece", "regex", "tqdm",
        "packaging", "pillow",
    }  # fmt: skip


def test_torch_here_needs_no_cuda_libraries_without_a_driver() -> None:
    import shutil

    import torch

    made_by_make = Path(sys.prefix).resolve() == ROOT / ".venv"
    if made_by_make and shutil.which("nvidia-smi") is None and sys.platform == "linux":
        assert torch.version.cuda is None, (
            "a CUDA build of torch on a machine without nvidia-smi; make clean && make env"
        )


def test_installed_torch_is_a_known_good_one() -> None:
    from packaging.specifiers import SpecifierSet

    assert version("torch").partition("+")[0] in SpecifierSet(requirement_of("torch").removeprefix("torch"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with only what the Makefile reads, so that nothing here touches the real .venv."""
    for name in ("Makefile", "pyproject.toml", "constraints-cpu.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_make_without_a_usable_python_says_what_is_needed(checkout: Path) -> None:
    result = make(checkout, "lab", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "Python 3.11 to 3.14" in result.stderr
    assert "no-such-python" in result.stderr
    assert not (checkout / ".venv").exists()


def test_make_alone_lists_the_tasks(checkout: Path) -> None:
    result = make(checkout)
    assert result.returncode == 0
    assert all(f"make {task}" in result.stdout for task in ("lab", "test", "check", "soak"))


def test_make_keeps_to_the_cpu_build_without_nvidia_smi(checkout: Path) -> None:
    planned = make(checkout, "--dry-run", "lab", "NVIDIA=").stdout
    assert "--constraint constraints-cpu.txt" in planned
    with_gpu = make(checkout, "--dry-run", "lab", "NVIDIA=/usr/bin/nvidia-smi").stdout
    assert "constraints-cpu.txt" not in with_gpu
