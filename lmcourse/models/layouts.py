"""How stored tensors become canonical weights: per family, one rule per module of the decoder.

A rule stacks the rows of its sources in order, and may then put the rows in another order:

    llama       q_proj ┐                     internlm2    wqkv, grouped by kv head
                k_proj ├ stacked → [Q|K|V]                [q q k v | q q k v | …] → [Q|K|V]
                v_proj ┘

"{n}" stands for the layer's number; ".weight" or ".bias" is added to both sides.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from lmcourse.spec import ModelSpec

__all__ = ["ENGINE_RULES", "INTERNLM2_RULES", "LLAMA_RULES", "StoredTensor", "TensorRule", "stored_tensors"]


@dataclass(frozen=True)
class TensorRule:
    """Where one canonical module's weight and bias come from."""

    module: str
    sources: tuple[str, ...]
    what: str = "renamed"  # in words, for people who watch a conversion
    source_rows: Callable[[ModelSpec], tuple[int, ...]] | None = None  # None: one source holds all rows
    arrange: Callable[[Tensor, ModelSpec], Tensor] | None = None


@dataclass(frozen=True)
class StoredTensor:
    """One canonical tensor and the stored ones that it is made of."""

    name: str
    sources: tuple[str, ...]
    rule: TensorRule


def stored_tensors(rules: tuple[TensorRule, ...], canonical: str) -> StoredTensor:
    """The rule of a canonical tensor, with the layer's number and the leaf (weight or bias) filled in."""
    module, leaf = canonical.rsplit(".", 1)
    parts = module.split(".")
    number = parts[1] if parts[0] == "layers" else ""
    pattern = ".".join(["layers", "{n}", *parts[2:]]) if number else module
    rule = next(rule for rule in rules if rule.module == pattern)
    return StoredTensor(canonical, tuple(f"{source.replace('{n}', number)}.{leaf}" for source in rule.sources), rule)


def _qkv_rows(spec: ModelSpec) -> tuple[int, ...]:
    return tuple(heads * spec.head_dim for heads in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads))


def _gate_up_rows(spec: ModelSpec) -> tuple[int, ...]:
    return (spec.intermediate, spec.intermediate)


def _ungroup_qkv(stored: Tensor, spec: ModelSpec) -> Tensor:
    """[q … q k v] per kv head → [all q | all k | all v]; works for a weight's rows and for a bias."""
    groups = rearrange(stored, "(kv part d) ... -> kv part d ...", kv=spec.num_kv_heads, d=spec.head_dim)
    queries, keys, values = torch.split(groups, [spec.queries_per_kv, 1, 1], dim=1)
    return torch.cat([rearrange(part, "kv part d ... -> (kv part d) ...") for part in (queries, keys, values)])


LLAMA_RULES = (
    TensorRule("embedding", ("model.embed_tokens",)),
    TensorRule("layers.{n}.attention_norm", ("model.layers.{n}.input_layernorm",)),
    TensorRule(
        "layers.{n}.attention.qkv",
        tuple(f"model.layers.{{n}}.self_attn.{part}_proj" for part in "qkv"),
        what="q, k and v stacked",
        source_rows=_qkv_rows,
    ),
    TensorRule("layers.{n}.attention.output", ("model.layers.{n}.self_attn.o_proj",)),
    TensorRule("layers.{n}.mlp_norm", ("model.layers.{n}.post_attention_layernorm",)),
    TensorRule(
        "layers.{n}.mlp.gate_up",
        tuple(f"model.layers.{{n}}.mlp.{part}_proj" for part in ("gate", "up")),
        what="gate and up stacked",
        source_rows=_gate_up_rows,
    ),
    TensorRule("layers.{n}.mlp.down", ("model.layers.{n}.mlp.down_proj",)),
    TensorRule("norm", ("model.norm",)),
    TensorRule("head", ("lm_head",)),
)

INTERNLM2_RULES = (
    TensorRule("embedding", ("model.tok_embeddings",)),
    TensorRule("layers.{n}.attention_norm", ("model.layers.{n}.attention_norm",)),
    TensorRule(
        "layers.{n}.attention.qkv",
        ("model.layers.{n}.attention.wqkv",),
        what="rows regrouped: [q q k v] per kv head to [Q | K | V]",
        arrange=_ungroup_qkv,
    ),
    TensorRule("layers.{n}.attention.output", ("model.layers.{n}.attention.wo",)),
    TensorRule("layers.{n}.mlp_norm", ("model.layers.{n}.ffn_norm",)),
    TensorRule(
        "layers.{n}.mlp.gate_up",
        ("model.layers.{n}.feed_forward.w1", "model.layers.{n}.feed_forward.w3"),
        what="w1 (gate) and w3 (up) stacked",
        source_rows=_gate_up_rows,
    ),
    TensorRule("layers.{n}.mlp.down", ("model.layers.{n}.feed_forward.w2",)),
    TensorRule("norm", ("model.norm",)),
    TensorRule("head", ("output",)),
)

ENGINE_RULES = tuple(TensorRule(rule.module, (rule.module,), what="as it is") for rule in LLAMA_RULES)
