"""Hugging Face config.json → ModelSpec, one reader per layout: what its families call things, and what they differ in.

    transformers 4   torch_dtype, rope_theta, rope_scaling          transformers 5   dtype, rope_parameters

What the decoder cannot compute exactly (another activation, another rotary rule) is refused here, by name, before any
weight is read; quantisation.py does the same for weights that are not plain numbers.

Lesson: 2 (what a format holds), 8 (what differs between families)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lmcourse.models.config_reader import ConfigReader, token_ids, unsupported, wrong_value
from lmcourse.models.rope_config import read_rotary
from lmcourse.spec import ModelSpec, RotarySpec

__all__ = [
    "alibi_slopes",
    "baichuan_spec",
    "base_spec",
    "chatglm_spec",
    "falcon_spec",
    "gemma_spec",
    "internlm2_spec",
    "internlm_spec",
    "llama_spec",
    "mistral_spec",
    "qwen2_spec",
    "qwen_spec",
    "token_ids",
]

Config = Mapping[str, Any]
_SILU = {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0,)}


def base_spec(reader: ConfigReader, family: str, **fields: Any) -> ModelSpec:
    """What all families have, and the fields that one of them has besides, or has otherwise."""
    hidden, num_heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    max_context = reader.count("max_position_embeddings", default=2048)
    bos, pad = reader.ids("bos_token_id", default=1), reader.get("pad_token_id")
    pad_ids = token_ids(pad, "pad_token_id") if pad != -1 else ()
    read: dict[str, Any] = {
        "hidden": hidden,
        "num_layers": reader.count("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": reader.count("num_key_value_heads", default=num_heads),
        "head_dim": _head_dim(reader, hidden, num_heads),
        "intermediate": reader.count("intermediate_size", default=fields.get("intermediate")),
        "vocab": reader.count("vocab_size"),
        "max_context": max_context,
        "norm_eps": reader.number("rms_norm_eps", default=1e-6),
        "rotary": fields.get("rotary") or read_rotary(reader, max_context),
        "tie_embeddings": reader.flag("tie_word_embeddings", default=False),
        "bos_id": bos[0] if bos else None,
        "eos_ids": reader.ids("eos_token_id", default=2),
        "pad_id": pad_ids[0] if pad_ids else None,
        "dtype": reader.dtype(),
    }
    return ModelSpec(family=family, **read | fields)


def _head_dim(reader: ConfigReader, hidden: int, num_heads: int) -> int:
    if reader.get("head_dim") is None and hidden % num_heads:
        raise wrong_value(reader.key("num_attention_heads"), f"a divisor of hidden_size ({hidden})", num_heads)
    return reader.count("head_dim", default=hidden // num_heads)


def llama_spec(config: Config) -> ModelSpec:
    """LlamaForCausalLM: Llama, Llama2, Code Llama, Yi, Vicuna and their relatives."""
    reader = ConfigReader(config)
    reader.only(_SILU)
    bias = reader.flag("attention_bias", default=False)
    mlp_bias = reader.flag("mlp_bias", default=False)
    return base_spec(reader, "llama", qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def internlm_spec(config: Config) -> ModelSpec:
    """InternLMForCausalLM: Llama with biases in attention; some state their rotary rule under a key of their own."""
    reader = ConfigReader(config)
    reader.only(_SILU)
    bias = reader.flag("bias", default=True)
    spec = base_spec(reader, "internlm", qkv_bias=bias, output_bias=bias)
    stated = reader.get("rotary")
    if stated is None:
        return spec
    if not isinstance(stated, Mapping):
        raise wrong_value("rotary", "null or an object", stated)
    rules = ConfigReader(stated)
    rules.only({"type": ("origin", "dynamic")})
    dynamic = rules.get("type") == "dynamic"
    rotary = dataclasses.replace(
        spec.rotary,
        base=rules.number("base", default=10000.0),
        scaling="dynamic" if dynamic else None,
        factor=rules.number("scaling_factor", default=1.0),
    )
    return dataclasses.replace(spec, rotary=rotary)


def internlm2_spec(config: Config) -> ModelSpec:
    """InternLM2ForCausalLM; a config without `bias` means biases, as in the class that was published with it."""
    reader = ConfigReader(config)
    reader.only(_SILU)
    bias = reader.flag("bias", default=True)
    return base_spec(reader, "internlm2", qkv_bias=bias, output_bias=bias)


def mistral_spec(config: Config) -> ModelSpec:
    """MistralForCausalLM: Llama within a window, from which later versions went back."""
    reader = ConfigReader(config)
    reader.only(_SILU)
    return base_spec(reader, "mistral", window=_read_window(reader, default=4096))


def qwen2_spec(config: Config) -> ModelSpec:
    """Qwen2ForCausalLM, QWen1.5: Llama with biases on q, k and v; a window that published configs switch off."""
    reader = ConfigReader(config)
    reader.only(_SILU)
    windowed = reader.flag("use_sliding_window", default=False)
    num_layers = reader.count("num_hidden_layers")
    full_layers = reader.get("max_window_layers", num_layers) if windowed else num_layers
    if isinstance(full_layers, int) and 0 < full_layers < num_layers:
        raise unsupported("max_window_layers", full_layers, (0, num_layers))
    window = _read_window(reader, default=4096) if full_layers == 0 else None
    return base_spec(reader, "qwen2", qkv_bias=True, window=window)


def _read_window(reader: ConfigReader, *, default: int) -> int | None:
    """null: none. Layers of both kinds are refused."""
    kinds = reader.get("layer_types", [])
    if isinstance(kinds, list) and len(set(map(str, kinds))) > 1:
        raise unsupported("layer_types", "layers with and without a window", ("all of one kind",))
    if reader.config.get("sliding_window", default) is None:
        return None
    return reader.count("sliding_window", default=default)


def gemma_spec(config: Config) -> ModelSpec:
    """GemmaForCausalLM: scaled embeddings, norms stored as weight - 1, GELU gates, heads wider than hidden / heads."""
    reader = ConfigReader(config, {"hidden_act": "hidden_activation"} if config.get("hidden_activation") else {})
    reader.only({
        "hidden_act": ("gelu_pytorch_tanh", "gelu"),  # the first releases say gelu, and mean its tanh form
        "use_bidirectional_attention": (False,),
        "partial_rotary_factor": (1.0,),
    })  # fmt: skip
    bias = reader.flag("attention_bias", default=False)
    return base_spec(
        reader,
        "gemma",
        head_dim=reader.count("head_dim", default=256),
        qkv_bias=bias,
        output_bias=bias,
        tie_embeddings=reader.flag("tie_word_embeddings", default=True),
        bos_id=(*reader.ids("bos_token_id", default=2), None)[0],
        eos_ids=reader.ids("eos_token_id", default=1),
        activation="gelu_tanh",
        embedding_scale=math.sqrt(reader.count("hidden_size")),
        wide_norms=True,
    )


_QWEN_KEYS = {"rms_norm_eps": "layer_norm_epsilon", "head_dim": "kv_channels", "rope_theta": "rotary_emb_base"}


def qwen_spec(config: Config) -> ModelSpec:
    """QWenLMHeadModel: half the stated intermediate size, NTK in steps, queries that grow with log(position)."""
    reader = ConfigReader(config, _QWEN_KEYS)
    reader.only({
        "no_bias": (True,), "rotary_pct": (1.0,), "scale_attn_weights": (True,), "use_cache_quantization": (False,),
    })  # fmt: skip
    trained = reader.count("seq_length", default=reader.count("max_position_embeddings", default=8192))
    stepped = reader.flag("use_dynamic_ntk", default=True)
    base = reader.number("rope_theta", default=10000.0)
    return base_spec(
        reader,
        "qwen",
        intermediate=reader.count("intermediate_size") // 2,
        max_context=reader.count("max_position_embeddings", default=trained),
        rotary=RotarySpec(base, "stepped" if stepped else None, trained_context=trained),
        logn_context=trained if reader.flag("use_logn_attn", default=True) else None,
        qkv_bias=True,
        bos_id=(*reader.ids("bos_token_id"), None)[0],
        eos_ids=reader.ids("eos_token_id", default=151643),
    )


_ALIBI_HEADS = 40  # of the 13B


def baichuan_spec(config: Config) -> ModelSpec:
    """BaiChuanForCausalLM and BaichuanForCausalLM, 1 and 2: the 7B turns, the 13B has ALiBi."""
    turns = "BaiChuanForCausalLM" in config.get("architectures", [])
    absent = config.get("max_position_embeddings") is None
    reader = ConfigReader(config, {"max_position_embeddings": "model_max_length"} if absent else {})
    reader.only(_SILU)
    num_heads = reader.count("num_attention_heads")
    if turns or not (absent or num_heads == _ALIBI_HEADS):
        return base_spec(reader, "baichuan")
    return base_spec(reader, "baichuan", rotary=RotarySpec(fraction=0.0), alibi_slopes=alibi_slopes(num_heads))


_CHATGLM_KEYS = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "head_dim": "kv_channels",
    "vocab_size": "padded_vocab_size",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
}


def chatglm_spec(config: Config) -> ModelSpec:
    """ChatGLM2: half of each head turns, in neighbouring pairs; two kv heads; names of its own."""
    shared = config.get("multi_query_attention") is True
    reader = ConfigReader(config, _CHATGLM_KEYS | ({"num_key_value_heads": "multi_query_group_num"} if shared else {}))
    reader.only({
        "rmsnorm": (True,), "post_layer_norm": (True,), "apply_residual_connection_post_layernorm": (False,),
        "original_rope": (True,), "add_bias_linear": (False,), "pre_seq_len": (None,), "quantization_bit": (0,),
    })  # fmt: skip
    ratio = reader.number("rope_ratio", default=1.0)
    max_context = reader.count("max_position_embeddings", default=8192)
    return base_spec(
        reader,
        "chatglm",
        max_context=max_context,
        norm_eps=reader.number("rms_norm_eps", default=1e-5),
        rotary=RotarySpec(10000.0, "linear" if ratio != 1 else None, ratio, max_context, fraction=0.5),
        qkv_bias=reader.flag("add_qkv_bias", default=False),
        bos_id=(*reader.ids("bos_token_id"), None)[0],
    )


def falcon_spec(config: Config) -> ModelSpec:
    """FalconForCausalLM: 7B (one kv head, one norm), 40B and 180B (kv groups, two norms), RW (ALiBi, sequential)."""
    older = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}
    keys = {new: old for new, old in older.items() if new not in config and old in config}
    reader = ConfigReader(config, keys | {"rms_norm_eps": "layer_norm_epsilon", "intermediate_size": "ffn_hidden_size"})
    reader.only({"activation": ("gelu",)})
    num_heads, hidden = reader.count("num_attention_heads"), reader.count("hidden_size")
    alibi, bias = reader.flag("alibi", default=False), reader.flag("bias", default=False)
    layer, num_kv_heads = _falcon_kind(reader, num_heads)
    distances = {
        "rotary": RotarySpec(fraction=0.0),
        # added before scores are scaled, and with slopes as bfloat16 holds them
        "alibi_slopes": tuple(_as_bfloat16(slope) * (hidden // num_heads) ** -0.5 for slope in alibi_slopes(num_heads)),
    }
    return base_spec(
        reader,
        "falcon",
        num_kv_heads=num_kv_heads,
        intermediate=reader.count("intermediate_size", default=4 * hidden),
        norm_eps=reader.number("rms_norm_eps", default=1e-5),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tie_embeddings=reader.flag("tie_word_embeddings", default=True),
        bos_id=(*reader.ids("bos_token_id", default=11), None)[0],
        eos_ids=reader.ids("eos_token_id", default=11),
        layer=layer,
        norm="layer",
        norm_bias=True,
        mlp="plain",
        activation="gelu",
        **(distances if alibi else {}),
    )


def _falcon_kind(reader: ConfigReader, num_heads: int) -> tuple[str, int]:
    """(kind of layer, kv heads)."""
    if reader.flag("new_decoder_architecture", default=False):
        two_norms = reader.count("num_ln_in_parallel_attn", default=2) == 2
        return "parallel" if two_norms else "parallel_one_norm", reader.count("num_kv_heads", default=num_heads)
    parallel = reader.flag("parallel_attn", default=True)
    shared = reader.flag("multi_query", default=True)
    return "parallel_one_norm" if parallel else "sequential", 1 if shared else num_heads


def _as_bfloat16(value: float) -> float:
    """Eight significant bits, rounded to even as hardware does."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 256), exponent - 8)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8 i / n) for a power of two n; else those of the power below, and every other one of the next above."""
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return tuple(slopes + between[: num_heads - power])
