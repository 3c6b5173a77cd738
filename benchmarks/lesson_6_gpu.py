"""Lesson 6 on a model of the real size: a folder as llava-v1.6-vicuna-7b-hf, with random weights, and every cell run.

    python benchmarks/lesson_6_gpu.py                results in ./build/
    OUT=/somewhere FOLDER=/large/disk python …       the folder takes 14 GB and is removed at the end
    DEVICE=cpu MODEL_CHANGES='{"text_config": {"num_hidden_layers": 1}}' …      a rehearsal without a GPU

The config and the tokenizer are those of dummy:llava-1.6-7b, the weights are written by transformers in its own layout.
The solution notebook runs in a kernel of its own with LMCOURSE_LLAVA set, cell by cell, on after an error. Writes
lesson_6.json (each cell's seconds and how its text begins) and lesson_6.ipynb (its pictures, too); exit status 1 if one
failed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
DEVICE = os.environ.get("DEVICE", "cuda")
OUT = Path(os.environ.get("OUT", "build"))
LESSON = ROOT / "instructor" / "solutions" / "06_llava.ipynb"
CELL_SECONDS = 120.0
STARTED = time.perf_counter()


def say(line: str) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def write_folder(folder: Path) -> None:
    """Random fp16 weights at the config's sizes, drawn on the device."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from lmcourse.bundled import dummy_path

    source = dummy_path("dummy:llava-1.6-7b")
    assert source is not None
    folder.mkdir(parents=True)
    for name in ("byte_tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "config.json").read_text())
    for part, changes in json.loads(os.environ.get("MODEL_CHANGES", "{}")).items():
        config[part] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device(DEVICE):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not (parameter.dim() == 1 and name.endswith("weight")):  # those are norms
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder, max_shard_size="4GB")
    say(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e9:.2f} billion numbers are written")


def run_cell(client: Any, cell: Any) -> dict[str, Any]:
    """Outputs go into the cell; the record has seconds, text and error."""
    from nbformat.v4 import output_from_msg

    texts, errors, cell.outputs = list[str](), list[str](), []

    def keep(message: Any) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind in ("stream", "error", "execute_result", "display_data"):
            cell.outputs.append(output_from_msg(message))
            texts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        if kind == "error":
            errors.append(f"{content['ename']}: {content['evalue']}")

    began = time.perf_counter()
    try:
        client.execute_interactive(cell.source, output_hook=keep, timeout=CELL_SECONDS)
    except TimeoutError:
        errors.append(f"not done after {CELL_SECONDS:.0f} s")
    return {"seconds": round(time.perf_counter() - began, 2), "text": "".join(texts)[:160], "error": " ".join(errors)}


def run_lesson(folder: Path) -> list[dict[str, Any]]:
    import nbformat
    from jupyter_client.manager import start_new_kernel

    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "LMCOURSE_LLAVA": str(folder), "PYTHONPATH": paths, "PYTHONUTF8": "1"}
    if DEVICE == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    notebook = nbformat.read(LESSON, as_version=4)
    manager, client = start_new_kernel(kernel_name="python3", env=variables, cwd=tempfile.mkdtemp())
    told = []
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                told.append(run_cell(client, cell))
                last = told[-1]
                say(f"cell {len(told):>2}  {last['seconds']:6.2f} s  {last['error'] or last['text'][:100]!r}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        OUT.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, OUT / "lesson_6.ipynb")
    return told


def main() -> int:
    from lmcourse.bench.report import describe_machine, write_json

    with tempfile.TemporaryDirectory(dir=os.environ.get("FOLDER"), ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "llava-v1.6-vicuna-7b-hf"
        write_folder(folder)
        cells = run_lesson(folder)
    failed = [number for number, cell in enumerate(cells, 1) if cell["error"]]
    write_json(OUT / "lesson_6.json", {"machine": describe_machine(), "failed_cells": failed, "cells": cells})
    say(f"{len(cells) - len(failed)} of {len(cells)} cells ran without an error")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
