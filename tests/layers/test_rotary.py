"""Angles against float64 and against transformers."""

from __future__ import annotations

import pytest
import torch

from lmcourse.layers import Rotary
from lmcourse.spec import RotarySpec


def float64_angles(positions, base, head_dim):
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return positions.double()[:, None] / base**exponents


@pytest.mark.parametrize("base", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [2, 10, 64, 128])
def test_forward_plain_positions(base, head_dim):
    positions = torch.randint(5000, (40,))
    rotation = Rotary(RotarySpec(base), head_dim)(positions, positions + 1)
    angles = float64_angles(positions, base, head_dim)
    # An angle of 5000 has 2e-4 between neighbours in float32.
    torch.testing.assert_close(rotation.cos.double(), angles.cos(), atol=1e-3, rtol=0)
    torch.testing.assert_close(rotation.sin.double(), angles.sin(), atol=1e-3, rtol=0)
    assert rotation.cos.dtype == torch.float32


def test_forward_linear_squeezes_positions():
    spec = RotarySpec(1e4, "linear", factor=4.0)
    stretched = Rotary(spec, 64)(torch.arange(0, 400, 4), torch.full((100,), 400))
    plain = Rotary(RotarySpec(1e4), 64)(torch.arange(100), torch.full((100,), 100))
    torch.testing.assert_close(stretched.cos, plain.cos, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 95, 96])
def test_forward_dynamic_within_trained_context_is_plain(length):
    positions, lens = torch.arange(length), torch.full((length,), length)
    dynamic = Rotary(RotarySpec(1e4, "dynamic", 2.0, trained_context=96), 16)(positions, lens)
    plain = Rotary(RotarySpec(1e4), 16)(positions, lens)
    torch.testing.assert_close(dynamic.cos, plain.cos, atol=1e-6, rtol=0)
    torch.testing.assert_close(dynamic.sin, plain.sin, atol=1e-6, rtol=0)


def test_forward_dynamic_each_token_by_its_own_length():
    rotary = Rotary(RotarySpec(1e4, "dynamic", 2.0, trained_context=96), 16)
    positions, lens = torch.tensor([50, 50, 50]), torch.tensor([60, 97, 400])
    together = rotary(positions, lens)
    for row, length in enumerate(lens.tolist()):
        base = 1e4 * (2 * max(length, 96) / 96 - 1) ** (16 / 14)
        want = float64_angles(positions[:1], base, 16).cos()[0]
        torch.testing.assert_close(together.cos[row].double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [97, 300])
def test_forward_dynamic_equals_transformers(length):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        head_dim=16,
        max_position_embeddings=96,
        rope_parameters={"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
    )
    positions = torch.arange(length)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    spec = RotarySpec(1e4, "dynamic", 3.0, trained_context=96)
    rotation = Rotary(spec, 16)(positions, torch.full((length,), length))
    torch.testing.assert_close(rotation.cos, cos[0, :, :8], atol=1e-4, rtol=0)
    torch.testing.assert_close(rotation.sin, sin[0, :, :8], atol=1e-4, rtol=0)


def test_angles_stay_where_the_positions_are_whatever_the_default_device():
    """Frequencies are kept between calls; those of the first call must not lie on a device that was in force then."""
    spec = RotarySpec(base=float(torch.randint(5000, 50000, ())))
    positions = torch.arange(5)
    with torch.device("meta"):
        first = Rotary(spec, 16)(positions, positions + 1)
    again = Rotary(spec, 16)(positions, positions + 1)
    assert first.cos.device == again.cos.device == positions.device
    assert torch.equal(first.sin, again.sin)
