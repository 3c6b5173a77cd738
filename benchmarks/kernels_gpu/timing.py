"""How fast each operation and whole steps are."""

from __future__ import annotations

import statistics
import time
from unittest import mock

import torch
from tools import (
    INPUTS,
    KERNELS,
    RESULTS,
    SPECS,
    cold_us,
    graph_us,
    guarded,
    make_batch,
    make_kv,
    relative,
    report,
    say,
)

from lmcourse.bench.kernels import MATRICES, kernel_cases, matrix_case
from lmcourse.kernels import LayerKV
from lmcourse.models import Decoder

STEPS = {
    "1.8B": (
        *((requests, 256) for requests in (1, 2, 4, 8, 16, 64, 256)),
        *((requests, 1024) for requests in (1, 8, 64)),
    ),
    "7B": ((1, 256), (64, 256)),
}  # fmt: skip


def time_kernels():
    cases = [*kernel_cases(SPECS["1.8B"], INPUTS), *(matrix_case(kind, SPECS["7B"], 1, INPUTS) for kind in MATRICES)]
    for case, model in zip(cases, ("1.8B",) * (len(cases) - len(MATRICES)) + ("7B",) * len(MATRICES), strict=True):
        report(f"{model} {case.name}", *cold_us(case), case)


def make_decoder(spec, dtype=torch.float16):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        decoder = Decoder(spec)
    torch.set_default_dtype(torch.float32)
    for name, weight in decoder.named_parameters():
        weight.data.fill_(1) if "norm" in name else weight.data.normal_(0, 0.02)
    return decoder


def make_step(decoder, contexts, new=1):
    """(batch, kv, token ids) of one step."""
    spec = decoder.spec
    batch, blocks = make_batch(contexts, new=new)
    ids = torch.randint(spec.vocab, (new * len(contexts),), device="cuda")
    return batch, make_kv(blocks, spec, spec.num_layers), ids


@torch.inference_mode()
def time_step(decoder, name, requests, context):
    """One decode step, the next token fed back on the device; positions stay where they are."""
    batch, kv, ids = make_step(decoder, [context] * requests)
    us, spread = graph_us(lambda: ids.copy_(KERNELS["sampling"].argmax(decoder.logits(decoder(ids, batch, kv)))))
    key, rate = f"{name} B={requests} context={context}", requests / us * 1e6
    RESULTS.setdefault("steps", {})[key] = {"us": us, "spread_us": spread, "tok_s": rate}
    say(f"{name} step B={requests} context={context}: {us:.0f} µs ± {spread:.0f}, {rate:.0f} tok/s")


@torch.inference_mode()
def check_step(decoder):
    """The fused step's logits against the reference forms in float32, the same weights and cache."""
    batch, kv, ids = make_step(decoder, [300, 64])
    got = decoder.logits(decoder(ids, batch, kv))
    with mock.patch.object(KERNELS["dispatch"], "runs_triton", return_value=False):
        half = decoder.logits(decoder(ids, batch, kv))
        precise = make_decoder(decoder.spec, torch.float32)
        precise.load_state_dict(decoder.state_dict())
        want = precise.logits(precise(ids, batch, tuple(LayerKV(*(t.float() for t in layer)) for layer in kv)))
    same = torch.equal(got.argmax(1), want.argmax(1))
    errors = f"fused {relative(got, want):.1e}, plain torch {relative(half, want):.1e}"
    say(f"logits of a step against float32: {errors}, same argmax {same}")


@torch.inference_mode()
def time_prefill(decoder, name, tokens):
    batch, kv, ids = make_step(decoder, [tokens], new=tokens)

    def run():
        return decoder.logits(decoder(ids, batch, kv)[-1:])

    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    eager, graph = statistics.median(times[3:]), graph_us(run, 7)[0] / 1e3
    RESULTS.setdefault("prefill_ms", {})[f"{name} {tokens}"] = {"eager": eager, "graph": graph}
    say(f"{name} prefill {tokens}: {eager:.2f} ms, {graph:.2f} ms in a graph")


def time_steps(name):
    decoder = make_decoder(SPECS[name])
    guarded(check_step, decoder)
    for requests, context in STEPS[name]:
        guarded(time_step, decoder, name, requests, context)
        torch.cuda.empty_cache()
    for tokens in (1024, 3968):
        guarded(time_prefill, decoder, name, tokens)
