"""KV write: keys[block, :, offset] = k and values[block, :, offset] = v, with slot = block · tokens_per_block + offset.

Where a token's keys and values live is decided by the block manager, not by the token's place in the batch: a slot
number per token is all that this operation knows of paging.

    token    0     1     2              block 7                 block 2
    slot   447   128   129      →      [ …  …  … t0 ]          [ t1 t2 …  … ]        tokens_per_block = 64

Traffic, one token and layer of InternLM2-1.8B (8 heads of 128, 2 bytes): read k and v, write them: 8 KiB; the whole
model's 24 layers keep 96 KiB per token.

Lesson: 3 (paging)
"""

from __future__ import annotations

from torch import Tensor

from lmcourse.kernels.dispatch import Operation, check_shape
from lmcourse.kernels.ragged import LayerKV

__all__ = ["write_kv", "write_kv_reference"]


def write_kv_reference(keys: Tensor, values: Tensor, layer: LayerKV, slots: Tensor) -> None:
    """The formula, for all tokens at once."""
    tokens_per_block = layer.keys.shape[2]
    blocks, offsets = slots // tokens_per_block, slots % tokens_per_block
    layer.keys[blocks, :, offsets] = keys.to(layer.keys.dtype)
    layer.values[blocks, :, offsets] = values.to(layer.values.dtype)


_WRITE_KV = Operation(reference=write_kv_reference)


def write_kv(keys: Tensor, values: Tensor, layer: LayerKV, slots: Tensor) -> None:
    """Write keys and values [num_tokens, num_kv_heads, head_dim] into `layer` in place, each token at its own slot."""
    _, num_kv_heads, _, head_dim = layer.keys.shape
    expected = (slots.shape[0], num_kv_heads, head_dim)
    check_shape("keys of write_kv", keys, expected)
    check_shape("values of write_kv", values, expected)
    _WRITE_KV.form_for(keys.device)(keys, values, layer, slots)
