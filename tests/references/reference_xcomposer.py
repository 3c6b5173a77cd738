"""InternLM-XComposer 1: EVA-CLIP, a Q-Former whose queries look at it, and InternLM with a LoRA on some matrices.

A prompt is a list of token ids and PIL pictures; of a picture come flag, queries, flag.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from reference_parts import Tensors, affine, attend, gelu, layer_norm, rms_norm, silu, turn_halves
from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normalised(picture: Image.Image, side: int) -> Tensor:
    """[3, side, side]: squeezed into a square whatever its shape."""
    small = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    return torch.from_numpy((small - np.array(MEAN)) / np.array(STD)).permute(2, 0, 1)


def patches_of(pixels: Tensor, weight: Tensor) -> Tensor:
    """A convolution whose stride is its size, [patches, features]."""
    return torch.conv2d(pixels[None], weight.double(), stride=weight.shape[-1])[0].flatten(1).T


def look(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of all queries over all keys: q [n, heads · d], k and v [m, heads · d]."""
    d = q.shape[1] // heads
    cut = [slice(h * d, (h + 1) * d) for h in range(heads)]
    return torch.cat([torch.softmax(q[:, c] @ k[:, c].T / math.sqrt(d), -1) @ v[:, c] for c in cut], -1)


def tower(tensors: Tensors, pixels: Tensor, heads: int) -> Tensor:
    name = "visual_encoder"
    x = patches_of(pixels, tensors[f"{name}.patch_embed.proj.weight"])
    x = x + tensors[f"{name}.patch_embed.proj.bias"].double()
    x = torch.cat((tensors[f"{name}.cls_token"][0].double(), x)) + tensors[f"{name}.pos_embed"][0].double()
    n = 0
    while f"{name}.blocks.{n}.norm1.weight" in tensors:
        block = f"{name}.blocks.{n}"
        normed = layer_norm(tensors, f"{block}.norm1", x, 1e-6)
        q, k, v = (normed @ tensors[f"{block}.attn.qkv.weight"].double().T).chunk(3, -1)
        q, v = q + tensors[f"{block}.attn.q_bias"].double(), v + tensors[f"{block}.attn.v_bias"].double()
        x = x + affine(tensors, f"{block}.attn.proj", look(q, k, v, heads))
        normed = layer_norm(tensors, f"{block}.norm2", x, 1e-6)
        x = x + affine(tensors, f"{block}.mlp.fc2", gelu(affine(tensors, f"{block}.mlp.fc1", normed)))
        n += 1
    return layer_norm(tensors, "ln_vision", x, 1e-5)


def queries(tensors: Tensors, seen: Tensor, heads: int) -> Tensor:
    """BERT's layers, norms behind the sums; every other one looks at the picture."""
    x = layer_norm(tensors, "Qformer.bert.embeddings.LayerNorm", tensors["query_tokens"][0].double(), 1e-12)
    n = 0
    while f"Qformer.bert.encoder.layer.{n}.attention.self.query.weight" in tensors:
        layer = f"Qformer.bert.encoder.layer.{n}"
        for part, source in (("attention", None), ("crossattention", seen)):
            if f"{layer}.{part}.self.query.weight" in tensors:
                other = x if source is None else source
                q, k, v = (
                    affine(tensors, f"{layer}.{part}.self.{role}", rows)
                    for role, rows in (("query", x), ("key", other), ("value", other))
                )
                summed = x + affine(tensors, f"{layer}.{part}.output.dense", look(q, k, v, heads))
                x = layer_norm(tensors, f"{layer}.{part}.output.LayerNorm", summed, 1e-12)
        wide = gelu(affine(tensors, f"{layer}.intermediate_query.dense", x))
        summed = x + affine(tensors, f"{layer}.output_query.dense", wide)
        x = layer_norm(tensors, f"{layer}.output_query.LayerNorm", summed, 1e-12)
        n += 1
    return x


def features(tensors: Tensors, picture: Image.Image, *, side: int, eva_heads: int, bert_heads: int) -> Tensor:
    seen = tower(tensors, normalised(picture, side), eva_heads)
    mapped = affine(tensors, "internlm_proj", queries(tensors, seen, bert_heads))
    return torch.cat((tensors["flag_image_start"][0].double(), mapped, tensors["flag_image_end"][0].double()))


def updated(config: dict, tensors: Tensors, name: str, x: Tensor) -> Tensor:
    y = affine(tensors, name, x)
    if f"{name}.lora_A.weight" not in tensors:
        return y
    lora = config["internlm_lora"]
    narrow = x @ tensors[f"{name}.lora_A.weight"].double().T
    return y + narrow @ tensors[f"{name}.lora_B.weight"].double().T * lora["lora_alpha"] / lora["lora_r"]


def logits(config: dict, tensors: Tensors, prompt: list, **shape: int) -> Tensor:
    """shape: of the picture's side, as `features` takes it."""
    model, heads, eps = "internlm_model.model", config["num_attention_heads"], config["rms_norm_eps"]
    table = tensors[f"{model}.embed_tokens.weight"].double()
    x = torch.cat([table[part][None] if isinstance(part, int) else features(tensors, part, **shape) for part in prompt])
    for n in range(config["num_hidden_layers"]):
        layer = f"{model}.layers.{n}"
        normed = rms_norm(tensors, f"{layer}.input_layernorm", x, eps)
        q, k, v = (
            updated(config, tensors, f"{layer}.self_attn.{part}_proj", normed).unflatten(1, (heads, -1))
            for part in "qkv"
        )
        mixed = attend(turn_halves(q, 1e4), turn_halves(k, 1e4), v)
        x = x + updated(config, tensors, f"{layer}.self_attn.o_proj", mixed)
        normed = rms_norm(tensors, f"{layer}.post_attention_layernorm", x, eps)
        gate, up = (updated(config, tensors, f"{layer}.mlp.{part}_proj", normed) for part in ("gate", "up"))
        x = x + updated(config, tensors, f"{layer}.mlp.down_proj", silu(gate) * up)
    return affine(tensors, "internlm_model.lm_head", rms_norm(tensors, f"{model}.norm", x, eps))
