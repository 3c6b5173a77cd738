"""Tiny random InternLM-XComposers in the published file layout: random biases and norms, odd head counts.

EVA-CLIP heads have 88 features and BERT's and CLIP's 64, which no config says: widths are three times that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCAB = 300
Tensors = dict[str, Tensor]
COMMON = {
    "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "vocab_size": VOCAB,
    "num_hidden_layers": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
LORA = {"freeze": False, "learn_param": ["q", "v", "ffn"], "lora_alpha": 9, "lora_dropout": 0.05, "lora_r": 6}


class Tiny(NamedTuple):
    """A model, what its reference needs to know of its picture's side, and tokens of a picture."""

    config: dict
    tensors: Tensors
    truth: str  # a module of tests/references
    shape: dict[str, int]
    num_tokens: int

    def write(self, folder: Path) -> Path:
        """The folder, in three shards with an index."""
        folder.mkdir(parents=True, exist_ok=True)
        names, places = sorted(self.tensors), {}
        for part in range(3):
            file = f"model-{part + 1:05}-of-00003.safetensors"
            shard = {name: self.tensors[name].contiguous() for name in names[part::3]}
            save_file(shard, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "byte_tokenizer.json").write_text(json.dumps({"vocab_size": VOCAB, "first_byte_id": 3}))
        special = {str(i): {"content": token, "special": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))}
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"added_tokens_decoder": special}))
        return folder


def _norm(name: str, width: int, *, bias: bool = True) -> Tensors:
    tensors = {f"{name}.weight": 0.9 + 0.2 * torch.randn(width)}
    return tensors | ({f"{name}.bias": 0.2 * torch.randn(width)} if bias else {})


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Tensors:
    tensors = {f"{name}.weight": torch.randn(rows, columns) * columns**-0.5 * 1.1 + 0.003}
    return tensors | ({f"{name}.bias": 0.3 * torch.randn(rows) + 0.05} if bias else {})


def _eva(width: int, inner: int, layers: int, patch: int, grid: int) -> Tensors:
    name = "visual_encoder"
    tensors = {
        f"{name}.cls_token": torch.randn(1, 1, width), f"{name}.pos_embed": torch.randn(1, grid**2 + 1, width) * 0.4,
        f"{name}.patch_embed.proj.weight": torch.randn(width, 3, patch, patch) * 0.1,
        f"{name}.patch_embed.proj.bias": torch.randn(width) * 0.3,
    }  # fmt: skip
    for n in range(layers):
        block = f"{name}.blocks.{n}"
        tensors |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        tensors |= _linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
        tensors |= {f"{block}.attn.{part}_bias": torch.randn(width) * 0.4 for part in "qv"}
        tensors |= _linear(f"{block}.attn.proj", width, width)
        tensors |= _linear(f"{block}.mlp.fc1", inner, width) | _linear(f"{block}.mlp.fc2", width, inner)
    return tensors | _norm("ln_vision", width)


def _qformer(width: int, inner: int, layers: int, seen: int, queries: int) -> Tensors:
    tensors = {"query_tokens": torch.randn(1, queries, width)} | _norm("Qformer.bert.embeddings.LayerNorm", width)
    for n in range(layers):
        layer = f"Qformer.bert.encoder.layer.{n}"
        for part, other in [("attention", width), *([("crossattention", seen)] if n % 2 == 0 else [])]:
            for role, columns in (("query", width), ("key", other), ("value", other)):
                tensors |= _linear(f"{layer}.{part}.self.{role}", width, columns)
            tensors |= _linear(f"{layer}.{part}.output.dense", width, width)
            tensors |= _norm(f"{layer}.{part}.output.LayerNorm", width)
        tensors |= _linear(f"{layer}.intermediate_query.dense", inner, width)
        tensors |= _linear(f"{layer}.output_query.dense", width, inner) | _norm(
            f"{layer}.output_query.LayerNorm", width
        )
    return tensors


