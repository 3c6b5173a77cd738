"""Tiny random checkpoints in Hugging Face format, and steps run over a paged cache by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.models import Decoder, load_decoder

sys.path.append(str(Path(__file__).parent))  # where ranks_in_threads is

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 131,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed per run, printed when the test fails."""
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


def llama_tensors(config: dict) -> dict[str, Tensor]:
    """Random weights under the names of LlamaForCausalLM."""
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes = {
        "model.embed_tokens": (config["vocab_size"], hidden),
        "model.norm": (hidden,),
        "lm_head": (config["vocab_size"], hidden),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        shapes |= {
            f"{layer}.input_layernorm": (hidden,),
            f"{layer}.post_attention_layernorm": (hidden,),
            f"{layer}.self_attn.q_proj": (heads * head_dim, hidden),
            f"{layer}.self_attn.k_proj": (kv_heads * head_dim, hidden),
            f"{layer}.self_attn.v_proj": (kv_heads * head_dim, hidden),
            f"{layer}.self_attn.o_proj": (hidden, heads * head_dim),
            f"{layer}.mlp.gate_proj": (config["intermediate_size"], hidden),
            f"{layer}.mlp.up_proj": (config["intermediate_size"], hidden),
            f"{layer}.mlp.down_proj": (hidden, config["intermediate_size"]),
        }
    tensors = {
        f"{name}.weight": torch.randn(shape) * 0.2 if len(shape) == 2 else 1 + 0.1 * torch.randn(shape)
        for name, shape in shapes.items()
    }
    if config.get("attention_bias"):
        attention = [name for name in shapes if "self_attn" in name]
        tensors |= {f"{name}.bias": torch.randn(shapes[name][0]) * 0.2 for name in attention}
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    return tensors


def as_internlm2(config: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """The same model, re-laid row by row as InternLM2 stores it: written without the package's own code."""
    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    names = {
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    laid: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "self_attn.q_proj" in name:
            q, k, v = (tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj"))
            rows = []
            for kv_head in range(kv_heads):
                for query in range(heads // kv_heads):
                    head = kv_head * (heads // kv_heads) + query
                    rows.append(q[head * head_dim : (head + 1) * head_dim])
                rows += [
                    k[kv_head * head_dim : (kv_head + 1) * head_dim],
                    v[kv_head * head_dim : (kv_head + 1) * head_dim],
                ]
            laid[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(rows)
        elif "k_proj" not in name and "v_proj" not in name:
            new = next((name.replace(old, new) for old, new in names.items() if old in name), name)
            laid[new] = tensor
    renamed = config | {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}
    renamed["bias"] = renamed.pop("attention_bias", False)
    return renamed, laid


def write_folder(folder: Path, config: dict, tensors: dict[str, Tensor]) -> Path:
    """A model folder with one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Session:
    """Requests that share a paged cache whose blocks are handed out in random order, poisoned before first use."""

    def __init__(self, decoder: Decoder, *, num_blocks: int = 64, tokens_per_block: int = 8) -> None:
        spec = decoder.spec
        shape = (num_blocks, spec.num_kv_heads, tokens_per_block, spec.head_dim)
        self.decoder, self.tokens_per_block = decoder, tokens_per_block
        poison = [torch.full(shape, float("nan"), dtype=decoder.dtype) for _ in range(2 * spec.num_layers)]
        self.kv = [
            LayerKV(poison[2 * n].to(decoder.device), poison[2 * n + 1].to(decoder.device))
            for n in range(spec.num_layers)
        ]
        self.free = torch.randperm(num_blocks).tolist()
        self.tables: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}

    def step(self, work: dict[str, Sequence[int]], *, rotary_lens: dict[str, int] | None = None) -> dict[str, Tensor]:
        """Run new token ids per request; returns each request's logits for its new tokens."""
        order = sorted(work, key=lambda name: len(work[name]) > 1)
        positions, slots, lens, starts = [], [], [], [0]
        for name in order:
            start, count = self.lengths.get(name, 0), len(work[name])
            table = self.tables.setdefault(name, [])
            while len(table) * self.tokens_per_block < start + count:
                table.append(self.free.pop())
            places = range(start, start + count)
            positions += places
            slots += [
                table[p // self.tokens_per_block] * self.tokens_per_block + p % self.tokens_per_block for p in places
            ]
            lens += [max(start + count, (rotary_lens or {}).get(name, 0))] * count
            self.lengths[name] = start + count
            starts.append(starts[-1] + count)
        widest = max(len(self.tables[name]) for name in order)
        tables = [self.tables[name] + [0] * (widest - len(self.tables[name])) for name in order]
        device = self.decoder.device
        batch = RaggedBatch(
            positions=torch.tensor(positions, device=device),
            slots=torch.tensor(slots, device=device),
            block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
            query_starts=tuple(starts),
            context_lens=tuple(self.lengths[name] for name in order),
            rotary_lens=torch.tensor(lens, device=device),
            num_decodes=sum(len(work[name]) == 1 for name in order),
        )
        ids = torch.tensor([token for name in order for token in work[name]], device=device)
        logits = self.decoder.logits(self.decoder(ids, batch, self.kv))
        return dict(zip(order, logits.split([len(work[name]) for name in order]), strict=True))


Model = tuple[dict, dict[str, Tensor]]  # a config and the tensors that go with it


@pytest.fixture
def tiny_llama(seed: int) -> Callable[..., Model]:
    """Make a random Llama; keywords change its config."""

    def make(**changes: object) -> Model:
        config = TINY | changes
        return config, llama_tensors(config)

    return make


@pytest.fixture
def relaid() -> Callable[[Model], Model]:
    """Lay a Llama out as InternLM2."""
    return lambda model: as_internlm2(*model)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a model into a folder of its own."""

    def write_model(model: Model, name: str = "model") -> Path:
        return write_folder(tmp_path / name, *model)

    return write_model


@pytest.fixture
def load() -> Callable[..., Decoder]:
    """Load a folder on the CPU, in float32 unless told otherwise."""

    def load_folder(folder: Path, **keywords: Any) -> Decoder:
        return load_decoder(folder, **{"dtype": torch.float32, "device": torch.device("cpu")} | keywords)

    return load_folder


@pytest.fixture
def open_session() -> type[Session]:
    """A poisoned paged cache and the bookkeeping to run steps on it."""
    return Session
