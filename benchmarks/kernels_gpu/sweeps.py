"""What else could be chosen: tile shapes, warps and stages, by the same timing."""

from __future__ import annotations

import time
from unittest import mock

from tools import INPUTS, KERNELS, LIMIT_SECONDS, RESULTS, SPECS, STARTED, cold_us, guarded, say

from lmcourse.bench.kernels import decode_case, matrix_case, prefill_case

SHARED_BYTES = 220_000
SHAPES = (  # TILE_N, TILE_K, warps, stages
    (64, 128, 4, 4), (64, 128, 4, 3), (64, 256, 4, 3), (128, 64, 4, 4),
    (32, 128, 4, 5), (32, 256, 4, 3), (64, 64, 4, 6), (128, 128, 8, 3), (64, 64, 4, 4), (128, 64, 8, 4),
)  # fmt: skip


def sweep_rows():
    """(rows, warps) of the forms for one token."""
    places = {"qkv": ("norm_qkv", "plan_rows"), "gate_up": ("norm_gate_up", "plan_gate_up_rows")}
    for kind in ("gate_up", "down", "qkv", "output"):
        width, matrices = 8192 if kind == "down" else 2048, 2 if kind == "gate_up" else 1
        plans = [
            (rows, warps)
            for rows in (2, 4, 8, 16)
            for warps in (2, 4, 8, 16)
            if 16 <= rows * matrices * width // (32 * warps) <= 256
        ]
        guarded(pick, f"{kind} M=1", *places.get(kind, ("project", "plan_rows")), plans, (kind, SPECS["1.8B"], 1))


SPLITS = {  # how often k is cut, by model and matrix; where nothing is said, not at all
    ("1.8B", "down"): (4, 8), ("1.8B", "output"): (2, 4), ("1.8B", "qkv"): (1, 2, 4),
    ("7B", "down"): (2, 4), ("7B", "output"): (1, 2, 4),
}  # fmt: skip


def sweep_tiles(tokens, model="1.8B", kinds=("down", "output", "gate_up", "head", "qkv")):
    """TilePlans of the tensor-core forms."""
    for kind in kinds:
        spec = SPECS[model]
        width = spec.intermediate if kind == "down" else spec.hidden
        matrices = 2 if kind == "gate_up" else 1
        plans = [
            KERNELS["project"].TilePlan(n, max(8, tokens), k, width // split, warps, stages)
            for n, k, warps, stages in SHAPES
            for split in SPLITS.get((model, kind), (1,))
            if width // split % k == 0 and (matrices * n + tokens) * k * 2 * stages < SHARED_BYTES
        ]
        place = ("norm_gate_up", "plan_gate_up") if kind == "gate_up" else ("project", "plan_tiles")
        guarded(pick, f"{model} {kind} M={tokens}", *place, plans, (kind, spec, tokens))


def sweep_attention():
    """(warps, stages) of decodes, (TILE_M, warps, stages, by tensor descriptors) of prefills."""
    for requests in (1, 8, 64):
        found, case = {}, decode_case(SPECS["1.8B"], requests, 1024, INPUTS)
        for plan in [(warps, stages) for warps in (2, 4) for stages in (2, 3, 4, 5)]:
            with mock.patch.object(KERNELS["decode_attention"], "plan_decode", return_value=plan):
                found[plan] = cold_us(case)[0]
        note_sweep(f"decode B={requests}", found)
    found, case = {}, prefill_case(SPECS["1.8B"], 4096, INPUTS)
    for plan in ((*tile, stages, mapped) for tile in ((128, 8), (64, 4)) for stages in (3, 5) for mapped in (0, 1)):
        with mock.patch.object(KERNELS["prefill_attention"], "plan_prefill", return_value=plan):
            found[plan] = cold_us(case)[0]
    note_sweep("prefill 4096", found)


def pick(name, module, plan_name, plans, case):
    found, cold = {}, matrix_case(*case, INPUTS)
    for plan in plans:
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            break
        with mock.patch.object(KERNELS[module], plan_name, return_value=plan):
            try:
                found[tuple(plan)] = cold_us(cold)[0]
            except Exception as error:
                say(f"sweep {name} {tuple(plan)}: {type(error).__name__}")
    note_sweep(name, found)


def note_sweep(name, found):
    RESULTS.setdefault("sweeps", {})[name] = {str(plan): round(us, 2) for plan, us in found.items()}
    best = sorted(found.items(), key=lambda item: item[1])[:5]
    say(f"sweep {name}: " + ", ".join(f"{plan} {us:.2f} µs" for plan, us in best))
