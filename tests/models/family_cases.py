"""Tiny random checkpoints of every dense family: config and file layout as published, sizes as awkward as they go.

CASES: name → a function that draws (config, tensors); what gives their right logits is in `truth`: a float64 reference
of tests/references, or None where transformers has the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
LLAMA_NAMES = {
    "embedding": "model.embed_tokens", "layer": "model.layers", "norm": "model.norm", "head": "lm_head",
    "norms": ("input_layernorm", "post_attention_layernorm"), "output": "self_attn.o_proj",
}  # fmt: skip
SIZES = {"vocab_size": 67, "hidden_size": 30, "intermediate_size": 44, "num_hidden_layers": 3}
COMMON = {"torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2}


class Case(NamedTuple):
    """One kind of checkpoint."""

    config: dict
    shapes: Shapes
    biases: tuple[str, ...]  # endings of the names that have a bias
    truth: str | None  # a module of tests/references; None: transformers

    def draw(self) -> tuple[dict, dict[str, Tensor]]:
        tensors = {}
        for name, shape in self.shapes.items():
            spread, mean = (0.2, 0.01) if len(shape) == 2 else (0.2, 0.9)
            tensors[f"{name}.weight"] = torch.randn(shape) * spread + mean
            if name.endswith(self.biases):
                tensors[f"{name}.bias"] = torch.randn(shape[0]) * 0.3 + 0.1
        return dict(self.config), tensors


def _stack(names: dict, config: dict, layer_shapes: Shapes, layers: int, *, tied: bool = False) -> Shapes:
    hidden, vocab = config["hidden_size"], config.get("padded_vocab_size", config.get("vocab_size"))
    shapes: Shapes = {names["embedding"]: (vocab, hidden), names["norm"]: (hidden,)}
    for n in range(layers):
        shapes |= {f"{names['layer']}.{n}.{part}": shape for part, shape in layer_shapes.items()}
        shapes |= {f"{names['layer']}.{n}.{part}": (hidden,) for part in names["norms"]}
    return shapes if tied else shapes | {names["head"]: (vocab, hidden)}


def llama_like(
    architecture: str, model_type: str, *, biases: tuple[str, ...] = (), truth: str | None = None, **changes: object
) -> Case:
    """Llama's names: five query heads of six features over one kv head unless changed."""
    config: dict = COMMON | SIZES | {
        "architectures": [architecture], "model_type": model_type, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "num_attention_heads": 5, "num_key_value_heads": 1, "max_position_embeddings": 256, "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    } | changes  # fmt: skip
    config = {key: value for key, value in config.items() if value is not ...}
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    d = config.get("head_dim", hidden // heads)
    parts = {"q": heads, "k": kv_heads, "v": kv_heads}
    layer: Shapes = {f"self_attn.{part}_proj": (count * d, hidden) for part, count in parts.items()}
    layer |= {"self_attn.o_proj": (hidden, heads * d), "mlp.down_proj": (hidden, inner)}
    layer |= {f"mlp.{part}_proj": (inner, hidden) for part in ("gate", "up")}
    if model_type == "baichuan":
        layer = {name: shape for name, shape in layer.items() if not name.endswith(("q_proj", "k_proj", "v_proj"))}
        layer["self_attn.W_pack"] = (3 * heads * d, hidden)
    shapes = _stack(LLAMA_NAMES, config, layer, config["num_hidden_layers"], tied=config["tie_word_embeddings"])
    return Case(config, shapes, biases, truth)


def baichuan(architecture: str, **changes: object) -> Case:
    return llama_like(
        architecture, "baichuan", truth="baichuan", **{"num_key_value_heads": ..., "rope_theta": ...} | changes
    )


def qwen(**changes: object) -> Case:
    config = COMMON | SIZES | {
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "intermediate_size": 88, "kv_channels": 6,
        "num_attention_heads": 5, "layer_norm_epsilon": 1e-6, "no_bias": True, "rotary_emb_base": 10000,
        "rotary_pct": 1.0, "scale_attn_weights": True, "seq_length": 256, "max_position_embeddings": 256,
        "use_dynamic_ntk": True, "use_logn_attn": True, "tie_word_embeddings": False,
    } | changes  # fmt: skip
    hidden, inner = config["hidden_size"], config["intermediate_size"] // 2
    rows = config["num_attention_heads"] * config["kv_channels"]
    layer = {
        "attn.c_attn": (3 * rows, hidden), "attn.c_proj": (hidden, rows), "mlp.w1": (inner, hidden),
        "mlp.w2": (inner, hidden), "mlp.c_proj": (hidden, inner),
    }  # fmt: skip
    names = {"embedding": "transformer.wte", "layer": "transformer.h", "norm": "transformer.ln_f", "head": "lm_head"}
    return Case(config, _stack(names | {"norms": ("ln_1", "ln_2")}, config, layer, 3), ("c_attn",), "qwen")


def chatglm2(**changes: object) -> Case:
    config = COMMON | {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": 30, "ffn_hidden_size": 44,
        "num_layers": 3, "num_attention_heads": 6, "kv_channels": 12, "multi_query_attention": True,
        "multi_query_group_num": 2, "padded_vocab_size": 67, "vocab_size": 67, "seq_length": 256,
        "layernorm_epsilon": 1e-5, "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True,
        "post_layer_norm": True, "original_rope": True, "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": False,
    } | changes  # fmt: skip
    hidden, inner, d = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    layer = {
        "self_attention.query_key_value": ((heads + 2 * groups) * d, hidden),
        "self_attention.dense": (hidden, heads * d), "mlp.dense_h_to_4h": (2 * inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }  # fmt: skip
    names = {
        "embedding": "transformer.embedding.word_embeddings", "layer": "transformer.encoder.layers",
        "norm": "transformer.encoder.final_layernorm", "head": "transformer.output_layer",
        "norms": LLAMA_NAMES["norms"],
    }  # fmt: skip
    return Case(config, _stack(names, config, layer, 3), ("query_key_value",), "chatglm2")


FALCON_NORM_BIASES = ("layernorm", "ln_attn", "ln_mlp", "ln_f")


def falcon(norms: tuple[str, ...], qkv_rows: int, *, truth: str | None = None, **changes: object) -> Case:
    config = COMMON | {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "vocab_size": 67, "hidden_size": 60,
        "num_hidden_layers": 3, "num_attention_heads": 5, "layer_norm_epsilon": 1e-5, "alibi": False, "bias": False,
        "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "eos_token_id": 11,
    } | changes  # fmt: skip
    config = {key: value for key, value in config.items() if value is not ...}
    hidden = config["hidden_size"]
    layer = {
        "self_attention.query_key_value": (qkv_rows, hidden), "self_attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (4 * hidden, hidden), "mlp.dense_4h_to_h": (hidden, 4 * hidden),
    }  # fmt: skip
    names = {"embedding": "transformer.word_embeddings", "layer": "transformer.h", "norm": "transformer.ln_f"}
    biased = FALCON_NORM_BIASES + (tuple(layer) if config["bias"] else ())
    return Case(config, _stack(names | {"norms": norms}, config, layer, 3, tied=True), biased, truth)


_ATTENTION = tuple(f"{part}_proj" for part in "qkvo")
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_GEMMA = {"head_dim": 16, "tie_word_embeddings": True, "hidden_act": "gelu", "bos_token_id": 2, "eos_token_id": 1}
CASES: dict[str, Callable[[], Case]] = {
    "Llama, llama3 rope": lambda: llama_like(
        "LlamaForCausalLM", "llama", rope_scaling=_LLAMA3 | {"original_max_position_embeddings": 32}
    ),
    "Llama, yarn": lambda: llama_like("LlamaForCausalLM", "llama", rope_scaling=_YARN, max_position_embeddings=128),
    "Code Llama": lambda: llama_like("LlamaForCausalLM", "llama", rope_theta=1e6, num_key_value_heads=5),
    "InternLM": lambda: llama_like(
        "InternLMForCausalLM", "internlm", biases=_ATTENTION, truth="internlm", bias=True, num_key_value_heads=...
    ),
    "InternLM 20B": lambda: llama_like(
        "InternLMForCausalLM", "internlm", truth="internlm", bias=False, num_key_value_heads=...
    ),
    "QWen": qwen,
    "QWen beyond its training": lambda: qwen(seq_length=16, max_position_embeddings=64),
    "QWen1.5": lambda: llama_like(
        "Qwen2ForCausalLM", "qwen2", biases=_ATTENTION[:3], use_sliding_window=False, sliding_window=4, rope_theta=1e6,
        max_window_layers=2,
    ),
    "QWen1.5 tied": lambda: llama_like(
        "Qwen2ForCausalLM", "qwen2", biases=_ATTENTION[:3], use_sliding_window=False, tie_word_embeddings=True
    ),
    "Baichuan 7B": lambda: baichuan("BaiChuanForCausalLM"),
    "Baichuan 13B": lambda: baichuan("BaichuanForCausalLM", max_position_embeddings=..., model_max_length=256),
    "Baichuan 13B, 40 heads": lambda: baichuan("BaichuanForCausalLM", num_attention_heads=40, hidden_size=80),
    "Baichuan2 7B": lambda: baichuan("BaichuanForCausalLM", vocab_size=125696, num_hidden_layers=1),
    "Baichuan2 13B": lambda: baichuan(
        "BaichuanForCausalLM", vocab_size=125696, num_hidden_layers=1, max_position_embeddings=..., model_max_length=256
    ),
    "ChatGLM2": chatglm2,
    "ChatGLM2 32k": lambda: chatglm2(rope_ratio=50),
    "Falcon 7B": lambda: falcon(("input_layernorm",), 7 * 12),
    "Falcon 40B": lambda: falcon(
        ("ln_attn", "ln_mlp"), (6 + 4) * 10, num_attention_heads=6, num_kv_heads=2, new_decoder_architecture=True
    ),
    "Falcon 11B": lambda: falcon(
        ("input_layernorm",), (6 + 4) * 10, num_attention_heads=6, num_kv_heads=2, new_decoder_architecture=True,
        num_ln_in_parallel_attn=1,
    ),
    "Falcon RW": lambda: falcon(
        LLAMA_NAMES["norms"], 180, truth="falcon_rw", alibi=True, bias=True, multi_query=False, parallel_attn=False,
        num_attention_heads=..., num_hidden_layers=..., n_head=5, n_layer=3,
    ),
    "Yi": lambda: llama_like("LlamaForCausalLM", "llama", rope_theta=5e6),
    "Mistral": lambda: llama_like("MistralForCausalLM", "mistral", sliding_window=None),
    "Mistral in its window": lambda: llama_like("MistralForCausalLM", "mistral", sliding_window=11),
    "Gemma 2B": lambda: llama_like("GemmaForCausalLM", "gemma", **_GEMMA),
    "Gemma 7B": lambda: llama_like("GemmaForCausalLM", "gemma", **_GEMMA | {"num_key_value_heads": 5}),
}  # fmt: skip

_EVEN = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 3, "vocab_size": 320}
_PADDED = {"padded_vocab_size": 320, "kv_channels": 16}
_WIDE = {"hidden_size": 80, "num_attention_heads": 5, "vocab_size": 320}
PACKABLE: dict[str, Callable[[], Case]] = {  # sizes that words of eight and groups of sixteen divide
    "InternLM": lambda: llama_like(
        "InternLMForCausalLM", "internlm", biases=_ATTENTION, truth="internlm", bias=True, num_key_value_heads=3,
        **_EVEN,
    ),
    "QWen": lambda: qwen(**_EVEN | {"intermediate_size": 160, "kv_channels": 16}),
    "QWen1.5": lambda: llama_like("Qwen2ForCausalLM", "qwen2", biases=_ATTENTION[:3], **_EVEN),
    "Baichuan 13B": lambda: baichuan(
        "BaichuanForCausalLM", max_position_embeddings=..., model_max_length=256, **_EVEN
    ),
    "ChatGLM2": lambda: chatglm2(**_EVEN | {"ffn_hidden_size": 80, "num_attention_heads": 6} | _PADDED),
    "Falcon 7B": lambda: falcon(("input_layernorm",), 7 * 16, **_WIDE),
    "Falcon 40B": lambda: falcon(
        ("ln_attn", "ln_mlp"), (10 + 4) * 8, hidden_size=80, vocab_size=320, num_attention_heads=10, num_kv_heads=2,
        new_decoder_architecture=True,
    ),
    "Falcon RW": lambda: falcon(
        LLAMA_NAMES["norms"], 240, truth="falcon_rw", alibi=True, bias=True, multi_query=False, parallel_attn=False,
        **_WIDE,
    ),
    "Mistral": lambda: llama_like("MistralForCausalLM", "mistral", sliding_window=7, **_EVEN),
    "Gemma": lambda: llama_like("GemmaForCausalLM", "gemma", **_EVEN | _GEMMA),
}  # fmt: skip
