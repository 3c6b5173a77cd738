"""Falcon RW: one layer norm before attention, one before the MLP; q, k and v of a head side by side; biases everywhere;
ALiBi, with slopes rounded to bfloat16, is added to scores before they are scaled; the head is the embedding's table.
"""

from __future__ import annotations

import math

import torch
from reference_parts import Tensors, affine, attend, gelu, layer_norm, slopes_of
from torch import Tensor


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    heads, eps = config["n_head"], config["layer_norm_epsilon"]
    d = config["hidden_size"] // heads
    slopes = [float(torch.tensor(slope).bfloat16()) / math.sqrt(d) for slope in slopes_of(heads)]
    table = tensors["transformer.word_embeddings.weight"].double()
    x = table[torch.tensor(ids)]
    for n in range(config["n_layer"]):
        layer = f"transformer.h.{n}"
        normed = layer_norm(tensors, f"{layer}.input_layernorm", x, eps)
        fused = affine(tensors, f"{layer}.self_attention.query_key_value", normed).unflatten(1, (heads, 3, d))
        x = x + affine(tensors, f"{layer}.self_attention.dense", attend(*fused.unbind(2), slopes=slopes))
        normed = layer_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        x = x + affine(
            tensors, f"{layer}.mlp.dense_4h_to_h", gelu(affine(tensors, f"{layer}.mlp.dense_h_to_4h", normed))
        )
    return layer_norm(tensors, "transformer.ln_f", x, eps) @ table.T
