"""tiny-chat's sizes and its files: InternLM2's config keys and tensor names in Hugging Face format.

    wqkv rows, one group per kv head:   [ q q | k | v ] [ q q | k | v ]     each letter is head_dim rows

The trainer keeps q, k and v as plain matrices; `to_internlm2` interleaves them the way the published checkpoints do.
Files are written beside their destination and renamed, so a failure leaves no half-written model.
Lesson: 2 (what HF format is)
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["TINY_CHAT", "Sizes", "hf_config", "load_state", "save_checkpoint", "to_internlm2"]


@dataclass(frozen=True)
class Sizes:
    """Everything that fixes the shapes of a small InternLM2; 6.8 M parameters, 13.6 MB in fp16 as it stands."""

    vocab: int = 4096
    hidden: int = 256
    num_layers: int = 8
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 512
    max_context: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


TINY_CHAT = Sizes()


def hf_config(sizes: Sizes) -> dict[str, object]:
    """config.json with the keys of the published InternLM2 models (no auto_map: nothing remote is ever run)."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "head_dim": sizes.head_dim,
        "initializer_range": 0.02,
        "intermediate_size": sizes.intermediate,
        "max_position_embeddings": sizes.max_context,
        "num_attention_heads": sizes.num_heads,
        "num_hidden_layers": sizes.num_layers,
        "num_key_value_heads": sizes.num_kv_heads,
        "rms_norm_eps": sizes.norm_eps,
        "rope_scaling": None,
        "rope_theta": sizes.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": sizes.vocab,
    }


def to_internlm2(state: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Tensors under InternLM2's names, fp16, from Llama-style names (layers.N.{wq,wk,wv,…})."""
    named = {name: tensor for name, tensor in state.items() if name.split(".")[-2] not in {"wq", "wk", "wv"}}
    for layer in range(sizes.num_layers):
        prefix = f"model.layers.{layer}.attention."
        q, k, v = (state[f"{prefix}{part}.weight"] for part in ("wq", "wk", "wv"))
        per_group = (sizes.num_kv_heads, -1, sizes.head_dim, sizes.hidden)
        grouped = torch.cat([q.view(per_group), k.view(per_group), v.view(per_group)], dim=1)
        named[f"{prefix}wqkv.weight"] = grouped.reshape(-1, sizes.hidden)
    return {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in sorted(named.items())}


def save_checkpoint(state: dict[str, Tensor], folder: Path, sizes: Sizes = TINY_CHAT) -> None:
    """Writes model.safetensors, config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.safetensors.partial"
    try:
        save_file(to_internlm2(state, sizes), partial, metadata={"format": "pt"})
        os.replace(partial, folder / "model.safetensors")
    finally:
        partial.unlink(missing_ok=True)
    _write_json(folder / "config.json", hf_config(sizes))
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [2, 4094], "pad_token_id": 2})


def _write_json(path: Path, value: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load_state(folder: Path, sizes: Sizes = TINY_CHAT) -> dict[str, Tensor]:
    """The inverse of `save_checkpoint`: float32 tensors under the trainer's names."""
    state: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("wqkv.weight"):
            per_kv_head = sizes.num_heads // sizes.num_kv_heads
            grouped = tensor.float().view(sizes.num_kv_heads, -1, sizes.head_dim, sizes.hidden)
            parts = grouped.split([per_kv_head, 1, 1], dim=1)
            for part, rows in zip(("wq", "wk", "wv"), parts, strict=True):
                state[name.replace("wqkv", part)] = rows.reshape(-1, sizes.hidden)
        else:
            state[name] = tensor.float()
    return state
