"""InternLM2 folders written by hand from a random Llama, the independent reference of these tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}
# Everything else that the published config.json of InternLM2-chat-1.8B says, verbatim.
PUBLISHED = {
    "architectures": ["InternLM2ForCausalLM"],
    "attn_implementation": "eager",
    "auto_map": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    },
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "internlm2",
    "pad_token_id": 2,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.0",
    "use_cache": True,
}
NAMES = (
    ("lm_head", "output"),
    ("embed_tokens", "tok_embeddings"),
    ("self_attn.o_proj", "attention.wo"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
)


@dataclass
class Pair:
    """A Llama in memory and the same model as an InternLM2 folder."""

    llama: LlamaForCausalLM
    folder: Path
    tensors: dict[str, torch.Tensor]

    def save(self) -> None:
        save_file(self.tensors, self.folder / "model.safetensors")


def fuse(tensors: dict[str, torch.Tensor], config: LlamaConfig) -> dict[str, torch.Tensor]:
    """Llama's names and projections to InternLM2's, one key/value head after the other."""
    kv_heads, dim = config.num_key_value_heads, config.head_dim
    per_kv = config.num_attention_heads // kv_heads
    fused = {}
    for name, tensor in tensors.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            k, v = tensors[name.replace("q_proj", "k_proj")], tensors[name.replace("q_proj", "v_proj")]
            rows = []
            for head in range(kv_heads):
                rows += [tensor[head * per_kv * dim : (head + 1) * per_kv * dim]]
                rows += [k[head * dim : (head + 1) * dim], v[head * dim : (head + 1) * dim]]
            fused[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(rows)
            continue
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        fused[name] = tensor.clone()
    return fused


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed for each run, printed where a test fails."""
    value = int(torch.seed() % 2**31)
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


@pytest.fixture
def make_pair(tmp_path: Path, seed: int) -> Callable[..., Pair]:
    def make(*, bias: bool = False, **settings: object) -> Pair:
        shape = {**SHAPE, **{key: value for key, value in settings.items() if key in SHAPE}}
        raw = {**PUBLISHED, **shape, **settings, "bias": bias}
        rope = {"rope_theta": raw["rope_theta"], "rope_scaling": raw["rope_scaling"]}
        llama = LlamaForCausalLM(LlamaConfig(**shape, **rope, attention_bias=bias)).eval()
        for parameter in llama.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / "internlm2"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(raw))
        pair = Pair(llama, folder, fuse(llama.state_dict(), llama.config))
        pair.save()
        return pair

    return make
