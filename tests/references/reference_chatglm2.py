"""ChatGLM2: one matrix for q, k and v with few k and v heads; the first half of each head turns, in neighbouring pairs;
gate and up are one matrix.
"""

from __future__ import annotations

import torch
from reference_parts import Tensors, affine, attend, rms_norm, silu, turn_neighbours
from torch import Tensor


def turned(x: Tensor, ratio: float) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((turn_neighbours(x[..., :half], 1e4, ratio), x[..., half:]), -1)


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    d, groups, eps = config["kv_channels"], config["multi_query_group_num"], config["layernorm_epsilon"]
    rows = [config["num_attention_heads"] * d, groups * d, groups * d]
    ratio = config.get("rope_ratio", 1)
    x = tensors["transformer.embedding.word_embeddings.weight"].double()[torch.tensor(ids)]
    for n in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{n}"
        normed = rms_norm(tensors, f"{layer}.input_layernorm", x, eps)
        qkv = affine(tensors, f"{layer}.self_attention.query_key_value", normed)
        q, k, v = (part.unflatten(1, (-1, d)) for part in qkv.split(rows, dim=1))
        x = x + affine(tensors, f"{layer}.self_attention.dense", attend(turned(q, ratio), turned(k, ratio), v))
        normed = rms_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        gate, up = affine(tensors, f"{layer}.mlp.dense_h_to_4h", normed).chunk(2, dim=1)
        x = x + affine(tensors, f"{layer}.mlp.dense_4h_to_h", silu(gate) * up)
    return affine(tensors, "transformer.output_layer", rms_norm(tensors, "transformer.encoder.final_layernorm", x, eps))
