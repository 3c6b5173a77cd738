"""InternLM-XComposer 2: CLIP at a size of its own, two linear maps, and InternLM2 with a LoRA for pictures' tokens.

A prompt is a list of token ids and PIL pictures.
"""

from __future__ import annotations

import torch
from PIL import Image
from reference_parts import Tensors, affine, attend, gelu, layer_norm, rms_norm, silu, turn_halves
from reference_xcomposer import look, normalised, patches_of
from torch import Tensor


def positions(stored: Tensor, count: int) -> Tensor:
    """[1 + count, features]: the square of patches stretched to another, the class token's left alone."""
    old, new = round((len(stored) - 1) ** 0.5), round(count**0.5)
    if old == new:
        return stored.double()
    square = stored[1:].double().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    wide = torch.nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((stored[:1].double(), wide[0].flatten(1).T))


def features(tensors: Tensors, picture: Image.Image, side: int, heads: int) -> Tensor:
    clip = "vit.vision_tower.vision_model"
    x = patches_of(normalised(picture, side), tensors[f"{clip}.embeddings.patch_embedding.weight"])
    x = torch.cat((tensors[f"{clip}.embeddings.class_embedding"].double()[None], x))
    x = x + positions(tensors[f"{clip}.embeddings.position_embedding.weight"], len(x) - 1)
    x = layer_norm(tensors, f"{clip}.pre_layrnorm", x, 1e-5)
    n = 0
    while f"{clip}.encoder.layers.{n}.layer_norm1.weight" in tensors:
        layer = f"{clip}.encoder.layers.{n}"
        normed = layer_norm(tensors, f"{layer}.layer_norm1", x, 1e-5)
        q, k, v = (affine(tensors, f"{layer}.self_attn.{part}_proj", normed) for part in "qkv")
        x = x + affine(tensors, f"{layer}.self_attn.out_proj", look(q, k, v, heads))
        wide = affine(tensors, f"{layer}.mlp.fc1", layer_norm(tensors, f"{layer}.layer_norm2", x, 1e-5))
        x = x + affine(tensors, f"{layer}.mlp.fc2", wide / (1 + torch.exp(-1.702 * wide)))
        n += 1
    return affine(tensors, "vision_proj.2", gelu(affine(tensors, "vision_proj.0", x[1:])))


def partial(tensors: Tensors, name: str, x: Tensor, seen: Tensor) -> Tensor:
    """seen: which rows are pictures'; rank 256 and alpha 256 make the scale 1."""
    more = x @ tensors[f"{name}.Plora_A.weight"].double().T @ tensors[f"{name}.Plora_B.weight"].double().T
    return affine(tensors, name, x) + more * seen[:, None]


def logits(config: dict, tensors: Tensors, prompt: list, **shape: int) -> Tensor:
    """shape: of the picture's side, as `features` takes it."""
    heads, kv_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    table, base = tensors["model.tok_embeddings.weight"].double(), config["rope_theta"]
    rows = [table[part][None] if isinstance(part, int) else features(tensors, part, **shape) for part in prompt]
    x = torch.cat(rows)
    of_pictures = [not isinstance(part, int) for part in prompt]
    seen = torch.tensor(of_pictures).repeat_interleave(torch.tensor([len(row) for row in rows]))
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        normed = rms_norm(tensors, f"{layer}.attention_norm", x, eps)
        qkv = partial(tensors, f"{layer}.attention.wqkv", normed, seen)
        groups = qkv.reshape(len(x), kv_heads, heads // kv_heads + 2, -1)
        q, k, v = groups[:, :, :-2].flatten(1, 2), groups[:, :, -2], groups[:, :, -1]
        mixed = attend(turn_halves(q, base), turn_halves(k, base), v)
        x = x + partial(tensors, f"{layer}.attention.wo", mixed, seen)
        normed = rms_norm(tensors, f"{layer}.ffn_norm", x, eps)
        gate, up = (partial(tensors, f"{layer}.feed_forward.{part}", normed, seen) for part in ("w1", "w3"))
        x = x + partial(tensors, f"{layer}.feed_forward.w2", silu(gate) * up, seen)
    return affine(tensors, "output", rms_norm(tensors, "model.norm", x, eps))
