"""The Triton kernels under Triton's interpreter, which must be chosen before the first import of triton."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
SCRIPT = Path(__file__).with_name("triton_cases.py")
CASES = re.findall(r"^(?:def )?(case_\w+)", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    seed = str(int(torch.randint(2**31, ()).item()))
    folders = [str(SCRIPT.parents[2]), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    environment |= {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), seed], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    return {"seed": seed, **json.loads(run.stdout.splitlines()[-1])}


@pytest.mark.parametrize("case", CASES)
def test_triton_interpreted_equals_float64(case, outcomes):
    assert outcomes[case] is None, f"seed {outcomes['seed']}: {outcomes[case]}"
