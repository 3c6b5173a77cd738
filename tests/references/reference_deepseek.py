"""DeepSeek-MoE: Llama's attention; some layers have an MLP, the others a mixture of experts: shares are a softmax over
all experts, the largest are kept as they are (or divided by their sum), and shared experts add to every token ungated.
"""

from __future__ import annotations

import torch
from reference_parts import Tensors, affine, attend, rms_norm, silu, turn_halves
from torch import Tensor


def mlp(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    gate, up = (affine(tensors, f"{name}.{part}_proj", x) for part in ("gate", "up"))
    return affine(tensors, f"{name}.down_proj", silu(gate) * up)


def mixture(tensors: Tensors, name: str, x: Tensor, config: dict) -> Tensor:
    shares = torch.softmax(affine(tensors, f"{name}.gate", x), -1)
    out = mlp(tensors, f"{name}.shared_experts", x)
    for token, row in enumerate(shares):
        best = sorted(range(len(row)), key=lambda e, row=row: -row[e])[: config["num_experts_per_tok"]]
        whole = sum(row[e] for e in best) if config["norm_topk_prob"] else 1.0
        for e in best:
            out[token] += row[e] / whole * mlp(tensors, f"{name}.experts.{e}", x[token])
    return out


def logits(config: dict, tensors: Tensors, ids: list[int]) -> Tensor:
    heads, eps, base = config["num_attention_heads"], config["rms_norm_eps"], config["rope_theta"]
    x = tensors["model.embed_tokens.weight"].double()[torch.tensor(ids)]
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        normed = rms_norm(tensors, f"{layer}.input_layernorm", x, eps)
        q, k, v = (
            affine(tensors, f"{layer}.self_attn.{part}_proj", normed).unflatten(1, (heads, -1)) for part in "qkv"
        )
        mixed = attend(turn_halves(q, base), turn_halves(k, base), v)
        x = x + affine(tensors, f"{layer}.self_attn.o_proj", mixed)
        normed = rms_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        is_dense = n < config["first_k_dense_replace"] or n % config["moe_layer_freq"]
        x = x + (mlp(tensors, f"{layer}.mlp", normed) if is_dense else mixture(tensors, f"{layer}.mlp", normed, config))
    return affine(tensors, "lm_head", rms_norm(tensors, "model.norm", x, eps))
