"""One command for a CUDA machine, in about four minutes: does the engine hold there, and how fast is it?

    python benchmarks/gpu_check.py                      results in ./build/
    OUT=/somewhere python benchmarks/gpu_check.py       results there
    python benchmarks/gpu_check.py --device cpu         the same script where there is no GPU (a dry run: tests skip)

Runs from a checkout, without installing it. What asks only whether something is right runs side by side: the tests
marked `gpu`, parity with transformers in each dtype, `lmcourse chat tiny-chat` fed through a pipe, the kernels under
compute-sanitizer. What asks how fast runs alone after that. A step that takes longer than its limit is ended and said
to have failed, with what it had printed. Writes gpu_check.json after every step; exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LIMIT_SECONDS = 200  # of all steps that run side by side, and of each that runs alone
PYTEST = ("-m", "pytest", "-q", "-s", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "-rfE", "--tb=short")
PARITY = (*PYTEST, "tests/lesson/test_parity_gpu.py", "-k")
TOLD = re.compile(r"^\.?(b?float\d+ .* tokens equal .*|FAILED .*|ERROR .*|E  .*|=+ ERROR SUMMARY.*|.*times sooner.*)$")


@dataclass(frozen=True)
class Step:
    """A command of this checkout; `good` must be in what it prints."""

    words: tuple[str, ...]
    good: str
    stdin: str = ""


def steps(device: str) -> tuple[dict[str, Step], dict[str, Step]]:
    """What may run side by side, and what runs alone."""
    passed = " passed" if device == "cuda" else " skipped"
    python = sys.executable
    together = {
        "kernels": Step((python, *PYTEST, "tests/kernels"), passed),
        "others": Step((python, *PYTEST, *files_marked_gpu(besides=("kernels", "lesson"))), passed),
        "parity float32": Step((python, *PARITY, "float32"), passed),
        "parity float16": Step((python, *PARITY, "float16 and not bfloat16"), passed),
        "parity bfloat16": Step((python, *PARITY, "bfloat16"), passed),
        "chat": Step((python, "-m", "lmcourse", "chat", "tiny-chat"), "tokens/s]", "hello\n\n给我讲个笑话\n\nexit\n\n"),
    }
    if shutil.which("compute-sanitizer"):
        together["memory"] = Step((python, "benchmarks/memory_check.py"), "ERROR SUMMARY: 0 errors")
    size = (
        "--num-requests 32 --prompt-lens 16 256 --output-lens 16 80"
        if device == "cuda"
        else "--num-requests 4 --output-lens 4 20"
    )
    words = f"-m lmcourse bench throughput tiny-chat --baseline --repeats 1 {size}".split()
    return together, {"throughput": Step((python, *words), "times sooner")}


def files_marked_gpu(besides: tuple[str, ...]) -> list[str]:
    """Not whole folders: some need packages that a GPU machine may lack."""
    found = (path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name not in besides)
    return sorted(str(path) for path in found if "mark.gpu" in path.read_text("utf-8"))


class Running:
    """A step on its way, its output in a file so that a step which is ended leaves what it had said."""

    def __init__(self, name: str, step: Step, folder: Path) -> None:
        self.name, self.step, self.started = name, step, time.perf_counter()
        self.output, given = folder / f"{name}.log", folder / f"{name}.in"
        given.write_text(step.stdin, "utf-8")
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        with given.open() as stdin, self.output.open("w") as stdout:
            self.process = subprocess.Popen(
                step.words, cwd=ROOT, env=variables, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT
            )

    def ended(self, deadline: float) -> bool:
        if self.process.poll() is None and time.perf_counter() > deadline:
            self.process.kill()
            self.process.wait()
        return self.process.poll() is not None

    def result(self) -> dict[str, Any]:
        text = self.output.read_text("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [match[1] for match in map(TOLD.match, lines) if match]
        ok = self.process.returncode == 0 and self.step.good in text
        summary = list(dict.fromkeys([*told[:24], *lines[-1 if ok else -6 :]]))
        seconds = round(time.perf_counter() - self.started, 1)
        return {
            "ok": ok,
            "seconds": seconds,
            "status": self.process.returncode,
            "summary": summary,
            "output": text[-9000:],
        }


def run(rows: dict[str, Step], note: Any) -> None:
    """Start all rows, and note each result as it comes."""
    deadline = time.perf_counter() + LIMIT_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        running = [Running(name, step, Path(folder)) for name, step in rows.items()]
        while running:
            for one in [one for one in running if one.ended(deadline)]:
                running.remove(one)
                note(one.name, one.result())
            time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    device = parser.parse_args(arguments).device
    os.environ.setdefault("LMCOURSE_DEVICE_MEMORY_GIB", "8" if device == "cuda" else "1")
    from lmcourse.bench import describe_machine, write_json

    machine, results = describe_machine(), {}
    out = Path(os.environ.get("OUT", "build")) / "gpu_check.json"

    def note(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        write_json(out, {"machine": machine, **results})
        told = "".join(f"\n{'':14}{line[:180]}" for line in result["summary"])
        sys.stdout.write(f"{'ok' if result['ok'] else 'FAILED':8}{name:18}{result['seconds']:6.1f} s{told}\n")
        sys.stdout.flush()

    for rows in steps(device):
        run(rows, note)
    sys.stdout.write(f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}: {out.name} written\n")
    return 0 if all(result["ok"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
