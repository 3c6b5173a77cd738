"""Kernels and whole steps on one GPU: right first, then how fast, beside what the bytes allow.

    python benchmarks/kernels_gpu                     everything, about 3 minutes; results in ./kernels_gpu.json
    python benchmarks/kernels_gpu SECTION …           some of it
    OUT=/somewhere SECONDS_LEFT=180 python benchmarks/kernels_gpu     results there; starts nothing new after 180 s
    WARM=1 python benchmarks/kernels_gpu SECTION      only compiles, into Triton's cache; run several side by side first

Weights rotate over at least 220 MB, so that they come from memory and not from the L2 cache; times are medians of CUDA
graph replays with the spread of the middle half; copy bandwidth is measured in the same process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from checks import check, check_small
from packed import check_packed, sweep_packed_rows, sweep_packed_tiles, time_packed_steps
from sweeps import sweep_attention, sweep_rows, sweep_tiles
from timing import time_kernels, time_steps
from tools import LINES, RESULTS, WARM, guarded, measure_copy

SECTIONS = {
    "check16": (check, torch.float16), "checkb16": (check, torch.bfloat16), "check32": (check, torch.float32),
    "check-small": (check_small,),
    "steps": (time_steps, "1.8B"), "kernels": (time_kernels,), "steps-7b": (time_steps, "7B"),
    "sweep-attention": (sweep_attention,), "sweep-rows": (sweep_rows,),
    "sweep-8": (sweep_tiles, 8), "sweep-64": (sweep_tiles, 64),
    "sweep-64-7b": (sweep_tiles, 64, "7B"), "sweep-64-7b-head": (sweep_tiles, 64, "7B", ("head", "qkv")),
    "sweep-64-7b-down": (sweep_tiles, 64, "7B", ("down", "output")),
    "sweep-64-7b-up": (sweep_tiles, 64, "7B", ("gate_up",)),
    "w4-check": (check_packed,), "w4-steps": (time_packed_steps, "1.8B"), "w4-steps-7b": (time_packed_steps, "7B"),
    "w4-rows": (sweep_packed_rows, "1.8B"), "w4-rows-7b": (sweep_packed_rows, "7B"),
    "w4-tiles-8": (sweep_packed_tiles, "1.8B", 8, 16), "w4-tiles-64": (sweep_packed_tiles, "1.8B", 64, 64),
    "w4-tiles-256": (sweep_packed_tiles, "1.8B", 256, 256), "w4-tiles-256-128": (sweep_packed_tiles, "1.8B", 256, 128),
    "w4-tiles-8-7b": (sweep_packed_tiles, "7B", 8, 16), "w4-tiles-64-7b": (sweep_packed_tiles, "7B", 64, 64),
}  # fmt: skip


def main() -> int:
    """Exit status 1 if anything was wrong or failed."""
    torch.manual_seed(int(time.time()))
    if sys.argv[1:] != ["check-small"]:
        guarded(measure_copy)
    for name in sys.argv[1:] or SECTIONS:
        guarded(*SECTIONS[name])
        torch.cuda.empty_cache()
        if not WARM:
            RESULTS["lines"] = LINES
            text = json.dumps(RESULTS, indent=1, ensure_ascii=False)
            Path(os.environ.get("OUT", "."), "kernels_gpu.json").write_text(text, encoding="utf-8")
    sys.stdout.write("\n".join(["", *LINES, ""]))
    return 1 if RESULTS.get("failures") else 0


if __name__ == "__main__":
    sys.exit(main())
