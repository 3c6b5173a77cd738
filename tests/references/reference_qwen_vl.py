"""Qwen-VL: a ViT whose positions are stretched, one cross-attention whose queries take a picture's place, and QWen.

A prompt is a list of token ids and PIL pictures.
"""

from __future__ import annotations

import math

import torch
from PIL import Image
from reference_parts import Tensors, affine, attend, gelu, layer_norm, rms_norm, silu, turn_halves
from reference_qwen import rotary_base
from reference_xcomposer import look, normalised, patches_of
from torch import Tensor

VISUAL = "transformer.visual"


def bicubic(at: float) -> dict[int, float]:
    """Weights of the four places around one between places: the kernel of a = -3/4."""
    first, weights = int(at // 1), {}
    for place in range(first - 1, first + 3):
        d, a = abs(at - place), -0.75
        weights[place] = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
    return weights


def stretch_matrix(old: int, new: int) -> Tensor:
    """[new, old]: a row of values on a grid of another size over the same stretch; beyond the edge its last value."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        for place, weight in bicubic((i + 0.5) * old / new - 0.5).items():
            matrix[i, min(max(place, 0), old - 1)] += weight
    return matrix


def stretched(positions: Tensor, new: int) -> Tensor:
    old = round(len(positions) ** 0.5)
    if old == new:
        return positions.double()
    matrix = stretch_matrix(old, new)
    grid = positions.double().unflatten(0, (old, old))
    return torch.einsum("ya,xb,abf->yxf", matrix, matrix, grid).flatten(0, 1)


def tower(config: dict, tensors: Tensors, pixels: Tensor) -> Tensor:
    heads, patches = config["visual"]["heads"], patches_of(pixels, tensors[f"{VISUAL}.conv1.weight"])
    x = patches + stretched(tensors[f"{VISUAL}.positional_embedding"], round(len(patches) ** 0.5))
    x = layer_norm(tensors, f"{VISUAL}.ln_pre", x, 1e-6)
    for n in range(config["visual"]["layers"]):
        layer = f"{VISUAL}.transformer.resblocks.{n}"
        mixed = affine(tensors, f"{layer}.attn.in_proj", layer_norm(tensors, f"{layer}.ln_1", x, 1e-6))
        q, k, v = (part.flatten(1) for part in mixed.unflatten(1, (heads, 3, -1)).unbind(2))
        x = x + affine(tensors, f"{layer}.attn.out_proj", look(q, k, v, heads))
        wide = gelu(affine(tensors, f"{layer}.mlp.c_fc", layer_norm(tensors, f"{layer}.ln_2", x, 1e-6)))
        x = x + affine(tensors, f"{layer}.mlp.c_proj", wide)
    return x


def resample(config: dict, tensors: Tensors, seen: Tensor) -> Tensor:
    pool, width = f"{VISUAL}.attn_pool", config["visual"]["output_dim"]
    places = tensors[f"{pool}.pos_embed"]
    if f"{pool}.kv_proj.weight" in tensors:
        seen = affine(tensors, f"{pool}.kv_proj", seen)
    values = layer_norm(tensors, f"{pool}.ln_kv", seen, 1e-6)
    queries = layer_norm(tensors, f"{pool}.ln_q", tensors[f"{pool}.query"].double(), 1e-6) + places.double()
    keys = values + stretched(places, round(len(values) ** 0.5))
    weights, biases = (tensors[f"{pool}.attn.in_proj_{leaf}"].double().chunk(3) for leaf in ("weight", "bias"))
    q, k, v = (x @ w.T + b for x, w, b in zip((queries, keys, values), weights, biases, strict=True))
    return affine(tensors, f"{pool}.attn.out_proj", look(q, k, v, width // 128))


def features(config: dict, tensors: Tensors, picture: Image.Image) -> Tensor:
    seen = tower(config, tensors, normalised(picture, config["visual"]["image_size"]))
    normed = layer_norm(tensors, f"{VISUAL}.ln_post", resample(config, tensors, seen), 1e-6)
    return normed @ tensors[f"{VISUAL}.proj"].double()


def logits(config: dict, tensors: Tensors, prompt: list) -> Tensor:
    heads, eps = config["num_attention_heads"], config["layer_norm_epsilon"]
    table = tensors["transformer.wte.weight"].double()
    rows = [table[part][None] if isinstance(part, int) else features(config, tensors, part) for part in prompt]
    x = torch.cat(rows)
    base, trained = rotary_base(config, len(x)), config["seq_length"]
    growth = torch.tensor([max(math.log(i, trained), 1.0) for i in range(1, len(x) + 1)], dtype=torch.float64)
    for n in range(config["num_hidden_layers"]):
        layer = f"transformer.h.{n}"
        mixed = affine(tensors, f"{layer}.attn.c_attn", rms_norm(tensors, f"{layer}.ln_1", x, eps))
        q, k, v = (part.unflatten(1, (heads, -1)) for part in mixed.chunk(3, dim=1))
        x = x + affine(
            tensors,
            f"{layer}.attn.c_proj",
            attend(turn_halves(q, base) * growth[:, None, None], turn_halves(k, base), v),
        )
        normed = rms_norm(tensors, f"{layer}.ln_2", x, eps)
        up, gate = (affine(tensors, f"{layer}.mlp.{part}", normed) for part in ("w1", "w2"))
        x = x + affine(tensors, f"{layer}.mlp.c_proj", up * silu(gate))
    return affine(tensors, "lm_head", rms_norm(tensors, "transformer.ln_f", x, eps))
