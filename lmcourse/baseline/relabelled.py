"""Families without a class in transformers, told to transformers as one that it has: the same numbers, other names.

    InternLM       Llama with biases              QWen        Qwen2       XComposer   InternLM and InternLM2
    Baichuan (7B)  Llama, one matrix cut in three ChatGLM2    Glm, which kept its half-turned heads
    DeepSeek-VL    Llama, as XComposer for texts alone
    DeepSeek-MoE   Qwen2Moe whose shared gate is always sigmoid(0) = 1/2, and whose shared experts give twice as much

None of it is approximate: what comes out is what the family's own code would compute, within its training length.

Lesson: 8 (a reference for every row)
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from lmcourse.baseline.auto import AutoModelForCausalLM
from lmcourse.baseline.internlm2 import read_tensors
from lmcourse.models import language_config, read_json

__all__ = ["load_reference", "relabel"]

Config = dict[str, Any]
Tensors = dict[str, Tensor]
_BAICHUAN2_VOCAB = 125696


def load_reference(folder: Path) -> Any:
    """transformers' model with a folder's weights, in float32, under its own family's name or a relative's."""
    config, tensors = relabel(read_json(folder / "config.json"), read_tensors(folder))
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        contiguous = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, Path(place) / "model.safetensors", metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(place)


def relabel(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    """Config and tensors as a family of transformers has them; unchanged where transformers has the family."""
    as_relative = _RELATIVES.get(str(config.get("model_type")))
    return as_relative(config, tensors) if as_relative else (config, tensors)


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """Every part of a name that is a key becomes its value."""
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    return {pattern.sub(lambda match: names[match[0]], name): tensor for name, tensor in tensors.items()}


def _cut(tensors: Tensors, fused: str, parts: Mapping[str, int]) -> Tensors:
    """Each tensor whose name has `fused` in it, cut into rows for the parts."""
    cut: Tensors = {}
    for name, tensor in tensors.items():
        if fused not in name:
            cut[name] = tensor
            continue
        pieces = torch.split(tensor, list(parts.values()))
        cut |= {name.replace(fused, part): piece for part, piece in zip(parts, pieces, strict=True)}
    return cut


def _internlm(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    renamed = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": config["bias"]}
    return config | renamed, tensors


def _xcomposer(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    """For texts alone: without a picture version 1 is InternLM, and 2 is InternLM2."""
    if "InternLMXComposerForCausalLM" in config["architectures"]:
        return _internlm(config, tensors)
    renamed = {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}
    return config | renamed, {name: tensor for name, tensor in tensors.items() if "Plora_" not in name}


def _deepseek_vl(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    """For texts alone: without a picture it is a Llama."""
    return dict(language_config(config)), tensors


def _baichuan(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    rows = dict.fromkeys(("q_proj", "k_proj", "v_proj"), int(config["hidden_size"]))
    tensors = _cut(tensors, "W_pack", rows)
    if config["vocab_size"] == _BAICHUAN2_VOCAB:
        tensors["lm_head.weight"] = normalize(tensors["lm_head.weight"].float())
    return config | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, tensors


def _qwen(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    heads = config["num_attention_heads"]
    qkv = dict.fromkeys(("q_proj", "k_proj", "v_proj"), int(heads * config["kv_channels"]))
    names = {
        "transformer.wte": "model.embed_tokens", "transformer.h": "model.layers", "transformer.ln_f": "model.norm",
        "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn.c_attn": "self_attn.c_attn",
        "attn.c_proj": "self_attn.o_proj", "mlp.w2": "mlp.gate_proj", "mlp.w1": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }  # fmt: skip
    renamed = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": heads,
        "intermediate_size": config["intermediate_size"] // 2, "rms_norm_eps": config["layer_norm_epsilon"],
        "rope_theta": float(config["rotary_emb_base"]), "use_sliding_window": False,
    }  # fmt: skip
    return config | renamed, _cut(_renamed(tensors, names), "c_attn", qkv)


def _chatglm(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    head_dim, kv_heads = config["kv_channels"], config["multi_query_group_num"]
    rows: dict[str, int] = {"q_proj": config["num_attention_heads"] * head_dim, "k_proj": kv_heads * head_dim}
    names = {
        "transformer.embedding.word_embeddings": "model.embed_tokens", "transformer.encoder.layers": "model.layers",
        "transformer.encoder.final_layernorm": "model.norm", "transformer.output_layer": "lm_head",
        "self_attention.dense": "self_attn.o_proj", "self_attention.query_key_value": "self_attn.query_key_value",
        "dense_h_to_4h": "gate_up_proj", "dense_4h_to_h": "down_proj",
    }  # fmt: skip
    renamed = {
        "architectures": ["GlmForCausalLM"], "model_type": "glm", "hidden_size": config["hidden_size"],
        "intermediate_size": config["ffn_hidden_size"], "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_attention_heads"], "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": config["padded_vocab_size"], "max_position_embeddings": config["seq_length"],
        "rms_norm_eps": config["layernorm_epsilon"], "attention_bias": config["add_qkv_bias"],
        "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "pad_token_id": None, "eos_token_id": config.get("eos_token_id"), "torch_dtype": config["torch_dtype"],
    }  # fmt: skip
    qkv = rows | {"v_proj": rows["k_proj"]}
    return renamed, _cut(_renamed(tensors, names), "query_key_value", qkv)


def _deepseek(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    numbers = range(config["num_hidden_layers"])
    first, step = config["first_k_dense_replace"], config["moe_layer_freq"]
    dense = [n for n in numbers if n < first or n % step]
    tensors = _renamed(tensors, {"shared_experts": "shared_expert"})
    for n in sorted(set(numbers) - set(dense)):
        tensors[f"model.layers.{n}.mlp.shared_expert_gate.weight"] = torch.zeros(1, config["hidden_size"])
        tensors[f"model.layers.{n}.mlp.shared_expert.down_proj.weight"] *= 2
    renamed = {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "num_experts": config["n_routed_experts"],
        "shared_expert_intermediate_size": config["n_shared_experts"] * config["moe_intermediate_size"],
        "mlp_only_layers": dense, "decoder_sparse_step": 1, "qkv_bias": False, "use_sliding_window": False,
    }  # fmt: skip
    return config | renamed, tensors


_RELATIVES: Mapping[str, Callable[[Config, Tensors], tuple[Config, Tensors]]] = {
    "internlm": _internlm,
    "InternLMXComposer": _xcomposer,
    "internlmxcomposer2": _xcomposer,
    "multi_modality": _deepseek_vl,
    "deepseek_vl": _deepseek_vl,
    "deepseek_vl_hybrid": _deepseek_vl,
    "baichuan": _baichuan,
    "qwen": _qwen,
    "chatglm": _chatglm,
    "deepseek": _deepseek,
}
