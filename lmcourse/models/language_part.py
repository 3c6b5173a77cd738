"""The language model inside a vision-language checkpoint: its config and its tensors, as if it were alone.

    liuhaotian    LlavaLlamaForCausalLM                  a Llama's own config and names, and mm_… keys beside them
    deepseek-ai   MultiModalityCausalLM                  language_config, as sparing; names begin with language_model.
    llava-hf      Llava(Next)ForConditionalGeneration    text_config, which holds what differs from its class's
                                                         defaults;
                                                         names begin with language_model. or model.language_model.
    XComposer     InternLMXComposer(2)ForCausalLM        a row of the table, with keys and tensors for vision beside;
                                                         version 1's names begin with internlm_model.
    QWen-VL       QWenLMHeadModel                        QWen's own config, and visual beside it

Everything else in such a folder is for vision/: it is left out here.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.models.checkpoint import Checkpoint, TensorSource
from lmcourse.models.files import read_json
from lmcourse.models.random_weights import draws_weights
from lmcourse.models.safetensors_file import TensorInfo

__all__ = ["LanguagePart", "has_pictures", "language_config", "read_language_config"]

Config = Mapping[str, Any]

_BESIDE = {  # a language model's config with keys of its own for vision → the architecture of the language model
    "LlavaLlamaForCausalLM": "LlamaForCausalLM",
    "LlavaMistralForCausalLM": "MistralForCausalLM",
    "LlavaQwenForCausalLM": "Qwen2ForCausalLM",
}
_DEEPSEEK_VL = ("DeepseekVLForConditionalGeneration", "DeepseekVLHybridForConditionalGeneration")
_AROUND = {  # a config around the language model's own → the key of that one
    "LlavaForConditionalGeneration": "text_config",
    "LlavaNextForConditionalGeneration": "text_config",
    "MultiModalityCausalLM": "language_config",
    **dict.fromkeys(_DEEPSEEK_VL, "text_config"),
}
_LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_DEFAULTS: dict[str, dict[str, Any]] = {  # of transformers' config classes, by model_type
    "llama": {**_LLAMA, "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "rms_norm_eps": 1e-6},
    "mistral": {
        **_LLAMA,
        "architectures": ["MistralForCausalLM"],
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": {
        **_LLAMA,
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
    },
    "internlm2": {"architectures": ["InternLM2ForCausalLM"]},
}
_WITHIN = ("InternLMXComposerForCausalLM", "InternLMXComposer2ForCausalLM")  # a row of the table, pictures and all
_QWEN = "QWenLMHeadModel"  # a row with pictures where its config has `visual`
_SHARED = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")  # said once, for all parts
_OUTER = ("language_model.", "internlm_model.")  # before names that a language model has alone
_VISION = (
    "vision_tower.", "multi_modal_projector.", "mm_projector.", "image_newline",
    "visual_encoder.", "ln_vision.", "Qformer.", "query_tokens", "internlm_proj.", "flag_image_",
    "vit.", "vision_proj.", "plora_glb_GN", "plora_sub_GN", "vision_model.", "aligner.", "high_res_vision_",
    "transformer.visual.",
)  # fmt: skip
_DEEPSEEK_VOCAB, _DEEPSEEK_ENDS = 102400, {"bos_token_id": 100000, "eos_token_id": 100001}


def has_pictures(config: Config) -> bool:
    """Whether a config is of a model that takes pictures."""
    named = _architectures(config)
    return bool(named & {*_BESIDE, *_AROUND, *_WITHIN}) or (_QWEN in named and "visual" in config)


def read_language_config(folder: Path) -> Config:
    """config.json of a folder, or what it says of the language model in it."""
    config = read_json(folder / "config.json")
    language = language_config(config)
    if not _architectures(config) & {*_DEEPSEEK_VL} or draws_weights(folder):
        return language
    # its class ties the head and published files have one, so configs say nothing that could be relied on
    has_head = any(name.startswith("lm_head.") for name in Checkpoint(folder).tensors)
    return {**language, "tie_word_embeddings": not has_head}


def language_config(config: Config) -> Config:
    """The config of the language model alone; a config of nothing else is returned as it is."""
    named = _architectures(config)
    for outer, inner in _BESIDE.items():
        if outer in named:
            return {**config, "architectures": [inner], "model_type": None}
    return next((_inner_config(config, key) for outer, key in _AROUND.items() if outer in named), config)


def _architectures(config: Config) -> set[str]:
    stated = config.get("architectures") or []
    return {str(name) for name in stated} if isinstance(stated, list) else {str(stated)}


def _inner_config(config: Config, key: str) -> Config:
    if "gen_head_config" in config:
        raise UnsupportedModelError(
            "this is Janus, which draws pictures, too: it is not covered",
            expected="DeepSeek-VL, whose config has no gen_head_config",
            got=", ".join(sorted(name for name in config if name.startswith("gen_"))),
            where="config.json, gen_head_config",
        )
    text = config.get(key) or {}
    kind = text.get("model_type", "llama") if isinstance(text, Mapping) else repr(text)
    if not isinstance(text, Mapping) or kind not in list(_DEFAULTS):
        raise CheckpointError(
            f"the config's {key} is of no language model that runs with pictures",
            expected="an object with model_type " + " | ".join(_DEFAULTS),
            got=repr(kind)[:80],
            where=f"config.json, {key}",
            next_step="use a LLaVA on one of these",
        )
    defaults = {**_DEFAULTS[kind], **{key: config[key] for key in _SHARED if config.get(key) is not None}}
    read = {**defaults, **{name: value for name, value in text.items() if value is not None or name not in defaults}}
    return read if read.get("vocab_size") != _DEEPSEEK_VOCAB else {**read, **_DEEPSEEK_ENDS}  # configs have Llama's


class LanguagePart:
    """The language model's tensors of a checkpoint, under the names that it has alone."""

    def __init__(self, source: TensorSource) -> None:
        self.folder, self._source = source.folder, source
        self._stored = {alone: name for name in source.tensors if (alone := _name_alone(name)) is not None}
        self.tensors: dict[str, TensorInfo] = {alone: source.tensors[name] for alone, name in self._stored.items()}

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    @property
    def stored_names(self) -> set[str]:
        """What these tensors are called in the folder."""
        return set(self._stored.values())

    @property
    def whole_bytes(self) -> int:
        """Of these and all other tensors of the folder."""
        return self._source.num_bytes

    def read(self, name: str) -> Tensor:
        """As Checkpoint.read."""
        return self._source.read(self._stored[name])

    def read_words(self, name: str) -> Tensor:
        """As Checkpoint.read_words."""
        return self._source.read_words(self._stored[name])

    def read_others(self) -> dict[str, Tensor]:
        """All that is not the language model's, under the stored names."""
        return {name: self._source.read(name) for name in self._source.tensors.keys() - self.stored_names}

    def stored_name(self, name: str) -> str:
        """What a tensor of the language model, perhaps one made of several or packed, is called in such a folder."""
        if name in self._source.tensors:
            return name
        stored = self._stored.get("model.norm.weight", "")
        inner = stored.removesuffix("norm.weight")  # model. | language_model.model. | model.language_model.
        if name.startswith("model."):
            return inner + name.removeprefix("model.") if stored else name
        return next((outer + name for outer in _OUTER if inner.startswith(outer)), name)

    def __repr__(self) -> str:
        return f"LanguagePart({self.folder.name}: {len(self.tensors)} of {len(self._source.tensors)} tensors)"


def _name_alone(name: str) -> str | None:
    """language_model.model.norm.weight → model.norm.weight; None for a tensor of another part."""
    if name.removeprefix("model.").startswith(_VISION):
        return None
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return next((name.removeprefix(outer) for outer in _OUTER if name.startswith(outer)), name)
