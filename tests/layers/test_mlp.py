"""The MLP, norms and embedding against their formulas."""

from __future__ import annotations

import torch

from lmcourse.kernels import Norm, Stream
from lmcourse.layers import MLP, Embedding, RMSNorm
from lmcourse.spec import ModelSpec


def test_forward_gate_comes_before_up():
    layer = MLP(ModelSpec("llama", 6, 1, 1, 1, 6, 10, 11, 64))
    for weight in layer.parameters():
        weight.copy_(torch.randn(weight.shape))
    stream = Stream(torch.randn(4, 6), torch.randn(2, 4, 6))
    after = layer(stream, Norm(torch.ones(6), 1e-5))
    x = stream.residual.double() + stream.parts.double().sum(0)
    torch.testing.assert_close(after.residual.double(), x, atol=1e-6, rtol=0)
    normed = x / (x.square().mean(1, keepdim=True) + 1e-5) ** 0.5
    gate, up = (normed @ layer.gate_up.weight.double().T).split(10, dim=1)
    want = (gate * torch.sigmoid(gate) * up) @ layer.down.weight.double().T
    torch.testing.assert_close(after.parts.double().sum(0), want, atol=1e-4, rtol=1e-5)


def test_norm_of_a_stream_without_parts():
    norm = RMSNorm(6, 1e-5)
    norm.weight.fill_(1)
    x = torch.randn(3, 6)
    normed, total = norm(Stream(x, torch.empty(0, 3, 6)))
    assert torch.equal(total, x)
    torch.testing.assert_close(normed.double().square().mean(1), torch.ones(3).double(), atol=1e-3, rtol=0)


def test_embedding_picks_rows():
    table = Embedding(5, 3)
    table.weight.copy_(torch.randn(5, 3))
    assert torch.equal(table(torch.tensor([4, 0, 4])), table.weight[[4, 0, 4]])
