"""write_kv against a loop over tokens, on a poisoned pool."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import LayerKV, write_kv


@pytest.mark.parametrize(
    ("num_tokens", "num_kv_heads", "tokens_per_block", "head_dim"),
    [(1, 1, 1, 1), (17, 2, 4, 6), (64, 3, 64, 10), (0, 2, 4, 6)],
)
def test_write_kv_any_shape(num_tokens, num_kv_heads, tokens_per_block, head_dim):
    shape = (num_tokens + 5, num_kv_heads, tokens_per_block, head_dim)
    layer, expected = (LayerKV(torch.full(shape, torch.nan), torch.full(shape, torch.nan)) for _ in range(2))
    keys, values = (torch.randn(num_tokens, num_kv_heads, head_dim) for _ in range(2))
    slots = torch.randperm(shape[0] * tokens_per_block)[:num_tokens]
    write_kv(keys, values, layer, slots)
    for token, slot in enumerate(slots.tolist()):
        expected.keys[slot // tokens_per_block, :, slot % tokens_per_block] = keys[token]
        expected.values[slot // tokens_per_block, :, slot % tokens_per_block] = values[token]
    for got, want in zip(layer, expected, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0, equal_nan=True)


def test_write_kv_casts_to_the_pool():
    layer = LayerKV(torch.zeros(1, 1, 2, 2, dtype=torch.float16), torch.zeros(1, 1, 2, 2, dtype=torch.float16))
    write_kv(torch.ones(1, 1, 2), torch.ones(1, 1, 2), layer, torch.tensor([1]))
    assert layer.keys[0, 0].tolist() == [[0, 0], [1, 1]]


def test_write_kv_wrong_shape_is_refused():
    layer = LayerKV(torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8))
    with pytest.raises(ValueError, match="keys of write_kv"):
        write_kv(torch.zeros(3, 2, 8), torch.zeros(3, 1, 8), layer, torch.arange(3))
    with pytest.raises(ValueError, match="values of write_kv"):
        write_kv(torch.zeros(3, 1, 8), torch.zeros(2, 1, 8), layer, torch.arange(3))
