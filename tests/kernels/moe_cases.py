"""Mixtures of experts written out token by token in float64, and the Triton forms held against them."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from lmcourse.kernels import Matrix, PackedMatrix, Routing
from lmcourse.kernels.moe_experts import experts_rows
from lmcourse.kernels.moe_route import plan_tiles, plan_tiles_triton, route_triton
from lmcourse.kernels.moe_tiles import experts_tiles
from lmcourse.kernels.packed import unpack_matrix
from lmcourse.kernels.w4a16_experts import packed_experts_rows
from lmcourse.quant import AwqFormat
from lmcourse.spec import ExpertSpec

SPECS = (
    ExpertSpec(5, 2, 24, renormalise=True),
    ExpertSpec(7, 3, 20, shared_intermediate=33, shared_gate=True),
    ExpertSpec(6, 4, 16, shared_intermediate=32, scale=1.5),
    ExpertSpec(1, 1, 37),
)
TOLERANCES = {torch.float16: 4e-3, torch.float32: 1e-5}


def route_by_hand(logits, spec):
    """For each token a dict of expert → weight, in float64."""
    rows = []
    for row in logits.double():
        shares = row[: spec.count].exp() / row[: spec.count].exp().sum()
        best = sorted(range(spec.count), key=lambda e: -shares[e])[: spec.chosen]
        whole = sum(shares[e] for e in best) if spec.renormalise else 1.0
        weights = {e: float(shares[e] / whole * spec.scale) for e in best}
        gate = float(1 / (1 + (-row[spec.count]).exp())) if spec.shared_gate else 1.0
        rows.append(weights | {spec.count + i: gate for i in range(spec.num_shared)})
    return rows


def run_by_hand(x, gate_up, down, rows):
    """Σ weight · down · (silu(gate · x) ∘ up · x), an expert at a time."""
    hidden = x.shape[1]
    width = down.shape[1]
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, weights in enumerate(rows):
        for expert, weight in weights.items():
            first = 2 * width * expert
            gate, up = (gate_up[first + i * width : first + (i + 1) * width].double() for i in (0, 1))
            middle = silu(gate @ x[token].double()) * (up @ x[token].double())
            out[token] += weight * down[expert * hidden : (expert + 1) * hidden].double() @ middle
    return out


def random_experts(spec, hidden, dtype):
    """(gate_up, down) of all experts of a spec."""
    gate_up = torch.randn(spec.total * 2 * spec.intermediate, hidden) * hidden**-0.5
    down = torch.randn(spec.total * hidden, spec.intermediate) * spec.intermediate**-0.5
    return gate_up.to(dtype), down.to(dtype)


def as_rows(routing):
    """What route_by_hand gives, of a Routing."""
    pairs = zip(routing.experts.tolist(), routing.weights.tolist(), strict=True)
    return [dict(zip(experts, weights, strict=True)) for experts, weights in pairs]


def check_routing(routing, rows):
    for got, want in zip(as_rows(routing), rows, strict=True):
        assert list(got) == list(want)
        torch.testing.assert_close(
            torch.tensor([*got.values()]), torch.tensor([*want.values()]), atol=1e-6, rtol=1e-5, check_dtype=False
        )


def check_route():
    for spec in SPECS:
        for parts, tokens in ((1, 1), (3, 5)):
            logits = torch.randn(parts, tokens, spec.count + spec.shared_gate)
            check_routing(route_triton(logits, spec), route_by_hand(logits.sum(0), spec))
    spec = SPECS[0]
    tied = route_triton(torch.zeros(1, 2, spec.count), spec)
    assert tied.experts.tolist() == [[0, 1]] * 2
    broken = route_triton(torch.full((1, 1, spec.count), torch.nan), spec)
    assert 0 <= int(broken.experts.min()) <= int(broken.experts.max()) < spec.count
    assert broken.weights.isnan().all()


def check_tiles():
    for tokens, slots, total, tile_m in ((1, 3, 5, 8), (40, 4, 7, 8), (9, 1, 1, 16), (70, 2, 3, 32)):
        experts = torch.stack([torch.randperm(total)[:slots] for _ in range(tokens)]).int()
        experts[tokens // 2 :, 0] = total - 1 if slots == 1 else experts[0, 0]  # a crowded one
        routing = Routing(experts, torch.rand(tokens, slots))
        want = plan_tiles(routing, total, tile_m)
        got = plan_tiles_triton(routing, total, tile_m)
        assert torch.equal(got.experts, want.experts)
        used = got.experts >= 0
        assert torch.equal(got.order[used], want.order[used])
        pairs = want.order[want.order >= 0]
        assert sorted(pairs.tolist()) == list(range(tokens * slots))


def check_experts():
    for spec, hidden, dtype, forms in (
        (SPECS[0], 40, torch.float32, {1: (experts_rows, experts_tiles), 9: (experts_tiles,)}),
        (SPECS[1], 64, torch.float16, {2: (experts_rows, experts_tiles)}),
        (SPECS[2], 72, torch.float16, {1: (experts_rows,), 30: (experts_tiles,)}),
        (SPECS[3], 40, torch.float16, {3: (experts_rows, experts_tiles)}),
    ):
        gate_up, down = random_experts(spec, hidden, dtype)
        for tokens in forms:
            x = torch.randn(tokens, hidden).to(dtype)
            routing = route_triton(torch.randn(1, tokens, spec.count + spec.shared_gate), spec)
            want = run_by_hand(x, gate_up, down, as_rows(routing))
            for form in forms[tokens]:
                total = form(x, Matrix(gate_up), Matrix(down), routing).double().sum(0)
                torch.testing.assert_close(total, want, atol=4 * TOLERANCES[dtype], rtol=TOLERANCES[dtype])


def random_packed(rows, width, group):
    form = AwqFormat(group)
    scales = torch.rand(width // group, rows).half() * 0.02 + 0.01
    zeros = torch.randint(-(2**31), 2**31, (width // group, rows // 8), dtype=torch.int64).int()
    words = form.pack_rows(torch.randint(0, 16, (rows, width), dtype=torch.uint8))
    return PackedMatrix(words, form.rows_of_groups(zeros, scales))


def check_packed_experts():
    spec, hidden, group, tokens = ExpertSpec(3, 1, 8, shared_intermediate=8), 16, 8, 2
    packed = (
        random_packed(spec.total * 2 * spec.intermediate, hidden, group),
        random_packed(spec.total * hidden, spec.intermediate, group),
    )
    x = torch.randn(tokens, hidden).half()
    routing = route_triton(torch.randn(1, tokens, spec.count), spec)
    want = run_by_hand(x, *(unpack_matrix(matrix, torch.float64) for matrix in packed), as_rows(routing))
    total = packed_experts_rows(x, *packed, routing).double().sum(0)
    torch.testing.assert_close(total, want, atol=0.02, rtol=0.01)
