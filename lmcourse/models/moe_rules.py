"""Which stored tensors are which part of a mixture of experts, per family.

    mlp.router             rows: one per expert, and the shared expert's gate below them
    mlp.experts_gate_up    for each expert [gate | up], shared ones last
    mlp.experts_down       for each expert [hidden, width], shared ones last

Most families store a tensor per expert; Dbrx stores all experts in three. A shared expert is as wide as several: it is
cut into pieces of the common width, the last of which may be padded with zeros, which add nothing.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from lmcourse.models.family_rules import LLAMA_RULES, Rules, changed_rules, layer_rules, rules_around
from lmcourse.models.layouts import TensorRule, qkv_rows
from lmcourse.spec import ExpertSpec, ModelSpec

__all__ = ["DBRX_RULES", "DBRX_SEPARATE_RULES", "DBRX_STACK", "DEEPSEEK_RULES", "MIXTRAL_RULES", "QWEN2_MOE_RULES"]


def _experts(spec: ModelSpec) -> ExpertSpec:
    assert spec.experts is not None, "rules of experts are for models that have some"
    return spec.experts


def _gate_up_rows(spec: ModelSpec) -> tuple[int, ...]:
    experts = _experts(spec)
    shared = (experts.shared_intermediate,) * 2 if experts.num_shared else ()
    return (experts.intermediate,) * (2 * experts.count) + shared


def _down_shapes(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    experts = _experts(spec)
    shared = ((spec.hidden, experts.shared_intermediate),) if experts.num_shared else ()
    return ((spec.hidden, experts.intermediate),) * experts.count + shared


def _cut_shared_rows(stored: Tensor, spec: ModelSpec) -> Tensor:
    """[…experts | gate of all shared | up of all shared] → […experts | gate, up of each shared]."""
    experts = _experts(spec)
    routed = 2 * experts.count * experts.intermediate
    both = rearrange(stored[routed:], "(part width) ... -> part width ...", part=2)
    missing = experts.num_shared * experts.intermediate - both.shape[1]
    filled = pad(both, (0, 0, 0, missing))
    pieces = rearrange(filled, "part (piece width) ... -> (piece part width) ...", piece=experts.num_shared)
    return torch.cat((stored[:routed], pieces))


def _cut_shared_columns(parts: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    """Experts' rows one below the other; the shared matrix, the last part, is cut into pieces as wide as theirs."""
    width, missing = parts[0].shape[1], _experts(spec).num_shared * parts[0].shape[1] - parts[-1].shape[1]
    return torch.cat((*parts[:-1], *torch.split(pad(parts[-1], (0, missing)), width, dim=1)))


def _routed_and_shared(router: tuple[str, ...], experts: str, shared: str) -> Rules:
    """Experts as MLPs of Llama's names, each in tensors of its own, and one more that every token takes."""
    names = ("gate_proj", "up_proj")
    return (
        TensorRule("mlp.router", router, source_rows=_router_rows if len(router) > 1 else None),
        TensorRule(
            "mlp.experts_gate_up",
            (*(f"{experts}.{{e}}.{name}" for name in names), *(f"{shared}.{name}" for name in names)),
            "gate and up of each expert stacked, the shared expert in pieces below",
            _gate_up_rows,
            arrange=_cut_shared_rows,
        ),
        TensorRule(
            "mlp.experts_down",
            (f"{experts}.{{e}}.down_proj", f"{shared}.down_proj"),
            "experts stacked, the shared expert in pieces below",
            source_shapes=_down_shapes,
            join=_cut_shared_columns,
        ),
    )


def _router_rows(spec: ModelSpec) -> tuple[int, int]:
    return _experts(spec).count, 1


MIXTRAL_RULES = LLAMA_RULES + layer_rules(
    "model.layers",
    TensorRule("mlp.router", ("block_sparse_moe.gate",)),
    TensorRule(
        "mlp.experts_gate_up",
        ("block_sparse_moe.experts.{e}.w1", "block_sparse_moe.experts.{e}.w3"),
        "w1 (gate) and w3 (up) of each expert stacked",
        _gate_up_rows,
    ),
    TensorRule(
        "mlp.experts_down",
        ("block_sparse_moe.experts.{e}.w2",),
        "w2 of the experts stacked",
        lambda spec: (spec.hidden,) * _experts(spec).count,
    ),
)

QWEN2_MOE_RULES = LLAMA_RULES + layer_rules(
    "model.layers",
    *_routed_and_shared(("mlp.gate", "mlp.shared_expert_gate"), "mlp.experts", "mlp.shared_expert"),
)

DEEPSEEK_RULES = LLAMA_RULES + layer_rules(
    "model.layers",
    *_routed_and_shared(("mlp.gate",), "mlp.experts", "mlp.shared_experts"),
)


def _all_rows(spec: ModelSpec) -> int:
    return _experts(spec).count * _experts(spec).intermediate


def _pair_experts(stored: Tensor, spec: ModelSpec) -> Tensor:
    """[gate of all experts | up of all] → for each expert [gate | up]."""
    return rearrange(stored, "(part e width) ... -> (e part width) ...", part=2, e=_experts(spec).count)


def _turn_experts(parts: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    """Each expert's [width, hidden] → [hidden, width]."""
    return rearrange(parts[0], "(e width) h -> (e h) width", e=_experts(spec).count).contiguous()


DBRX_RULES = (
    *layer_rules(
        "transformer.blocks",
        TensorRule("attention_norm", ("norm_attn_norm.norm_1",)),
        TensorRule("attention.qkv", ("norm_attn_norm.attn.Wqkv",)),
        TensorRule("attention.output", ("norm_attn_norm.attn.out_proj",)),
        TensorRule("mlp_norm", ("norm_attn_norm.norm_2",)),
        TensorRule("mlp.router", ("ffn.router.layer",)),
        TensorRule(
            "mlp.experts_gate_up",
            ("ffn.experts.mlp.w1", "ffn.experts.mlp.v1"),
            "w1 (gate) and v1 (up) of each expert brought together",
            lambda spec: (_all_rows(spec),) * 2,
            arrange=_pair_experts,
            bare=True,
        ),
        TensorRule(
            "mlp.experts_down",
            ("ffn.experts.mlp.w2",),
            "w2 of each expert turned",
            source_shapes=lambda spec: ((_all_rows(spec), spec.hidden),),
            join=_turn_experts,
            bare=True,
        ),
    ),
    *rules_around("transformer.wte", "transformer.norm_f", "lm_head"),
)

DBRX_STACK = "ffn.experts.mlp"

# A matrix for each expert, and for q, k and v: checkpoints converted so that they can be packed.
DBRX_SEPARATE_RULES = changed_rules(
    DBRX_RULES,
    *layer_rules(
        "transformer.blocks",
        TensorRule(
            "attention.qkv", tuple(f"norm_attn_norm.attn.{part}_proj" for part in "qkv"), "q, k and v stacked", qkv_rows
        ),
        TensorRule(
            "mlp.experts_gate_up",
            (f"{DBRX_STACK}.{{e}}.w1", f"{DBRX_STACK}.{{e}}.v1"),
            "w1 (gate) and v1 (up) of each expert stacked",
            _gate_up_rows,
        ),
        TensorRule(
            "mlp.experts_down",
            (f"{DBRX_STACK}.{{e}}.w2",),
            "w2 of the experts stacked",
            lambda spec: (spec.hidden,) * _experts(spec).count,
        ),
    ),
)
