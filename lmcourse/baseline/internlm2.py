"""InternLM2 for transformers 5, without the remote code that its checkpoints point to (which fails there).

InternLM2 is Llama with other names and one fused projection, so transformers' own Llama classes compute it; this file
only reads the checkpoint. The rows of `wqkv` are laid out per key/value head, its query heads first:

    wqkv rows    q q k v | q q k v | …        num_kv_heads groups, here with 2 query heads each; each letter is
                 kv head 0  kv head 1          head_dim rows
    Llama        q q q q …   k k …   v v …

auto.py registers both classes with transformers' own Auto classes, so that a checkpoint whose config says
`"model_type": "internlm2"` loads through them too. Only safetensors are read.

Lesson: 2 (transformers)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from lmcourse.baseline.chat import ChatMixin
from lmcourse.errors import CheckpointError
from lmcourse.models import open_checkpoint
from lmcourse.text.hub import find_model

__all__ = ["InternLM2Config", "InternLM2ForCausalLM", "convert_tensors", "read_tensors", "split_wqkv"]

# InternLM2's name → Llama's, for every tensor but wqkv.
_LLAMA_NAMES = (
    ("tok_embeddings.", "embed_tokens."),
    (".attention.wo.", ".self_attn.o_proj."),
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".feed_forward.w1.", ".mlp.gate_proj."),
    (".feed_forward.w3.", ".mlp.up_proj."),
    (".feed_forward.w2.", ".mlp.down_proj."),
)
# Keys of a published config.json that name remote code or a setting that the caller makes.
_IGNORED_KEYS = ("auto_map", "attn_implementation")


class InternLM2Config(LlamaConfig):  # type: ignore[misc]
    """A LlamaConfig that reads InternLM2's config.json: `bias` there is `attention_bias` here."""

    model_type = "internlm2"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        known = {key: value for key, value in config_dict.items() if key not in _IGNORED_KEYS}
        if "bias" in known:
            known["attention_bias"] = known.pop("bias")
        return super().from_dict(known, **kwargs)


def split_wqkv(wqkv: Tensor, *, num_kv_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The q, k and v rows of a fused weight [rows, hidden] or bias [rows]; the picture is at the top of this file."""
    group = rearrange(wqkv, "(kv group dim) ... -> kv group dim ...", kv=num_kv_heads, dim=head_dim)
    q = rearrange(group[:, :-2], "kv queries dim ... -> (kv queries dim) ...")
    k = rearrange(group[:, -2], "kv dim ... -> (kv dim) ...")
    v = rearrange(group[:, -1], "kv dim ... -> (kv dim) ...")
    return q.contiguous(), k.contiguous(), v.contiguous()


def _llama_name(name: str) -> str:
    if name.startswith("output."):
        return "lm_head." + name.removeprefix("output.")
    for ours, llamas in _LLAMA_NAMES:
        name = name.replace(ours, llamas)
    return name


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All stored tensors on the CPU; those with random weights are drawn where that is fast."""
    drawn_on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = open_checkpoint(folder, drawn_on)
    return {name: source.read(name).cpu() for name in source.tensors}


def convert_tensors(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """InternLM2's tensors under Llama's names; tensors that already have them (`save_pretrained`) stay as they are."""
    head_dim = config.hidden_size // config.num_attention_heads
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        before, fused, kind = name.partition(".attention.wqkv.")
        if not fused:
            converted[_llama_name(name)] = tensor
            continue
        if tensor.shape[0] != rows:
            raise CheckpointError(
                "the fused projection does not fit the config",
                expected=f"{rows} rows: (num_attention_heads + 2 * num_key_value_heads) * head_dim",
                got=list(tensor.shape), where=name,
                next_step="take config.json and the weights from the same release",
            )  # fmt: skip
        parts = split_wqkv(tensor, num_kv_heads=config.num_key_value_heads, head_dim=head_dim)
        converted.update({f"{before}.self_attn.{p}_proj.{kind}": t for p, t in zip("qkv", parts, strict=True)})
    return converted


class InternLM2ForCausalLM(ChatMixin, LlamaForCausalLM):  # type: ignore[misc]
    """transformers' Llama with InternLM2's checkpoint reader and the `chat` that its remote code would bring."""

    config_class = InternLM2Config

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        folder = find_model(pretrained_model_name_or_path)
        config = config if config is not None else InternLM2Config.from_pretrained(folder)
        kwargs["state_dict"] = convert_tensors(read_tensors(folder), config)
        loaded = super().from_pretrained(None, *args, config=config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return loaded
