"""The attention layer against a plain float64 version with separate matrices and no cache."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import LayerKV, Norm, RaggedBatch, Stream
from lmcourse.layers import Attention, Rotary
from lmcourse.spec import ModelSpec


def plain_attention(layer, x, spec):
    d, queries = spec.head_dim, spec.num_heads // spec.num_kv_heads
    rows = [spec.num_heads * d, spec.num_kv_heads * d, spec.num_kv_heads * d]
    bias = torch.zeros(sum(rows)) if layer.qkv.bias is None else layer.qkv.bias
    q, k, v = (x.double() @ layer.qkv.weight.double().T + bias.double()).split(rows, dim=1)
    exponents = torch.arange(0, d, 2, dtype=torch.float64) / d
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.arange(len(x))[:, None] / spec.rotary.base**exponents)
    heads = []
    for head in range(spec.num_heads):
        part = [m[:, i * d : (i + 1) * d] for m, i in ((q, head), (k, head // queries), (v, head // queries))]
        turned = [
            torch.view_as_real(torch.complex(*p.tensor_split(2, 1)) * turn).movedim(2, 1).flatten(1) for p in part[:2]
        ]
        scores = (turned[0] @ turned[1].T / d**0.5).masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(1) @ part[2])
    return torch.cat(heads, dim=1) @ layer.output.weight.double().T


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_forward_one_prompt(qkv_bias):
    spec = ModelSpec("llama", 20, 1, 6, 2, 8, 7, 11, 64, qkv_bias=qkv_bias)
    layer = Attention(spec)
    for weight in layer.parameters():
        weight.copy_(torch.randn(weight.shape) * 0.3)
    count, x = 13, torch.randn(13, 20)
    table = torch.randperm(6)[:4]
    slots = torch.tensor([int(table[place // 4]) * 4 + place % 4 for place in range(count)])
    positions, lens = torch.arange(count), torch.full((count,), count)
    batch = RaggedBatch(positions, slots, table[None].int(), (0, count), (count,), lens, 0)
    kv = LayerKV(torch.full((6, 2, 4, 8), torch.nan), torch.full((6, 2, 4, 8), torch.nan))
    added = torch.randn(1, 13, 20)
    norm = Norm(torch.randn(20), 1e-5)
    stream = layer(Stream(x - added[0], added), norm, Rotary(spec.rotary, 8)(positions, lens), batch, kv)
    total = (x - added[0]).double() + added[0].double()
    normed = total / (total.square().mean(1, keepdim=True) + 1e-5) ** 0.5 * norm.weight.double()
    torch.testing.assert_close(stream.residual.double(), total, atol=1e-6, rtol=0)
    out = stream.parts.double().sum(0)
    torch.testing.assert_close(out, plain_attention(layer, normed, spec), atol=3e-5, rtol=0)
