"""QWen, first generation: c_attn with biases; the MLP's gate is w2; beyond the training length the rotary base grows in
steps with the prompt, and queries with the logarithm of their position.
"""

from __future__ import annotations

import math

import torch
from reference_parts import Tensors, affine, attend, rms_norm, silu, turn_halves
from torch import Tensor


def rotary_base(config: dict, length: int) -> float:
    base, d, trained = config["rotary_emb_base"], config["kv_channels"], config["seq_length"]
    if not config["use_dynamic_ntk"]:
        return base
    alpha = max(2 ** math.ceil(math.log2(length / trained) + 1) - 1, 1)
    return base * alpha ** (d / (d - 2))


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    heads, eps, trained = config["num_attention_heads"], config["layer_norm_epsilon"], config["seq_length"]
    base = rotary_base(config, len(ids))
    growth = [math.log(i, trained) if config["use_logn_attn"] and i > trained else 1.0 for i in range(1, len(ids) + 1)]
    x = tensors["transformer.wte.weight"].double()[torch.tensor(ids)]
    for n in range(config["num_hidden_layers"]):
        layer = f"transformer.h.{n}"
        mixed = affine(tensors, f"{layer}.attn.c_attn", rms_norm(tensors, f"{layer}.ln_1", x, eps))
        q, k, v = (part.unflatten(1, (heads, -1)) for part in mixed.chunk(3, dim=1))
        q = turn_halves(q, base) * torch.tensor(growth, dtype=torch.float64)[:, None, None]
        x = x + affine(tensors, f"{layer}.attn.c_proj", attend(q, turn_halves(k, base), v))
        normed = rms_norm(tensors, f"{layer}.ln_2", x, eps)
        up, gate = (affine(tensors, f"{layer}.mlp.{part}", normed) for part in ("w1", "w2"))
        x = x + affine(tensors, f"{layer}.mlp.c_proj", up * silu(gate))
    return affine(tensors, "lm_head", rms_norm(tensors, "transformer.ln_f", x, eps))
