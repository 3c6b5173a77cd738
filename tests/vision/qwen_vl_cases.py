"""Tiny random Qwen-VLs in the published file layout: random biases and norms, odd head counts.

The resampler's heads have 128 features, which no config says: widths are three times that.
"""

from __future__ import annotations

import base64
import json

import torch
from torch import Tensor
from xcomposer_cases import VOCAB, Tiny, _linear, _norm

VISUAL = "transformer.visual"
MARKS = 3 + 205 + 9  # of qwen.tiktoken, behind the last rank


def _attention(name: str, width: int) -> dict[str, Tensor]:
    joint = {
        key.replace("in_proj.", "in_proj_"): part for key, part in _linear(f"{name}.in_proj", 3 * width, width).items()
    }
    return joint | _linear(f"{name}.out_proj", width, width)


def _visual(visual: dict, stored_grid: int, queries: int) -> dict[str, Tensor]:
    width, output, patch = visual["width"], visual["output_dim"], visual["patch_size"]
    pool = f"{VISUAL}.attn_pool"
    tensors = {
        f"{VISUAL}.conv1.weight": torch.randn(width, 3, patch, patch) * 0.1,
        f"{VISUAL}.positional_embedding": torch.randn(stored_grid**2, width) * 0.4,
        f"{VISUAL}.proj": torch.randn(output, output) * output**-0.5,
        f"{pool}.query": torch.randn(queries, output), f"{pool}.pos_embed": torch.randn(queries, output) * 0.7,
    }  # fmt: skip
    if width != output:
        tensors |= _linear(f"{pool}.kv_proj", output, width, bias=False)
    tensors |= _attention(f"{pool}.attn", output) | _norm(f"{pool}.ln_q", output) | _norm(f"{pool}.ln_kv", output)
    tensors |= _norm(f"{VISUAL}.ln_pre", width) | _norm(f"{VISUAL}.ln_post", output)
    inner = int(width * visual["mlp_ratio"])
    for n in range(visual["layers"]):
        layer = f"{VISUAL}.transformer.resblocks.{n}"
        tensors |= _norm(f"{layer}.ln_1", width) | _norm(f"{layer}.ln_2", width)
        tensors |= _linear(f"{layer}.attn.in_proj", 3 * width, width) | _linear(f"{layer}.attn.out_proj", width, width)
        tensors |= _linear(f"{layer}.mlp.c_fc", inner, width) | _linear(f"{layer}.mlp.c_proj", width, inner)
    return tensors


def qwen_vl(
    *, hidden: int = 384, inner: int = 136, heads: int = 6, width: int = 60, grid: int = 4, stored_grid: int = 3,
    queries: int = 9, visual_heads: int = 5,
) -> Tiny:  # fmt: skip
    """grid: patches along a picture's side; stored_grid: those that the tower has positions for."""
    visual = {
        "heads": visual_heads, "image_size": 7 * grid, "image_start_id": VOCAB - 3, "layers": 2, "mlp_ratio": 2.9231,
        "output_dim": hidden, "patch_size": 7, "width": width, "n_queries": queries,
    }  # fmt: skip
    config = {
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "torch_dtype": "float32", "hidden_size": hidden,
        "intermediate_size": 2 * inner, "kv_channels": hidden // heads, "num_attention_heads": heads, "no_bias": True,
        "num_hidden_layers": 2, "layer_norm_epsilon": 1e-6, "max_position_embeddings": 8192, "rotary_emb_base": 10000,
        "rotary_pct": 1.0, "scale_attn_weights": True, "seq_length": 2048, "tie_word_embeddings": False,
        "tokenizer_type": "QWenTokenizer", "use_cache": True, "use_dynamic_ntk": True, "use_flash_attn": False,
        "use_logn_attn": True, "visual": visual, "vocab_size": VOCAB, "attn_dropout_prob": 0.0, "bf16": False,
        "emb_dropout_prob": 0.0, "onnx_safe": None, "initializer_range": 0.02,
    }  # fmt: skip
    tensors = _visual(visual, stored_grid, queries) | {"transformer.wte.weight": torch.randn(VOCAB, hidden)}
    for n in range(2):
        layer = f"transformer.h.{n}"
        tensors |= _linear(f"{layer}.attn.c_attn", 3 * hidden, hidden)
        tensors |= _linear(f"{layer}.attn.c_proj", hidden, hidden, bias=False)
        for part, shape in (("w1", (inner, hidden)), ("w2", (inner, hidden)), ("c_proj", (hidden, inner))):
            tensors |= _linear(f"{layer}.mlp.{part}", *shape, bias=False)
        tensors |= _norm(f"{layer}.ln_1", hidden, bias=False) | _norm(f"{layer}.ln_2", hidden, bias=False)
    tensors |= _norm("transformer.ln_f", hidden, bias=False) | _linear("lm_head", VOCAB, hidden, bias=False)
    return Tiny(config, tensors, "qwen_vl", {}, queries)


def tiktoken_file() -> str:
    """qwen.tiktoken of single bytes and a few pairs."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"pi", b"ct", b"\xe7\x8c"]
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def with_marks(tiny: Tiny) -> Tiny:
    """The same with rows for all marks of qwen.tiktoken, whose image_start_id is where that has <img>."""
    vocab = 259 + MARKS + 5
    tables = {name: torch.randn(vocab, 384) for name in ("transformer.wte.weight", "lm_head.weight")}
    visual = tiny.config["visual"] | {"image_start_id": 259 + MARKS - 3}
    config = json.loads(json.dumps(tiny.config | {"vocab_size": vocab, "visual": visual}))
    return tiny._replace(config=config, tensors=tiny.tensors | tables)
