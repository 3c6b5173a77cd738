"""One command for a CUDA machine, in under three minutes: does everything of Part 1 hold there, and how fast is it?

    python benchmarks/gpu_check.py                      results in ./gpu_check/
    OUT=/somewhere python benchmarks/gpu_check.py       results there
    python benchmarks/gpu_check.py --device cpu         the same script where there is no GPU (smaller, for a dry run)

Runs from a checkout, without installing it: the tests that are marked `gpu`, parity with transformers in each dtype,
`lmcourse chat tiny-chat` fed through a pipe, and the throughput comparison. Writes gpu_check.json and prints a table.
Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    os.environ.setdefault("LMCOURSE_DEVICE_MEMORY_GIB", "8" if args.device == "cuda" else "1")
    from lmcourse.bench import describe_machine, write_json

    out = Path(os.environ.get("OUT", "gpu_check"))
    steps = {"tests": check_tests, "parity": check_parity, "chat": check_chat, "throughput": check_throughput}
    results: dict[str, Any] = {}
    for name, step in steps.items():
        started = time.perf_counter()
        try:
            results[name] = step(args.device)
        except Exception as error:  # the other steps still have something to say
            results[name] = {"ok": False, "summary": f"{type(error).__name__}: {error}"}
        results[name]["seconds"] = round(time.perf_counter() - started, 1)
    machine = describe_machine()
    write_json(out / "gpu_check.json", {"machine": machine, **results})
    lines = [f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, transformers {machine['transformers']}"]
    for name, result in results.items():
        summary = result["summary"].replace("\n", f"\n{'':28}")
        lines.append(f"{'ok' if result['ok'] else 'FAILED':8}{name:12}{result['seconds']:6.1f} s  {summary}")
    sys.stdout.write("\n".join(["", *lines, ""]))
    return 0 if all(result["ok"] for result in results.values()) else 1


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUTF8": "1"}
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, timeout=150, check=False
    )


def check_tests(device: str) -> dict[str, Any]:
    """The tests that are marked gpu; files that need a package which is not here are listed, not passed over."""
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    done = run("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors", *files)
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    wanted = "passed" if device == "cuda" else "skipped"
    ok = wanted in last and "failed" not in last
    return {"ok": ok, "summary": "\n".join([last, *lines[:12]]), "output": (done.stdout + done.stderr)[-8000:]}


def check_parity(device: str) -> dict[str, Any]:
    """Fifty answers of 256 tokens in each dtype against transformers in float64."""
    import dataclasses

    from lmcourse.baseline import AutoModelForCausalLM
    from lmcourse.bench import TOLERANCES, answer_prompts, compare_with_transformers, parity_prompt_ids
    from lmcourse.bundled import model_path
    from lmcourse.config import TurbomindEngineConfig
    from lmcourse.engine import Engine

    folder = model_path("tiny-chat")
    prompts, num_tokens = (
        (parity_prompt_ids(folder), 256) if device == "cuda" else (parity_prompt_ids(folder)[::10], 16)
    )
    model = AutoModelForCausalLM.from_pretrained(folder).to(device).double()
    rows, lines, ok = {}, [], True
    for dtype, tolerance in TOLERANCES.items():
        config = TurbomindEngineConfig(dtype=dtype, max_batch_size=32)
        with Engine.from_folder(folder, config, device=device) as engine:
            parity = compare_with_transformers(model, answer_prompts(engine, prompts, num_tokens))
        good = max(parity.largest_difference, parity.largest_loss) < tolerance
        ok = ok and good
        rows[dtype] = {**dataclasses.asdict(parity), "tolerance": tolerance}
        lines.append(
            f"{dtype:9} {parity.num_equal}/{parity.num_tokens} tokens equal, log-probabilities within "
            f"{parity.largest_difference:.1e} (allowed {tolerance:.0e}), losing tokens by {parity.largest_loss:.1e}"
        )
    return {"ok": ok, "summary": "\n".join(lines), "rows": rows}


def check_chat(device: str) -> dict[str, Any]:
    done = run("-m", "lmcourse", "chat", "tiny-chat", stdin="hello\n\n给我讲个笑话\n\nexit\n\n")
    ok = done.returncode == 0 and "Traceback" not in done.stderr
    return {"ok": ok, "summary": (done.stdout if ok else done.stderr)[-600:].strip(), "output": done.stdout}


def check_throughput(device: str) -> dict[str, Any]:
    """The 32 mixed requests of Part 1 with shorter answers: transformers decodes them one token at a time."""
    from lmcourse.bench import compare_throughput, mixed_requests
    from lmcourse.bundled import model_path
    from lmcourse.models import load_spec

    folder = model_path("tiny-chat")
    count, output_lens = (32, (16, 80)) if device == "cuda" else (4, (4, 20))
    requests = mixed_requests(count, vocab=load_spec(folder).vocab, output_lens=output_lens)
    result = compare_throughput(folder, requests, dtype="auto", repeats=1)
    return {"ok": True, "summary": str(result), "result": result.to_json()}


if __name__ == "__main__":
    sys.exit(main())
