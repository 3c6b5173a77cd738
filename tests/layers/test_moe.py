"""The MoE layer against a token-by-token mixture in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from lmcourse.kernels import Norm, Stream
from lmcourse.layers import MoE
from lmcourse.spec import ExpertSpec, ModelSpec

SHAPE = {
    "hidden": 24,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 12,
    "intermediate": 7,
    "vocab": 9,
}


def make_layer(experts: ExpertSpec) -> MoE:
    layer = MoE(ModelSpec(family="moe", max_context=9, experts=experts, **SHAPE))
    for name, weight in list(layer.named_parameters()):
        module, leaf = name.rsplit(".", 1)
        setattr(layer.get_submodule(module), leaf, nn.Parameter(torch.randn(weight.shape), requires_grad=False))
    return layer


def mix_by_hand(x, layer: MoE, experts: ExpertSpec):
    """One normed token: chosen experts by their share, and the shared one whole."""
    logits = layer.router.weight.double() @ x
    shares = logits[: experts.count].softmax(0)
    best = shares.argsort(descending=True)[: experts.chosen].tolist()
    weights = {e: shares[e] / (shares[best].sum() if experts.renormalise else 1) for e in best}
    gate = logits[experts.count].sigmoid() if experts.shared_gate else 1
    weights |= {experts.count + i: gate for i in range(experts.num_shared)}
    gate_up = layer.experts_gate_up.weight.double().view(experts.total, 2, experts.intermediate, -1)
    down = layer.experts_down.weight.double().view(experts.total, -1, experts.intermediate)
    return sum(w * (down[e] @ (silu(gate_up[e, 0] @ x) * (gate_up[e, 1] @ x))) for e, w in weights.items())


@pytest.mark.parametrize(
    "experts",
    [ExpertSpec(5, 2, 10, renormalise=True), ExpertSpec(7, 3, 6, shared_intermediate=15, shared_gate=True)],
)
def test_forward_equals_a_mixture_by_hand(experts):
    layer, norm = make_layer(experts), Norm(torch.rand(24), 1e-5)
    gap = 0.0
    while gap < 1e-4:  # of the last expert chosen before the first one left: no other sum chooses otherwise
        stream = Stream(torch.randn(11, 24), torch.randn(2, 11, 24))
        total = stream.residual.double() + stream.parts.double().sum(0)
        normed = total / (total.square().mean(1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
        logits = (normed @ layer.router.weight.double().T)[:, : experts.count].sort(descending=True).values
        gap = float((logits[:, experts.chosen - 1] - logits[:, experts.chosen]).min())
    after = layer(stream, norm)
    torch.testing.assert_close(after.residual.double(), total, atol=1e-5, rtol=1e-5)
    want = torch.stack([mix_by_hand(x, layer, experts) for x in normed])
    torch.testing.assert_close(after.parts.double().sum(0), want, atol=1e-3, rtol=1e-4)
