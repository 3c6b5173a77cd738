"""tiny-llava's files, in the layout of the LLaVA-1.5 checkpoints that transformers publishes (llava-hf).

    language_model.model.layers.N.…, language_model.lm_head │ vision_tower.vision_model.… │ multi_modal_projector.…

Unlike LLaVA, whose projector reads the last layer but one, this small eye has no layer to spare: vision_feature_layer
is -1. Weights are fp16; files are written beside their destination and renamed.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from lmcourse.zoo.pictures.conversation import IMAGE, IMAGE_TOKENS
from lmcourse.zoo.pictures.eye import MEAN, STD
from lmcourse.zoo.pictures.sizes import EYE, LANGUAGE

__all__ = ["CHAT_TEMPLATE", "load_llava", "save_llava", "save_processor", "stored_name"]

_WORDS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "tok_embeddings": "embed_tokens",
}
_EYE = {
    "class_embedding": "embeddings.class_embedding",
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "position_embedding": "embeddings.position_embedding.weight",
}
_TOWER = "vision_tower.vision_model."

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% else %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def stored_name(name: str) -> str:
    """The published name of a trained tensor."""
    part, rest = name.split(".", 1)
    if part == "language":
        for ours, theirs in _WORDS.items():
            rest = rest.replace(ours, theirs)
        return "language_model." + rest.replace("output.", "lm_head.")
    if rest.startswith("linear_"):
        return "multi_modal_projector." + rest
    if rest.startswith("layers."):
        rest = rest.replace(".fc", ".mlp.fc")
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            rest = rest.replace(f".{projection}", f".self_attn.{projection}")
        return f"{_TOWER}encoder.{rest}"
    return _TOWER + _EYE.get(rest, rest)


def _language_config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "head_dim": LANGUAGE.head_dim,
        "hidden_act": "silu",
        "hidden_size": LANGUAGE.hidden,
        "intermediate_size": LANGUAGE.intermediate,
        "max_position_embeddings": LANGUAGE.max_context,
        "mlp_bias": False,
        "num_attention_heads": LANGUAGE.num_heads,
        "num_hidden_layers": LANGUAGE.num_layers,
        "num_key_value_heads": LANGUAGE.num_kv_heads,
        "rms_norm_eps": LANGUAGE.norm_eps,
        "rope_theta": LANGUAGE.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": LANGUAGE.vocab,
    }


def _eye_config() -> dict[str, object]:
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": EYE.width,
        "image_size": EYE.side,
        "intermediate_size": EYE.intermediate,
        "layer_norm_eps": EYE.norm_eps,
        "num_attention_heads": EYE.num_heads,
        "num_channels": 3,
        "num_hidden_layers": EYE.num_layers,
        "patch_size": EYE.patch,
        "projection_dim": EYE.width,
    }


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": LANGUAGE.vocab - 1,
        "image_seq_length": IMAGE_TOKENS,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "text_config": _language_config(),
        "vision_config": _eye_config(),
    }


def _write_json(path: Path, value: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def save_llava(state: dict[str, Tensor], folder: Path) -> None:
    """Writes model.safetensors, config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {stored_name(name): tensor.detach().to("cpu", torch.float16) for name, tensor in state.items()}
    patches = f"{_TOWER}embeddings.patch_embedding.weight"
    named[patches] = named[patches].view(EYE.width, 3, EYE.patch, EYE.patch)
    # transformers' tower ends in a norm that LLaVA never uses: a plain one.
    named[f"{_TOWER}post_layernorm.weight"] = torch.ones(EYE.width, dtype=torch.float16)
    named[f"{_TOWER}post_layernorm.bias"] = torch.zeros(EYE.width, dtype=torch.float16)
    partial = folder / "model.safetensors.partial"
    try:
        tensors = {name: tensor.contiguous() for name, tensor in sorted(named.items())}
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, folder / "model.safetensors")
    finally:
        partial.unlink(missing_ok=True)
    _write_json(folder / "config.json", _config())
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})


def load_llava(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """The inverse of `save_llava` for the tensors of these (trained) names, in float32."""
    stored = load_file(folder / "model.safetensors")
    state = {name: stored[stored_name(name)].float() for name in names}
    state["eye.patch_embedding.weight"] = state["eye.patch_embedding.weight"].reshape(EYE.width, -1)
    return state


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "extra_special_tokens": {"image_token": IMAGE},
        "image_token": IMAGE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": LANGUAGE.max_context,
        "processor_class": "LlavaProcessor",
        "chat_template": CHAT_TEMPLATE,
    }


def _picture_config() -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "size": {"shortest_edge": EYE.side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": EYE.side, "width": EYE.side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }


def save_processor(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer's and the picture processor's files, as transformers' AutoProcessor reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "preprocessor_config.json", _picture_config())
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
        "patch_size": EYE.patch,
        "vision_feature_select_strategy": "default",
    }
    _write_json(folder / "processor_config.json", processor)
