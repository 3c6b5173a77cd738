"""Linear: layout of the weight, bias, and shapes kept."""

from __future__ import annotations

import torch
from torch import nn

from lmcourse.layers import Linear


def test_forward_is_x_times_weight_transposed_plus_bias():
    layer = Linear(5, 3, bias=True)
    layer.weight, layer.bias = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3))
    x = torch.randn(7, 5)
    want = torch.einsum("ti,oi->to", x.double(), layer.weight.double()) + layer.bias.double()
    torch.testing.assert_close(layer(x).double().sum(0), want, atol=1e-6, rtol=0)


def test_init_weights_have_no_gradient_and_print_their_shape():
    layer = Linear(5, 3)
    assert not layer.weight.requires_grad
    assert layer.bias is None
    assert repr(layer) == "Linear(5 -> 3, bias=False, weight float32)"
