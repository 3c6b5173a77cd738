"""Who may import whom: import-linter's contracts hold, and start-up stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )


def test_every_file_imports_from_lower_floors_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = run("-c", code)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("heavy", ["torch", "transformers", "triton", "numpy", "matplotlib", "IPython"])
def test_import_of_the_package_is_light(heavy: str) -> None:
    result = run("-c", f"import sys, lmcourse; sys.exit({heavy!r} in sys.modules)")
    assert result.returncode == 0, result.stderr or f"import lmcourse imports {heavy}"


def test_help_needs_no_torch() -> None:
    result = run("-X", "importtime", "-m", "lmcourse", "-h")
    assert result.returncode == 0, result.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert not {"torch", "transformers", "triton"} & imported


@pytest.mark.parametrize("module", ["lmcourse.homework", "lmcourse.config", "lmcourse.errors", "lmcourse.spec"])
def test_module_that_only_decides_needs_no_torch(module: str) -> None:
    result = run("-c", f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr or f"import {module} imports torch"


def test_package_works_from_another_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import lmcourse; print(lmcourse.model_path('tiny-chat').name)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == "tiny-chat\n", result.stderr
