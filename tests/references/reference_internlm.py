"""InternLM (7B, 20B): Llama's names; biases on all four attention matrices where the config says so."""

from __future__ import annotations

import torch
from reference_parts import Tensors, affine, attend, rms_norm, silu, turn_halves
from torch import Tensor


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    x = tensors["model.embed_tokens.weight"].double()[torch.tensor(ids)]
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        normed = rms_norm(tensors, f"{layer}.input_layernorm", x, eps)
        q, k, v = (
            affine(tensors, f"{layer}.self_attn.{part}_proj", normed).unflatten(1, (heads, -1)) for part in "qkv"
        )
        mixed = attend(turn_halves(q, 1e4), turn_halves(k, 1e4), v)
        x = x + affine(tensors, f"{layer}.self_attn.o_proj", mixed)
        normed = rms_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        gate, up = (affine(tensors, f"{layer}.mlp.{part}_proj", normed) for part in ("gate", "up"))
        x = x + affine(tensors, f"{layer}.mlp.down_proj", silu(gate) * up)
    return affine(tensors, "lm_head", rms_norm(tensors, "model.norm", x, eps))
