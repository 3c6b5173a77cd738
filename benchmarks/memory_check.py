"""The kernels under NVIDIA's memory checker: reads and writes out of bounds, misaligned or of freed memory, and races.

    python benchmarks/memory_check.py                   memcheck, half a minute
    python benchmarks/memory_check.py --tests tests/kernels    the tests marked gpu of a folder instead
    python benchmarks/memory_check.py --tool racecheck  races in shared memory
    python benchmarks/memory_check.py --tool initcheck  reads of memory that nothing wrote

Runs `benchmarks/kernels_gpu check-small` (every operation at awkward shapes, in each dtype) under compute-sanitizer,
without torch's caching allocator, so that each tensor is an allocation of its own and the first byte past it is caught.
Needs compute-sanitizer (CUDA toolkit) and a GPU whose driver allows it. The exit status is the checker's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels_gpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=("memcheck", "racecheck", "initcheck", "synccheck"), default="memcheck")
    parser.add_argument("--section", default="check-small", help="of kernels_gpu (default: check-small)")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="run these tests (default: the section)")
    args = parser.parse_args()
    checker = shutil.which("compute-sanitizer")
    if checker is None:
        sys.stderr.write("compute-sanitizer is not here: install the CUDA toolkit\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OUT": folder}
        words = [checker, "--tool", args.tool, "--error-exitcode", "9", "--print-limit", "20"]
        pytest = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default"]
        what = [*pytest, *args.tests] if args.tests else [str(KERNELS), args.section]
        command = [*words, sys.executable, *what]
        return subprocess.run(command, env=variables, check=False, cwd=KERNELS.parents[1]).returncode


if __name__ == "__main__":
    sys.exit(main())
