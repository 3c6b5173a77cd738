"""The family table, and configs as their publishers wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.models import FAMILIES, find_family
from lmcourse.models.decoder import meta_decoder
from lmcourse.spec import RotarySpec

INTERNLM2_CHAT_1_8B = json.loads((Path(__file__).parents[1] / "internlm2_chat_1_8b.json").read_text(encoding="utf-8"))


def llama_config(**changes):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
    }
    return {key: value for key, value in (config | changes).items() if value is not ...}


def read(config):
    return find_family(config).layout.read_spec(config)


def test_families_are_the_lessons_21():
    assert len(FAMILIES) == len({family.name for family in FAMILIES}) == 21
    assert {family.status for family in FAMILIES} == {"runs"}


def test_internlm2_published_config_full_size():
    spec = read(INTERNLM2_CHAT_1_8B)
    assert sum(weight.numel() for weight in meta_decoder(spec).parameters()) == 1_889_110_016
    assert spec.rotary == RotarySpec(1e6, "dynamic", 2.0, 32768)
    assert (spec.head_dim, spec.queries_per_kv, spec.dtype, spec.qkv_bias) == (128, 2, "bfloat16", False)


def test_internlm2_published_config_runs_with_random_weights(write, load, open_session):
    config = INTERNLM2_CHAT_1_8B | {"num_hidden_layers": 1, "vocab_size": 512}
    layer = "model.layers.0."
    shapes = {
        "model.tok_embeddings": (512, 2048),
        f"{layer}attention_norm": (2048,),
        f"{layer}attention.wqkv": (4096, 2048),
        f"{layer}attention.wo": (2048, 2048),
        f"{layer}ffn_norm": (2048,),
        f"{layer}feed_forward.w1": (8192, 2048),
        f"{layer}feed_forward.w2": (2048, 8192),
        f"{layer}feed_forward.w3": (8192, 2048),
        "model.norm": (2048,),
        "output": (512, 2048),
    }
    tensors = {f"{name}.weight": (torch.randn(shape) * 0.02).bfloat16() for name, shape in shapes.items()}
    decoder = load(write((config, tensors)), dtype=torch.bfloat16)
    logits = open_session(decoder).step({"only": list(range(9))})["only"]
    assert logits.shape == (9, 512)
    assert logits.isfinite().all()


def test_llama_oldest_config_gets_its_defaults():
    spec = read(llama_config())
    assert (spec.num_kv_heads, spec.head_dim, spec.max_context) == (32, 128, 2048)
    assert spec.rotary == RotarySpec(10000.0, None, 1.0, 2048)
    assert (spec.bos_id, spec.eos_ids, spec.pad_id, spec.dtype) == (1, (2,), None, "float16")


@pytest.mark.parametrize(
    ("changes", "rotary"),
    [
        ({"rope_theta": 1e6}, RotarySpec(1e6, None, 1.0, 2048)),
        ({"rope_scaling": None, "rope_theta": 5e6}, RotarySpec(5e6, None, 1.0, 2048)),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, RotarySpec(1e4, "linear", 4.0, 2048)),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}}, RotarySpec(1e4, "dynamic", 3.0, 2048)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, RotarySpec(7.0, None, 1.0, 2048)),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 8.0, "factor": 2.0}, "rope_theta": 9.0},
            RotarySpec(8.0, "dynamic", 2.0, 2048),
        ),
    ],
)
def test_llama_rotary_settings_of_any_age(changes, rotary):
    assert read(llama_config(**changes)).rotary == rotary


def test_llama_lists_of_ids_and_torch_dtype_names():
    spec = read(llama_config(eos_token_id=[2, 7], bos_token_id=None, pad_token_id=-1, torch_dtype="torch.bfloat16"))
    assert (spec.eos_ids, spec.bos_id, spec.pad_id, spec.dtype) == ((2, 7), None, None, "bfloat16")


def test_find_family_without_architectures_goes_by_model_type():
    assert find_family({"model_type": "internlm2"}).name == "InternLM2"
    assert find_family({"model_type": "llama", "architectures": None}).name == "Llama"


def test_find_family_qwen_with_eyes_is_another_row():
    config = {"architectures": ["QWenLMHeadModel"]}
    assert (find_family(config).name, find_family({**config, "visual": {}}).name) == ("QWen", "QWen-VL")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "no family of the table"),
        ({"architectures": ["Mistral3ForCausalLM"]}, "nearest is Mistral "),
        ({"architectures": ["InternLM3ForCausalLM"]}, "nearest is InternLM"),
        ({"model_type": "bert"}, "no family of the table"),
        ({}, "no family of the table"),
        (llama_config(quantization_config={"quant_method": "awq", "version": "gemv"}), "auto_awq"),
        (llama_config(quantization_config={"quant_method": "gptq"}), "fp16 folder"),
    ],
)
def test_find_family_what_does_not_run_is_named(config, message):
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        find_family(config)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1.0, "partial_rotary_factor": 0.5}},
    ],
)
def test_read_spec_unknown_arithmetic_is_refused(changes):
    with pytest.raises(UnsupportedModelError):
        read(llama_config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": ...},
        {"hidden_size": "4096"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"num_attention_heads": 33},
        {"rms_norm_eps": float("nan")},
        {"rope_theta": -1.0},
        {"rope_theta": 10**400},
        {"rope_scaling": "linear"},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"eos_token_id": "</s>"},
        {"tie_word_embeddings": "no"},
        {"torch_dtype": "int8"},
        {"vocab_size": 1.5},
    ],
)
def test_read_spec_wrong_value_says_which(changes):
    with pytest.raises(CheckpointError) as caught:
        read(llama_config(**changes))
    assert caught.value.expected
    assert "config.json" in caught.value.where


@pytest.mark.parametrize(
    ("architecture", "option", "value"),
    [
        ("FalconForCausalLM", "activation", "relu"),
        ("GemmaForCausalLM", "hidden_act", "relu"),
        ("GemmaForCausalLM", "use_bidirectional_attention", True),
        ("ChatGLMModel", "rmsnorm", False),
        ("ChatGLMModel", "add_bias_linear", True),
        ("QWenLMHeadModel", "no_bias", False),
        ("QWenLMHeadModel", "rotary_pct", 0.5),
        ("InternLMForCausalLM", "rotary", {"type": "spiral"}),
        ("BaichuanForCausalLM", "hidden_act", "gelu"),
        ("MistralForCausalLM", "layer_types", ["full_attention", "sliding_attention"]),
        ("MistralForCausalLM", "rope_scaling", {"rope_type": "longrope"}),
    ],
)
def test_unsupported_option_of_a_known_family_is_named(architecture, option, value):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = sizes | {
        "padded_vocab_size": 9,
        "intermediate_size": 8,
        "ffn_hidden_size": 8,
        "architectures": [architecture],
    }
    read(config)
    with pytest.raises(UnsupportedModelError) as caught:
        read(config | {option: value})
    assert option in str(caught.value) or "type" in str(caught.value)


def test_qwen2_window_of_all_layers_is_read_and_of_some_is_refused():
    config = llama_config(architectures=["Qwen2ForCausalLM"], sliding_window=64, use_sliding_window=True)
    assert read(config | {"max_window_layers": 0}).window == 64
    assert read(config | {"max_window_layers": 32}).window is None
    with pytest.raises(UnsupportedModelError, match="max_window_layers"):
        read(config | {"max_window_layers": 20})


def test_falcon_keys_of_any_age():
    shared = {"architectures": ["RWForCausalLM"], "hidden_size": 24, "vocab_size": 9, "multi_query": True}
    older = read(shared | {"n_head": 3, "n_layer": 2})
    assert older == read(shared | {"num_attention_heads": 3, "num_hidden_layers": 2})
    assert (older.num_kv_heads, older.layer, older.intermediate) == (1, "parallel_one_norm", 96)


def test_baichuan_rows_are_told_apart():
    config = llama_config(architectures=["BaichuanForCausalLM"], max_position_embeddings=64)
    assert find_family(config).name == "Baichuan"
    assert find_family(config | {"vocab_size": 125696}).name == "Baichuan2"
    assert find_family({"architectures": ["QWenLMHeadModel"]}).name == "QWen"


def test_internlm_rotary_key_of_its_own():
    config = llama_config(architectures=["InternLMForCausalLM"], rotary={"base": 7, "type": "dynamic"})
    assert read(config).rotary == RotarySpec(7.0, "dynamic", 1.0, 2048)
    assert read(config | {"rotary": {"type": "origin"}}).rotary == RotarySpec(1e4, None, 1.0, 2048)
