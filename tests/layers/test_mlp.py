"""The MLP, norms and embedding against their formulas."""

from __future__ import annotations

import torch

from lmcourse.layers import MLP, Embedding, RMSNorm
from lmcourse.spec import ModelSpec


def test_forward_gate_comes_before_up():
    layer = MLP(ModelSpec("llama", 6, 1, 1, 1, 6, 10, 11, 64))
    for weight in layer.parameters():
        weight.copy_(torch.randn(weight.shape))
    x = torch.randn(4, 6)
    gate, up = (x.double() @ layer.gate_up.weight.double().T).split(10, dim=1)
    want = (gate * torch.sigmoid(gate) * up) @ layer.down.weight.double().T
    torch.testing.assert_close(layer(x).double(), want, atol=1e-4, rtol=1e-5)


def test_norm_add_returns_the_sum_too():
    norm = RMSNorm(6, 1e-5)
    norm.weight.fill_(1)
    x, residual = torch.randn(3, 6), torch.randn(3, 6)
    normed, total = norm.add(x, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, norm(x + residual))


def test_embedding_picks_rows():
    table = Embedding(5, 3)
    table.weight.copy_(torch.randn(5, 3))
    assert torch.equal(table(torch.tensor([4, 0, 4])), table.weight[[4, 0, 4]])
