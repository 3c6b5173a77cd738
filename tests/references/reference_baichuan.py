"""Baichuan 1 and 2: W_pack holds q, k and v one after the other. The 7B turns, the 13B (40 heads, or no
max_position_embeddings in its config) has ALiBi; Baichuan2 (125696 tokens) normalises the rows of its head.
"""

from __future__ import annotations

import torch
from reference_parts import Tensors, affine, attend, rms_norm, silu, slopes_of, turn_halves
from torch import Tensor


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    renamed = config["architectures"] == ["BaiChuanForCausalLM"]
    slopes = None if renamed or ("max_position_embeddings" in config and heads != 40) else slopes_of(heads)
    x = tensors["model.embed_tokens.weight"].double()[torch.tensor(ids)]
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        packed = affine(tensors, f"{layer}.self_attn.W_pack", rms_norm(tensors, f"{layer}.input_layernorm", x, eps))
        q, k, v = (part.unflatten(1, (heads, -1)) for part in packed.chunk(3, dim=1))
        if slopes is None:
            q, k = turn_halves(q, 1e4), turn_halves(k, 1e4)
        x = x + affine(tensors, f"{layer}.self_attn.o_proj", attend(q, k, v, slopes=slopes))
        normed = rms_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        gate, up = (affine(tensors, f"{layer}.mlp.{part}_proj", normed) for part in ("gate", "up"))
        x = x + affine(tensors, f"{layer}.mlp.down_proj", silu(gate) * up)
    head = tensors["lm_head.weight"].double()
    if config["vocab_size"] == 125696:
        head = head / head.square().sum(1, keepdim=True).sqrt()
    return rms_norm(tensors, "model.norm", x, eps) @ head.T