def _internlm(hidden: int, inner: int, layers: int) -> Tensors:
    tensors = {"internlm_model.model.embed_tokens.weight": torch.randn(VOCAB, hidden)}
    for n in range(layers):
        layer = f"internlm_model.model.layers.{n}"
        for part in "qkvo":
            tensors |= _linear(f"{layer}.self_attn.{part}_proj", hidden, hidden)
        tensors |= _linear(f"{layer}.mlp.gate_proj", inner, hidden, bias=False)
        tensors |= _linear(f"{layer}.mlp.up_proj", inner, hidden, bias=False)
        tensors |= _linear(f"{layer}.mlp.down_proj", hidden, inner, bias=False)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"):
            rows, columns = tensors[f"{layer}.{part}.weight"].shape
            tensors[f"{layer}.{part}.lora_A.weight"] = torch.randn(LORA["lora_r"], columns) * 0.1
            tensors[f"{layer}.{part}.lora_B.weight"] = torch.randn(rows, LORA["lora_r"]) * 0.3
        tensors[f"{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(hidden // 10)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors |= _norm(f"{layer}.{norm}", hidden, bias=False)
    tensors |= _norm("internlm_model.model.norm", hidden, bias=False)
    return tensors | _linear("internlm_model.lm_head", VOCAB, hidden, bias=False)


def xcomposer(*, hidden: int = 40, inner: int = 72, heads: int = 5, queries: int = 7) -> Tiny:
    """Version 1: towers of 2 and 3 layers."""
    config = COMMON | {
        "architectures": ["InternLMXComposerForCausalLM"], "model_type": "InternLMXComposer", "hidden_size": hidden,
        "intermediate_size": inner, "num_attention_heads": heads, "bias": True, "num_query_token": queries,
        "num_quant": 32, "intern_converted_llm": True, "kqvo_bias": True, "internlm_lora": LORA, "lora_cfg": LORA,
        "pad_token_id": -1, "device": "cuda",
    }  # fmt: skip
    tensors = _eva(264, 200, 2, 7, 3) | _qformer(192, 150, 3, 264, queries) | _linear("internlm_proj", hidden, 192)
    tensors |= {f"flag_image_{end}": torch.randn(1, 1, hidden) for end in ("start", "end")}
    tensors |= _internlm(hidden, inner, 2)
    return Tiny(config, tensors, "xcomposer", {"side": 21, "eva_heads": 3, "bert_heads": 3}, queries + 2)


def _clip(width: int, inner: int, layers: int, patch: int, grid: int) -> Tensors:
    clip = "vit.vision_tower.vision_model"
    tensors = {
        f"{clip}.embeddings.class_embedding": torch.randn(width),
        f"{clip}.embeddings.patch_embedding.weight": torch.randn(width, 3, patch, patch) * 0.1,
        f"{clip}.embeddings.position_embedding.weight": torch.randn(grid**2 + 1, width) * 0.4,
    } | _norm(f"{clip}.pre_layrnorm", width)
    for n in range(layers):
        layer = f"{clip}.encoder.layers.{n}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= _linear(f"{layer}.self_attn.{part}", width, width)
        tensors |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
        tensors |= _linear(f"{layer}.mlp.fc1", inner, width) | _linear(f"{layer}.mlp.fc2", width, inner)
    return tensors | _norm(f"{clip}.post_layernorm", width)  # published, for a head that nothing here has


def xcomposer2(*, hidden: int = 40, inner: int = 72, heads: int = 10, kv_heads: int = 5, stored_grid: int = 3) -> Tiny:
    """Version 2: pictures of 21 pixels, patches of 7; stored_grid: patches a side that the tower has positions for."""
    config = COMMON | {
        "architectures": ["InternLMXComposer2ForCausalLM"], "model_type": "internlmxcomposer2", "hidden_size": hidden,
        "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "bias": False,
        "rope_theta": 1000000, "rope_scaling": {"factor": 1.0, "type": "dynamic"}, "img_size": 21, "max_length": 4096,
        "pad_token_id": 2, "use_cache": False,
    }  # fmt: skip
    head_dim, rank = hidden // heads, 256
    tensors = _clip(192, 150, 3, 7, stored_grid)
    tensors |= _linear("vision_proj.0", hidden, 192) | _linear("vision_proj.2", hidden, hidden)
    tensors |= {"model.tok_embeddings.weight": torch.randn(VOCAB, hidden)} | _norm("model.norm", hidden, bias=False)
    for n in range(2):
        layer = f"model.layers.{n}"
        matrices = {
            "attention.wqkv": ((heads + 2 * kv_heads) * head_dim, hidden), "attention.wo": (hidden, hidden),
            "feed_forward.w1": (inner, hidden), "feed_forward.w3": (inner, hidden), "feed_forward.w2": (hidden, inner),
        }  # fmt: skip
        for name, (rows, columns) in matrices.items():
            tensors |= _linear(f"{layer}.{name}", rows, columns, bias=False)
            tensors |= _linear(f"{layer}.{name}.Plora_A", rank, columns, bias=False)
            tensors |= _linear(f"{layer}.{name}.Plora_B", rows, rank, bias=False)
        tensors |= _norm(f"{layer}.attention_norm", hidden, bias=False) | _norm(f"{layer}.ffn_norm", hidden, bias=False)
    tensors |= _linear("output", VOCAB, hidden, bias=False)
    return Tiny(config, tensors, "xcomposer2", {"side": 21, "heads": 3}, 9)


TINIES: dict[str, Callable[..., Tiny]] = {"1": xcomposer, "2": xcomposer2}
