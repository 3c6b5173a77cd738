"""The torch forms of routing and experts against float64, an expert at a time."""

from __future__ import annotations

import pytest
import torch
from moe_cases import SPECS, as_rows, check_routing, random_experts, route_by_hand, run_by_hand

from lmcourse.kernels import Matrix, PackedMatrix, route, run_experts
from lmcourse.kernels.moe_experts import experts_chosen, experts_reference
from lmcourse.kernels.packed import unpack_matrix
from lmcourse.quant import AwqFormat
from lmcourse.spec import ExpertSpec


@pytest.mark.parametrize("spec", SPECS)
def test_route_equals_the_formula(spec):
    for tokens in (1, 9):
        logits = torch.randn(2, tokens, spec.count + spec.shared_gate)
        check_routing(route(logits, spec), route_by_hand(logits.sum(0), spec))


@pytest.mark.parametrize("form", [experts_chosen, experts_reference, run_experts])
@pytest.mark.parametrize("spec", SPECS)
def test_experts_equal_float64(spec, form):
    for tokens in (1, 13):
        x = torch.randn(tokens, 36)
        gate_up, down = random_experts(spec, 36, torch.float32)
        routing = route(torch.randn(1, tokens, spec.count + spec.shared_gate), spec)
        parts = form(x, Matrix(gate_up), Matrix(down), routing)
        want = run_by_hand(x, gate_up, down, as_rows(routing))
        torch.testing.assert_close(parts.double().sum(0), want, atol=1e-5, rtol=1e-5)


def test_experts_packed_equal_their_unpacked_weights():
    spec, hidden, group = ExpertSpec(5, 2, 48, shared_intermediate=48), 64, 16
    rows, form = (spec.total * 2 * spec.intermediate, spec.total * hidden), AwqFormat(group)
    widths = (hidden, spec.intermediate)
    packed = []
    for count, width in zip(rows, widths, strict=True):
        words = form.pack_rows(torch.randint(0, 16, (count, width), dtype=torch.uint8))
        scales = torch.rand(width // group, count).half() * 0.05
        zeros = torch.randint(-(2**31), 2**31, (width // group, count // 8), dtype=torch.int64).int()
        packed.append(PackedMatrix(words, form.rows_of_groups(zeros, scales)))
    x = torch.randn(7, hidden)
    routing = route(torch.randn(1, 7, spec.count), spec)
    want = run_by_hand(x, *(unpack_matrix(matrix, torch.float64) for matrix in packed), as_rows(routing))
    torch.testing.assert_close(run_experts(x, *packed, routing).double().sum(0), want, atol=1e-4, rtol=1e-4)


def test_experts_no_tokens_and_shapes_that_do_not_fit():
    gate_up, down = (Matrix(matrix) for matrix in random_experts(SPECS[0], 36, torch.float32))
    routing = route(torch.empty(1, 0, SPECS[0].count), SPECS[0])
    assert run_experts(torch.empty(0, 36), gate_up, down, routing).shape == (1, 0, 36)
    with pytest.raises(ValueError, match="not of the same experts"):
        run_experts(torch.empty(0, 36), gate_up, Matrix(down.weight[:-36]), routing)
