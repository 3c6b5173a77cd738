"""Which stored tensor is which part of the decoder, per family: names as published, one line per module.

    attention_norm, attention.qkv, attention.output, mlp_norm, mlp.…      of each layer, below the layers' prefix
    embedding, norm, head                                                 around them

Lesson: 2 (conversion, tensor by tensor), 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from torch.nn.functional import normalize

from lmcourse.models.layouts import TensorRule, gate_up_rows, pair_halves, qkv_rows, ungroup_qkv
from lmcourse.spec import ModelSpec

__all__ = [
    "BAICHUAN2_VOCAB",
    "BAICHUAN_RULES",
    "CHATGLM_RULES",
    "ENGINE_RULES",
    "FALCON_RULES",
    "GEMMA_RULES",
    "INTERNLM2_RULES",
    "LLAMA_RULES",
    "QWEN_RULES",
    "XCOMPOSER_RULES",
    "Rules",
    "changed_rules",
    "layer_rules",
    "rules_around",
]

Rules: TypeAlias = tuple[TensorRule, ...]


def layer_rules(prefix: str, *rules: TensorRule) -> Rules:
    """Rules of a layer's modules, with the layers' prefix before every name."""
    return tuple(
        replace(
            rule,
            module=f"layers.{{n}}.{rule.module}",
            sources=tuple(f"{prefix}.{{n}}.{source}" for source in rule.sources),
        )
        for rule in rules
    )


def rules_around(embedding: str, norm: str, head: str) -> Rules:
    """What is not in the layers."""
    return TensorRule("embedding", (embedding,)), TensorRule("norm", (norm,)), TensorRule("head", (head,))


def changed_rules(rules: Rules, *changes: TensorRule) -> Rules:
    """The rules with others in the place of those of the same modules."""
    new: Mapping[str, TensorRule] = {rule.module: rule for rule in changes}
    return tuple(new.get(rule.module, rule) for rule in rules)


_SEPARATE_QKV = TensorRule(
    "attention.qkv", tuple(f"self_attn.{part}_proj" for part in "qkv"), "q, k and v stacked", qkv_rows
)
_LLAMA_LAYER = (
    TensorRule("attention_norm", ("input_layernorm",)),
    _SEPARATE_QKV,
    TensorRule("attention.output", ("self_attn.o_proj",)),
    TensorRule("mlp_norm", ("post_attention_layernorm",)),
    TensorRule("mlp.gate_up", ("mlp.gate_proj", "mlp.up_proj"), "gate and up stacked", gate_up_rows),
    TensorRule("mlp.down", ("mlp.down_proj",)),
)
_LLAMA_AROUND = rules_around("model.embed_tokens", "model.norm", "lm_head")

LLAMA_RULES = layer_rules("model.layers", *_LLAMA_LAYER) + _LLAMA_AROUND

INTERNLM2_RULES = (
    *layer_rules(
        "model.layers",
        TensorRule("attention_norm", ("attention_norm",)),
        TensorRule(
            "attention.qkv",
            ("attention.wqkv",),
            "rows regrouped: [q q k v] per kv head to [Q | K | V]",
            arrange=ungroup_qkv,
        ),
        TensorRule("attention.output", ("attention.wo",)),
        TensorRule("mlp_norm", ("ffn_norm",)),
        TensorRule(
            "mlp.gate_up", ("feed_forward.w1", "feed_forward.w3"), "w1 (gate) and w3 (up) stacked", gate_up_rows
        ),
        TensorRule("mlp.down", ("feed_forward.w2",)),
    ),
    *rules_around("model.tok_embeddings", "model.norm", "output"),
)


def _is_pictured(spec: ModelSpec) -> bool:
    return spec.layer == "pictured"


def _ranks(count: int) -> Callable[[ModelSpec], tuple[int, ...]]:
    return lambda spec: (spec.picture_rank,) * count


def _added_rules(name: str, *linears: str, **how: Any) -> Rules:
    """Both factors of what is added to a matrix; how: what its rows go through."""
    reduce, expand = (tuple(f"{linear}.Plora_{half}" for linear in linears) for half in "AB")
    what = "for tokens of pictures"
    return (
        TensorRule(f"added.{name}.reduce", reduce, what, _ranks(len(linears)), applies=_is_pictured),
        TensorRule(f"added.{name}.expand", expand, what, applies=_is_pictured, **how),
    )


XCOMPOSER_RULES = (
    *(replace(rule, applies=_is_pictured) for rule in INTERNLM2_RULES),
    *layer_rules(
        "model.layers",
        *_added_rules("qkv", "attention.wqkv", arrange=ungroup_qkv),
        *_added_rules("output", "attention.wo"),
        *_added_rules("gate_up", "feed_forward.w1", "feed_forward.w3", source_rows=gate_up_rows),
        *_added_rules("down", "feed_forward.w2"),
    ),
    *LLAMA_RULES,
)

QWEN_RULES = (
    *layer_rules(
        "transformer.h",
        TensorRule("attention_norm", ("ln_1",)),
        TensorRule("attention.qkv", ("attn.c_attn",)),
        TensorRule("attention.output", ("attn.c_proj",)),
        TensorRule("mlp_norm", ("ln_2",)),
        TensorRule("mlp.gate_up", ("mlp.w2", "mlp.w1"), "w2 (gate) and w1 (up) stacked", gate_up_rows),
        TensorRule("mlp.down", ("mlp.c_proj",)),
    ),
    *rules_around("transformer.wte", "transformer.ln_f", "lm_head"),
)

BAICHUAN2_VOCAB = 125696


def _has_norm_head(spec: ModelSpec) -> bool:
    return spec.vocab == BAICHUAN2_VOCAB


BAICHUAN_RULES = (
    TensorRule("head", ("lm_head",), "rows brought to length 1 (NormHead)", compute=normalize, applies=_has_norm_head),
    *layer_rules("model.layers", *changed_rules(_LLAMA_LAYER, TensorRule("attention.qkv", ("self_attn.W_pack",)))),
    *_LLAMA_AROUND,
)

CHATGLM_RULES = (
    *layer_rules(
        "transformer.encoder.layers",
        TensorRule("attention_norm", ("input_layernorm",)),
        TensorRule(
            "attention.qkv",
            ("self_attention.query_key_value",),
            "features of q and k reordered: pairs half a head apart",
            arrange=pair_halves,
        ),
        TensorRule("attention.output", ("self_attention.dense",)),
        TensorRule("mlp_norm", ("post_attention_layernorm",)),
        TensorRule("mlp.gate_up", ("mlp.dense_h_to_4h",)),
        TensorRule("mlp.down", ("mlp.dense_4h_to_h",)),
    ),
    *rules_around(
        "transformer.embedding.word_embeddings", "transformer.encoder.final_layernorm", "transformer.output_layer"
    ),
)


def _has_two_norms(spec: ModelSpec) -> bool:
    return spec.layer == "parallel"


FALCON_RULES = (
    *layer_rules(
        "transformer.h",
        TensorRule("attention_norm", ("ln_attn",), applies=_has_two_norms),
        TensorRule("attention_norm", ("input_layernorm",)),
        TensorRule(
            "attention.qkv",
            ("self_attention.query_key_value",),
            "rows regrouped: [q q k v] per kv head to [Q | K | V]",
            arrange=ungroup_qkv,
        ),
        TensorRule("attention.output", ("self_attention.dense",)),
        TensorRule("mlp_norm", ("ln_mlp",), applies=_has_two_norms),
        TensorRule("mlp_norm", ("post_attention_layernorm",)),
        TensorRule("mlp.up", ("mlp.dense_h_to_4h",)),
        TensorRule("mlp.down", ("mlp.dense_4h_to_h",)),
    ),
    *rules_around("transformer.word_embeddings", "transformer.ln_f", "lm_head"),
)

GEMMA_RULES = tuple(
    TensorRule(rule.module, rule.sources, "1 added", compute=lambda weight: 1 + weight)
    if rule.module.endswith("norm")
    else rule
    for rule in LLAMA_RULES
)

_EXPERT_MODULES = tuple(f"layers.{{n}}.mlp.{module}" for module in ("router", "experts_gate_up", "experts_down"))
_MODULES = dict.fromkeys([*(rule.module for rules in (LLAMA_RULES, FALCON_RULES) for rule in rules), *_EXPERT_MODULES])
ENGINE_RULES = tuple(TensorRule(module, (module,), what="as it is") for module in _MODULES)
