"""Configs of families with experts, as published; what they may not say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from expert_cases import EXPERT_CASES, dbrx, deepseek, mixtral, qwen2_moe

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.models import find_family
from lmcourse.models.decoder import meta_decoder
from lmcourse.spec import ExpertSpec, RotarySpec

PUBLISHED = {
    "Mixtral": {
        "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 1e6,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768, "sliding_window": None,
    },
    "DeepSeek-MoE": {
        "architectures": ["DeepseekForCausalLM"], "hidden_size": 2048, "intermediate_size": 10944, "vocab_size": 102400,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "moe_intermediate_size": 1408,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "norm_topk_prob": False, "scoring_func": "softmax", "bos_token_id": 100000, "eos_token_id": 100001,
    },
    "Dbrx": {
        "architectures": ["DbrxForCausalLM"], "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
        "max_seq_len": 32768, "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
}  # fmt: skip
PARAMETERS = {"Mixtral": 46_702_792_704, "DeepSeek-MoE": 16_375_728_128, "Dbrx": 131_596_523_520}


def read(config):
    return find_family(config).layout.read_spec(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_config_full_size(name):
    assert find_family(PUBLISHED[name]).name == name
    spec = read(PUBLISHED[name])
    assert sum(weight.numel() for weight in meta_decoder(spec).parameters()) == PARAMETERS[name]


def test_readers_give_what_the_families_are_known_for():
    assert read(PUBLISHED["Mixtral"]).experts == ExpertSpec(8, 2, 14336, renormalise=True)
    assert read(PUBLISHED["Mixtral"]).window is None
    assert read(PUBLISHED["DeepSeek-MoE"]).experts == ExpertSpec(
        64, 6, 1408, shared_intermediate=2816, dense_layers=(0,)
    )
    published = read(PUBLISHED["Dbrx"])
    assert (published.clip_qkv, published.num_kv_heads, published.norm, published.norm_bias) == (8.0, 8, "layer", False)
    assert published.rotary == RotarySpec(500000.0, trained_context=32768)
    assert read(qwen2_moe(decoder_sparse_step=2, mlp_only_layers=[1]).config).experts.dense_layers == (0, 1, 2)


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (mixtral(hidden_act="relu").config, "hidden_act"),
        (mixtral(rope_scaling={"rope_type": "longrope"}).config, "rope"),
        (deepseek(scoring_func="sigmoid").config, "scoring_func"),
        (deepseek(routed_scaling_factor=2.5).config, "routed_scaling_factor"),
        (dbrx(ffn_config={"ffn_act_fn": {"name": "gelu"}}).config, "ffn_act_fn"),
        (dbrx(ffn_config={"moe_normalize_expert_weights": 2.0}).config, "moe_normalize_expert_weights"),
    ],
)
def test_unsupported_option_is_named(config, option):
    with pytest.raises(UnsupportedModelError) as caught:
        read(config)
    assert option in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        mixtral(num_experts_per_tok=6).config,
        mixtral(num_local_experts="8").config,
        qwen2_moe().config | {"mlp_only_layers": "0"},
        deepseek().config | {"n_shared_experts": -1},
        dbrx().config | {"ffn_config": []},
    ],
)
def test_wrong_value_says_which(config):
    with pytest.raises(CheckpointError, match="wrong"):
        read(config)


def test_unknown_architecture_names_the_nearest_family():
    with pytest.raises(UnsupportedModelError, match="nearest is QWen1"):
        find_family({"architectures": ["Qwen3MoeForCausalLM"]})


@pytest.mark.parametrize("name", ["Mixtral", "QWen1.5-MoE, uneven", "DeepSeek-MoE", "Dbrx"])
def test_random_checkpoint_has_the_published_tensors(name, write, load, open_session):
    case = EXPERT_CASES[name]()
    folder = write(case.draw())
    (folder / "model.safetensors").unlink()
    (folder / "random_weights.json").write_text('{"seed": 3}')
    from lmcourse.models.loading import open_checkpoint

    drawn = open_checkpoint(folder, torch.device("cpu"))
    assert {name: info.shape for name, info in drawn.tensors.items()} == case.shapes
    assert open_session(load(folder)).step({"a": [1, 2, 3], "b": [4]})["a"].isfinite().all()
