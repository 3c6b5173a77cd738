"""What the lesson shows of the kernel under the interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


def test_show_runs_the_kernel_and_it_is_right():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from lmcourse.teach.packed_product import show; show(8, 128)"],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "relative error below 1e-3: True" in run.stdout
