"""write_kv against a loop over tokens, on a poisoned pool."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import INT4, INT8, LayerKV, write_kv
from lmcourse.kernels.packed_kv import dequantise


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


@pytest.mark.parametrize("form", [INT8, INT4], ids=lambda form: form.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_write_kv_quantised_within_half_a_step_of_each_head(form, dtype, make_layer):
    layer = make_layer((9, 3, 4, 24), dtype, form)
    keys, values = (torch.randn(17, 3, 24).exp().to(dtype) for _ in range(2))
    slots = torch.randperm(36)[:17]
    write_kv(keys, values, layer, slots)
    stored = layer.read(torch.arange(9))
    for got, want in zip(stored, (keys, values), strict=True):
        got = got.transpose(1, 2).flatten(0, 1)
        assert got.isfinite().all(dim=(1, 2)).sum() == 17, "a token that was not asked for is written, or one is not"
        for token, slot in enumerate(slots.tolist()):
            x = want[token].double()
            span = 2 * x.abs().amax(-1) / 254 if form is INT8 else (x.amax(-1) - x.amin(-1)) / 15
            error = (got[slot].double() - x).abs()
            assert (error <= 0.52 * span[:, None] + 1e-3 * x.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("form", [INT8, INT4], ids=lambda form: form.name)
def test_write_kv_quantised_awkward_vectors(form, make_layer):
    vectors = torch.stack([torch.zeros(8), torch.full((8,), 0.3), torch.full((8,), -7e4), torch.eye(8)[0] * 1e-9,
                           torch.arange(8.0), torch.linspace(-500, 500, 8)])[:, None]  # fmt: skip
    layer = make_layer((6, 1, 1, 8), torch.float32, form)
    write_kv(vectors, vectors, layer, torch.arange(6))
    keys, _ = layer.read(torch.arange(6))
    for got, want in zip(keys[[0, 1, 3, 4, 5], 0, 0], vectors[[0, 1, 3, 4, 5], 0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-8 + 0.04 * float(want.max() - want.min()), rtol=4e-3)
    assert dequantise(layer.keys[:1], torch.zeros(1, 1, 1, 2), form).abs().max() == 0


@pytest.mark.parametrize("form", [None, INT8, INT4], ids=lambda form: form.name if form else "plain")
def test_read_tables_is_what_read_says_block_by_block(form, make_layer):
    layer = make_layer((9, 3, 4, 24), torch.float32, form)
    keys, values = (torch.randn(36, 3, 24) for _ in range(2))
    write_kv(keys, values, layer, torch.arange(36))
    tables = torch.randint(9, (5, 2), dtype=torch.int32)
    for got, blocks in zip(layer.read_tables(tables), layer.read(torch.arange(9)), strict=True):
        assert got.shape == (15, 8, 24)
        for request, table in enumerate(tables.tolist()):
            want = torch.cat([blocks[block] for block in table], dim=1)  # [num_kv_heads, tokens, head_dim]
            assert got[3 * request : 3 * request + 3].equal(want)
