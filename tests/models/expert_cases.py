"""Tiny random checkpoints of the families with a mixture of experts, as published, with counts as odd as they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from lmcourse.kernels import Routing, route
from lmcourse.layers import moe
from lmcourse.spec import ExpertSpec

Shapes = dict[str, tuple[int, ...]]
HIDDEN, VOCAB, LAYERS, HEADS, HEAD_DIM = 30, 67, 3, 5, 6
CLEAR_GAP = 2e-4  # of a router's logits, which float32 gives within 1e-5: no other sum chooses another expert
COMMON = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@contextmanager
def watched_routers() -> Iterator[list[float]]:
    """Fills with the distance of the last expert chosen from the first one left, the least of each call of a router."""
    gaps: list[float] = []

    def watched(parts: Tensor, spec: ExpertSpec) -> Routing:
        logits = parts.float().sum(0)[:, : spec.count].sort(dim=1, descending=True).values
        if spec.chosen < spec.count:
            gaps.append(float((logits[:, spec.chosen - 1] - logits[:, spec.chosen]).min()))
        return route(parts, spec)

    with mock.patch.object(moe, "route", watched):
        yield gaps


def clearly_routed(draw: Callable[[], list[int]], run: Callable[[list[int]], object]) -> list[int]:
    """Ids of which none goes to an expert by a hair; run takes them through the model. Dense: the first drawn."""
    while True:
        ids = draw()
        with watched_routers() as gaps:
            run(ids)
        if min(gaps, default=1.0) > CLEAR_GAP:
            return ids


class ExpertCase(NamedTuple):
    """One kind of checkpoint; names are whole, as in the file."""

    config: dict
    shapes: Shapes
    truth: str | None  # a module of tests/references; None: transformers

    def draw(self) -> tuple[dict, dict[str, Tensor]]:
        tensors = {}
        for name, shape in self.shapes.items():
            spread, mean = (0.3, 0.05) if len(shape) == 2 else (0.2, 0.1 if name.endswith(".bias") else 0.9)
            tensors[name] = torch.randn(shape) * spread + mean
        return dict(self.config), tensors


def around(layer: Callable[[int], Shapes], kv_heads: int, *, biases: bool = False) -> Shapes:
    """Llama's names, with what `layer` gives in the place of the MLP."""
    shapes: Shapes = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }
    rows = {"q": HEADS * HEAD_DIM, "k": kv_heads * HEAD_DIM, "v": kv_heads * HEAD_DIM}
    for n in range(LAYERS):
        own: Shapes = {f"self_attn.{part}_proj.weight": (count, HIDDEN) for part, count in rows.items()}
        own |= {f"self_attn.{part}_proj.bias": (count,) for part, count in rows.items() if biases}
        own |= {"self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM)}
        own |= {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in (own | layer(n)).items()}
    return shapes


def mlp(name: str, width: int, parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")) -> Shapes:
    gate, up, down = (f"{name}.{part}.weight" for part in parts)
    return {gate: (width, HIDDEN), up: (width, HIDDEN), down: (HIDDEN, width)}


def experts(name: str, count: int, width: int, parts: tuple[str, str, str] | None = None) -> Shapes:
    found: Shapes = {}
    for e in range(count):
        found |= mlp(f"{name}.{e}", width, parts or ("gate_proj", "up_proj", "down_proj"))
    return found


def mixtral(**changes: object) -> ExpertCase:
    config = COMMON | {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_key_value_heads": 1,
        "intermediate_size": 22, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None,
    } | changes  # fmt: skip
    parts = ("w1", "w3", "w2")

    def layer(n: int) -> Shapes:
        gate: Shapes = {"block_sparse_moe.gate.weight": (5, HIDDEN)}
        return gate | experts("block_sparse_moe.experts", 5, 22, parts)

    return ExpertCase(config, around(layer, 1), None)


def qwen2_moe(**changes: object) -> ExpertCase:
    config = COMMON | {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "num_key_value_heads": 5,
        "intermediate_size": 44, "moe_intermediate_size": 14, "shared_expert_intermediate_size": 56, "num_experts": 7,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "decoder_sparse_step": 1, "use_sliding_window": False,
        "sliding_window": 4, "max_window_layers": 2, "mlp_only_layers": [],
    } | changes  # fmt: skip
    dense, step = config["mlp_only_layers"], config["decoder_sparse_step"]

    def layer(n: int) -> Shapes:
        if n in dense or (n + 1) % step:
            return mlp("mlp", 44)
        shapes: Shapes = {"mlp.gate.weight": (7, HIDDEN), "mlp.shared_expert_gate.weight": (1, HIDDEN)}
        shared = mlp("mlp.shared_expert", config["shared_expert_intermediate_size"])
        return shapes | shared | experts("mlp.experts", 7, 14)

    return ExpertCase(config, around(layer, 5, biases=True), None)


def deepseek(**changes: object) -> ExpertCase:
    config = COMMON | {
        "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "num_key_value_heads": 5,
        "intermediate_size": 44, "moe_intermediate_size": 14, "n_routed_experts": 7, "n_shared_experts": 2,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "scoring_func": "softmax", "attention_bias": False,
    } | changes  # fmt: skip
    first, freq = config["first_k_dense_replace"], config["moe_layer_freq"]

    def layer(n: int) -> Shapes:
        if n < first or n % freq:
            return mlp("mlp", 44)
        gate: Shapes = {"mlp.gate.weight": (7, HIDDEN)}
        return gate | mlp("mlp.shared_experts", 14 * config["n_shared_experts"]) | experts("mlp.experts", 7, 14)

    return ExpertCase(config, around(layer, 5), "deepseek")


def dbrx(**changes: object) -> ExpertCase:
    attention = {"kv_n_heads": 1, "clip_qkv": 0.7, "rope_theta": 500000.0, "attn_pdrop": 0.0, "model_type": ""}
    ffn = {
        "hidden_size": HIDDEN, "ffn_hidden_size": 22, "moe_num_experts": 5, "moe_top_k": 3, "moe_jitter_eps": 0.01,
        "moe_normalize_expert_weights": 1.0, "ffn_act_fn": {"name": "silu"}, "moe_loss_weight": 0.05, "model_type": "",
    }  # fmt: skip
    config = {
        "architectures": ["DbrxForCausalLM"], "model_type": "dbrx", "d_model": HIDDEN, "n_heads": HEADS,
        "n_layers": LAYERS, "max_seq_len": 256, "vocab_size": VOCAB, "tie_word_embeddings": False,
        "torch_dtype": "float32", "rope_theta": 500000.0, "attn_config": attention | changes.pop("attn_config", {}),
        "ffn_config": ffn | changes.pop("ffn_config", {}),
    } | changes  # fmt: skip
    shapes: Shapes = {
        "transformer.wte.weight": (VOCAB, HIDDEN),
        "transformer.norm_f.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }
    rows = (HEADS + 2) * HEAD_DIM
    for n in range(LAYERS):
        own: Shapes = {f"norm_attn_norm.norm_{i}.weight": (HIDDEN,) for i in (1, 2)}
        own |= {"norm_attn_norm.attn.Wqkv.weight": (rows, HIDDEN)}
        own |= {
            "norm_attn_norm.attn.out_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            "ffn.router.layer.weight": (5, HIDDEN),
        }
        own |= {f"ffn.experts.mlp.{part}": (5 * 22, HIDDEN) for part in ("w1", "v1", "w2")}
        shapes |= {f"transformer.blocks.{n}.{name}": shape for name, shape in own.items()}
    return ExpertCase(config, shapes, None)


EXPERT_CASES: dict[str, Callable[[], ExpertCase]] = {
    "Mixtral": mixtral,
    "Mixtral in a window": lambda: mixtral(sliding_window=11),
    "QWen1.5-MoE": qwen2_moe,
    "QWen1.5-MoE, uneven": lambda: qwen2_moe(
        shared_expert_intermediate_size=33, decoder_sparse_step=2, norm_topk_prob=True
    ),
    "QWen1.5-MoE, dense layers": lambda: qwen2_moe(mlp_only_layers=[0, 2]),
    "DeepSeek-MoE": deepseek,
    "DeepSeek-MoE, sparse": lambda: deepseek(moe_layer_freq=2, first_k_dense_replace=0, norm_topk_prob=True),
    "Dbrx": dbrx,
    "Dbrx, shares as they are": lambda: dbrx(ffn_config={"moe_normalize_expert_weights": None}),
}
