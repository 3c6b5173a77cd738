"""All nine lessons on a CUDA machine, in lax mode: every cell runs, gpu cells too, and outputs are not compared.

    python benchmarks/notebooks_gpu.py                  results in ./build/
    OUT=/somewhere python benchmarks/notebooks_gpu.py 6 9     lessons 6 and 9, results there
    python benchmarks/notebooks_gpu.py --device cpu     the same where there is no GPU: gpu cells show recorded results

Runs from a checkout, without installing it; needs nbval, ipykernel and what the lessons import. The lessons run side by
side, each in a pytest of its own with `--nbval-lax --lessons-on-gpu`, and share one cache of compiled kernels. One that
takes longer than the limit is ended and reported with the cells it had finished. Writes notebooks_gpu.json; exit status
1 if a cell failed or did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PYTEST = ("-m", "pytest", "-v", "--nbval-lax", "-p", "no:cacheprovider", "-W", "default", "--tb=short", "--color=no")
OUTCOME = re.compile(r"::Cell (\d+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)")


class Running:
    """A lesson on its way, its log in a file so that one which is ended leaves what it had said."""

    def __init__(self, notebook: Path, variables: dict[str, str], folder: Path) -> None:
        self.notebook, self.started = notebook, time.perf_counter()
        self.log = folder / f"{notebook.stem}.log"
        words = [sys.executable, *PYTEST, "--lessons-on-gpu", str(notebook)]
        with self.log.open("w") as stdout:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT
            )

    def ended(self, deadline: float) -> bool:
        if self.process.poll() is None and time.perf_counter() > deadline:
            self.process.send_signal(signal.SIGINT)  # pytest then ends the lesson's kernel, too
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.poll() is not None

    def result(self) -> dict[str, Any]:
        """Numbers count code cells from 0, as nbval's do."""
        text = self.log.read_text("utf-8", errors="replace")
        outcomes = {int(number): outcome for number, outcome in OUTCOME.findall(text)}
        passed = {number for number, outcome in outcomes.items() if outcome == "PASSED"}
        cells = json.loads(self.notebook.read_text("utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        on_gpu = {number for number, cell in enumerate(code) if "gpu" in cell["metadata"].get("tags", [])}
        failed = sorted(number for number, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
        return {
            "ok": passed == set(range(len(code))),
            "cells": len(code),
            "cells_run": len(passed),
            "gpu_cells": len(on_gpu),
            "gpu_cells_run": len(on_gpu & passed),
            "failed_cells": failed,
            "missing_cells": sorted(set(range(len(code))) - set(outcomes)),
            "seconds": round(time.perf_counter() - self.started, 1),
            "status": self.process.returncode,
            "output": "" if passed == set(range(len(code))) else text[-12000:],
        }


def kernels_variables(folder: Path) -> dict[str, str]:
    """What the lessons' kernels inherit: this checkout, a `lmcourse` command, one Triton cache, a share of memory."""
    command = folder / "bin" / "lmcourse"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lmcourse "$@"\n', "utf-8")
    command.chmod(0o755)
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    return {
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "LMCOURSE_DEVICE_MEMORY_GIB": "8",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(command.parent), os.environ.get("PATH", "")]),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
    }


def describe(name: str, result: dict[str, Any]) -> str:
    line = (
        f"{'ok' if result['ok'] else 'FAILED':8}{name:26}{result['seconds']:6.1f} s  cells {result['cells_run']} of "
        f"{result['cells']}, gpu cells {result['gpu_cells_run']} of {result['gpu_cells']}"
    )
    troubles = ((key, result[f"{key}_cells"]) for key in ("failed", "missing") if result[f"{key}_cells"])
    return line + "".join(f", {key} {numbers}" for key, numbers in troubles) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", type=int, metavar="LESSON", help="numbers (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="for each lesson (default: 300)")
    args = parser.parse_args(arguments)
    from lmcourse.bench import describe_machine, write_json

    wanted = [f"{number:02}" for number in args.lessons or range(1, 10)]
    notebooks = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name[:2] in wanted]
    machine, results = describe_machine(), {}
    out = Path(os.environ.get("OUT", "build")) / "notebooks_gpu.json"
    deadline = time.perf_counter() + args.limit
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        variables = kernels_variables(folder)
        if args.device == "cpu":
            variables["CUDA_VISIBLE_DEVICES"] = ""
        running = [Running(path, variables, folder) for path in notebooks]
        while running:
            for one in [one for one in running if one.ended(deadline)]:
                running.remove(one)
                results[one.notebook.stem] = one.result()
                write_json(out, {"machine": machine, **dict(sorted(results.items()))})
                sys.stdout.write(describe(one.notebook.stem, results[one.notebook.stem]))
                sys.stdout.flush()
            time.sleep(0.1)
    return 0 if all(result["ok"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
