"""Whether the operations are right on this GPU: against float64, random inputs, poisoned outputs."""

from __future__ import annotations

import math
from unittest import mock

import torch
from tools import KERNELS, RESULTS, make_batch, make_kv, random_tensor, relative, say
from torch.nn.functional import linear

from lmcourse.kernels import LayerKV, Matrix, Norm, Rotation, Stream
from lmcourse.spec import ModelSpec

# hidden, heads, kv heads, head_dim, intermediate
SHAPES = {"1.8B": (2048, 16, 8, 128, 8192), "7B": (4096, 32, 32, 128, 11008), "odd": (72, 6, 2, 12, 50)}
LIMITS = {torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2, torch.float32: 2e-5}
TOKENS = {
    torch.float16: {"1.8B": (1, 2, 8, 17, 64, 200), "7B": (1, 33), "odd": (2, 17)},
    torch.bfloat16: {"1.8B": (2, 8, 64), "odd": (1, 40)},
    torch.float32: {"1.8B": (1, 8), "odd": (1, 4, 70)},
}
HEADS = ((16, 8, 128), (32, 32, 128), (6, 2, 64))
BATCHES = (([1], 1), ([1000], 1), ([5, 64, 65, 700], 1), ([300] * 70, 1), ([40, 333, 129], 37), ([700], 700))
_empty, _empty_like = torch.empty, torch.empty_like


def check_small():
    """Awkward shapes only, every dtype: for a memory checker, under which kernels run many times slower."""
    with torch.inference_mode():
        for dtype in LIMITS:
            for tokens in (1, 3, 17, 70):
                check_matrices(SHAPES["odd"], tokens, dtype)
            for contexts, new in (([1], 1), ([5, 64, 65], 1), ([40, 70], 37), ([130], 130)):
                check_attention((6, 2, 64), contexts, new, dtype)
        logits = torch.randn(3, 1001, device="cuda")
        note("argmax", KERNELS["sampling"].argmax(logits), logits.argmax(1), 1e-30)
    say(f"check-small: worst relative error {max(RESULTS['errors'].values()):.1e}")


def check(dtype):
    with (
        mock.patch("torch.empty", poisoned(_empty)),
        mock.patch("torch.empty_like", poisoned(_empty_like)),
        torch.inference_mode(),
    ):
        for shape, counts in TOKENS[dtype].items():
            for tokens in counts:
                check_matrices(SHAPES[shape], tokens, dtype)
        for heads in HEADS:
            for contexts, new in BATCHES:
                check_attention(heads, contexts, new, dtype)
        logits = torch.randn(70, 92544, device="cuda")
        note("argmax", KERNELS["sampling"].argmax(logits), logits.argmax(1), 1e-30)
    errors = {name: error for name, error in RESULTS["errors"].items() if name.endswith(str(dtype)[6:])}
    say(f"worst relative errors of {dtype}: " + ", ".join(f"{n.split()[0]} {error:.1e}" for n, error in errors.items()))


def poisoned(make):
    def poison(*arguments, **keywords):
        tensor = make(*arguments, **keywords)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    return poison


def note(name, got, want, limit):
    error = relative(got, want)
    worst = RESULTS.setdefault("errors", {})
    worst[name] = max(worst.get(name, 0.0), math.inf if math.isnan(error) else error)
    if not error < limit:
        say(f"WRONG {name}: relative error {error:.2e}, limit {limit:.0e}")
        RESULTS.setdefault("failures", {})[name] = f"relative error {error:.2e}, limit {limit:.0e}"


def check_matrices(shape, tokens, dtype):
    hidden, heads, kv_heads, dim, inner = shape
    several = tokens % 2 == 0
    parts = random_tensor(3 if several else 1, tokens, hidden, dtype=torch.float32 if several else dtype)
    stream = Stream(random_tensor(tokens, hidden, dtype=dtype), parts)
    norm = Norm(random_tensor(hidden, dtype=dtype), 1e-5)
    qkv, gate_up, down = (
        Matrix(random_tensor(rows, width, dtype=dtype, scale=width**-0.5), random_tensor(rows, dtype=dtype))
        for rows, width in (((heads + 2 * kv_heads) * dim, hidden), (2 * inner, hidden), (hidden, inner))
    )
    turns = torch.rand(tokens, dim // 2, device="cuda") * 100
    rotation, slots = Rotation(turns.cos(), turns.sin()), torch.randperm(640, device="cuda")[:tokens]
    pool, want_pool = (
        LayerKV(*(torch.full((10, kv_heads, 64, dim), math.nan, device="cuda", dtype=kind) for _ in "kv"))
        for kind in (dtype, torch.float64)
    )
    name, limit = str(dtype)[6:], LIMITS[dtype]
    total = stream.residual.double() + parts.double().sum(0)
    normed = total / (total.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()

    q, residual = KERNELS["norm_qkv"].norm_qkv(stream, norm, qkv, rotation, pool, slots)
    note(f"norm_qkv {name}", q, rotate_write(linear(normed, *double(qkv)), rotation, want_pool, slots), 2 * limit)
    note(f"residual {name}", residual, total, limit)
    for got, want in zip(pool, want_pool, strict=True):
        note(f"slots {name}", got.isnan(), want.isnan(), 1e-30)
        note(f"kv {name}", got.nan_to_num(), want.nan_to_num(), 2 * limit)
    middle, _ = KERNELS["norm_gate_up"].norm_gate_up(stream, norm, gate_up)
    gate, up = linear(normed, *double(gate_up)).chunk(2, dim=1)
    note(f"gate_up {name}", middle, gate * torch.sigmoid(gate) * up, 3 * limit)
    out = KERNELS["project"].project(middle, down).double().sum(0)
    note(f"project {name}", out, linear(middle.double(), *double(down)), limit)
    logits = KERNELS["project"].project(residual, qkv, torch.float32).sum(0)
    note(f"logits {name}", logits, linear(residual.double(), *double(qkv)), limit)


def double(matrix):
    return [tensor.double() for tensor in matrix]


def rotate_write(qkv, rotation, pool, slots):
    """In float64; returns q, writes into the pool."""
    num_kv_heads, block, dim = pool.keys.shape[1:]
    heads = qkv.view(len(slots), -1, dim)
    q, k, v = heads.split((heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads), dim=1)
    turn = torch.complex(rotation.cos.double(), rotation.sin.double())[:, None]
    q, k = (torch.complex(*(half.contiguous() for half in x.tensor_split(2, dim=2))) * turn for x in (q, k))
    q, k = (torch.cat((x.real, x.imag), dim=2) for x in (q, k))
    pool.keys[slots // block, :, slots % block], pool.values[slots // block, :, slots % block] = k, v
    return q


def check_attention(heads, contexts, new, dtype):
    num_heads, num_kv_heads, dim = heads
    batch, blocks = make_batch(contexts, new=new)
    (layer,) = make_kv(blocks, ModelSpec("llama", 1, 1, num_heads, num_kv_heads, dim, 1, 1, 1), dtype=dtype)
    q = random_tensor(batch.query_starts[-1], num_heads, dim, dtype=dtype)
    got = KERNELS["attention"].ragged_attention(q, layer, batch, dim**-0.5)
    want = KERNELS["attention"].ragged_attention_reference(q, layer, batch, dim**-0.5)
    note(f"attention {str(dtype)[6:]}", got, want, LIMITS[dtype])
