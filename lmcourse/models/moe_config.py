"""config.json → ModelSpec for families with a mixture of experts.

              experts   chosen   shares              besides, for every token
    Mixtral      8        2      renormalised        –
    QWen1.5-MoE  60       4      as they are         one expert four times as wide, with a gate
    DeepSeek     64       6      as they are         two experts; layer 0 has a plain MLP
    Dbrx         16       4      renormalised        –

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lmcourse.models.config_reader import ConfigReader, unsupported, wrong_value
from lmcourse.models.hf_config import base_spec, mistral_spec, qwen2_spec
from lmcourse.spec import ExpertSpec, ModelSpec, RotarySpec

__all__ = ["dbrx_spec", "deepseek_spec", "mixtral_spec", "qwen2_moe_spec"]

Config = Mapping[str, Any]
_SILU = {"hidden_act": ("silu", "swish")}


def mixtral_spec(config: Config) -> ModelSpec:
    """MixtralForCausalLM: Mistral's attention."""
    reader = ConfigReader({"sliding_window": None} | dict(config))
    experts = _checked(
        ExpertSpec(
            count=reader.count("num_local_experts", default=8),
            chosen=reader.count("num_experts_per_tok", default=2),
            intermediate=reader.count("intermediate_size"),
            renormalise=True,
        ),
    )
    return replace(mistral_spec(reader.config), family="mixtral", experts=experts)


def qwen2_moe_spec(config: Config) -> ModelSpec:
    """Qwen2MoeForCausalLM, QWen1.5-MoE: QWen1.5's attention."""
    reader = ConfigReader(config)
    spec = qwen2_spec(config)
    step, listed = reader.count("decoder_sparse_step", default=1), _layer_numbers(reader, "mlp_only_layers")
    width = reader.count("moe_intermediate_size", default=1408)
    experts = _checked(
        ExpertSpec(
            count=reader.count("num_experts", default=60),
            chosen=reader.count("num_experts_per_tok", default=4),
            intermediate=width,
            renormalise=reader.flag("norm_topk_prob", default=False),
            shared_intermediate=reader.count("shared_expert_intermediate_size", default=5632),
            shared_gate=True,
            dense_layers=_dense(spec.num_layers, lambda n: n in listed or (n + 1) % step != 0),
        ),
    )
    return replace(spec, family="qwen2_moe", experts=experts, qkv_bias=reader.flag("qkv_bias", default=True))


def deepseek_spec(config: Config) -> ModelSpec:
    """DeepseekForCausalLM, DeepSeek-MoE: Llama's attention; the first layers have a plain MLP."""
    reader = ConfigReader(config)
    reader.only(_SILU | {"scoring_func": ("softmax",), "topk_method": ("greedy",), "routed_scaling_factor": (1.0, 1)})
    bias = reader.flag("attention_bias", default=False)
    spec = base_spec(reader, "deepseek", qkv_bias=bias, output_bias=bias)
    if reader.get("n_routed_experts") is None:
        return spec
    first, step = reader.whole("first_k_dense_replace"), reader.count("moe_layer_freq", default=1)
    width = reader.count("moe_intermediate_size", default=1407)
    experts = ExpertSpec(
        count=reader.count("n_routed_experts"),
        chosen=reader.count("num_experts_per_tok"),
        intermediate=width,
        renormalise=reader.flag("norm_topk_prob", default=False),
        shared_intermediate=width * reader.whole("n_shared_experts"),
        dense_layers=_dense(spec.num_layers, lambda n: n < first or n % step != 0),
    )
    return replace(spec, experts=_checked(experts))


_DBRX_KEYS = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "max_seq_len",
}


def dbrx_spec(config: Config) -> ModelSpec:
    """DbrxForCausalLM: layer norm without bias, clamped queries, keys and values, experts stacked in three tensors."""
    reader = ConfigReader(config, _DBRX_KEYS)
    attention, mlp = (ConfigReader(reader.table(name)) for name in ("attn_config", "ffn_config"))
    act = mlp.table("ffn_act_fn").get("name", "silu")
    if act != "silu":
        raise unsupported("ffn_config.ffn_act_fn.name", act, ("silu",))
    power = mlp.config.get("moe_normalize_expert_weights", 1.0)  # null: shares stay as they are
    if power is not None and power != 1:
        raise unsupported("ffn_config.moe_normalize_expert_weights", power, (1.0, None))
    width = mlp.count("ffn_hidden_size", default=3584)
    experts = ExpertSpec(
        count=mlp.count("moe_num_experts", default=4),
        chosen=mlp.count("moe_top_k", default=1),
        intermediate=width,
        renormalise=power is not None,
    )
    max_context = reader.count("max_position_embeddings", default=2048)
    clipped = attention.get("clip_qkv") is not None
    return base_spec(
        reader,
        "dbrx",
        num_kv_heads=attention.count("kv_n_heads", default=1),
        intermediate=width,
        norm_eps=1e-5,  # what torch's layer norm has unless told otherwise
        norm="layer",
        rotary=RotarySpec(attention.number("rope_theta", default=10000.0), trained_context=max_context),
        clip_qkv=attention.number("clip_qkv", default=8.0) if clipped else None,
        bos_id=(*reader.ids("bos_token_id"), None)[0],
        eos_ids=reader.ids("eos_token_id"),
        experts=_checked(experts),
    )


def _dense(num_layers: int, is_dense: Callable[[int], bool]) -> tuple[int, ...]:
    return tuple(number for number in range(num_layers) if is_dense(number))


def _layer_numbers(reader: ConfigReader, name: str) -> tuple[int, ...]:
    stated = reader.get(name, [])
    if not isinstance(stated, list) or not all(type(number) is int for number in stated):
        raise wrong_value(reader.key(name), "a list of layer numbers", stated)
    return tuple(stated)


def _checked(experts: ExpertSpec) -> ExpertSpec:
    if experts.chosen > experts.count:
        raise wrong_value("the number of experts per token", f"at most {experts.count} experts", experts.chosen)
    return experts
