"""Tiny random DeepSeek-VLs, of one tower and of two, in both layouts, beside transformers' model of their weights.

The publisher's layout is written here by hand, and so is what its image processor does: both follow the description of
the published files (names of tensors, keys of configs), not this package.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as fn

VOCAB, IMAGE_ID = 300, 299
LOW, HIGH, PATCH, GRID = 64, 160, 16, 4
KINDS = ("one-hf", "one-published", "two-hf", "two-published")
TEXT = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": VOCAB,
    "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EVEN = TEXT | {  # widths that kernels have tiles for
    "hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3,
    "num_attention_heads": 16, "image_size": LOW, "patch_size": PATCH, "hidden_act": "gelu", "vision_use_head": False,
}  # fmt: skip
SAM = {
    "model_type": "sam_vision_model", "hidden_size": 36, "mlp_dim": 44, "num_hidden_layers": 4,
    "num_attention_heads": 3, "image_size": HIGH, "patch_size": PATCH, "window_size": 4, "output_channels": 5,
    "global_attn_indexes": [1, 3],
}  # fmt: skip
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALVES = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class TinyDeepseekVl:
    """A folder, transformers' model of its weights, and what makes its pixels."""

    kind: str
    folder: Path
    model: Any
    processor: Any

    def pixels(self, picture: Image.Image) -> dict[str, Tensor]:
        """What transformers' model takes."""
        if self.kind.endswith("published"):
            return published_pixels(picture, two=self.kind.startswith("two"))
        return dict(self.processor([picture], return_tensors="pt"))

    def logits(self, ids: Sequence[int], pictures: Sequence[Image.Image]) -> Tensor:
        """transformers' logits after each token, float32 [tokens, vocab]."""
        each = [self.pixels(picture) for picture in pictures]
        inputs = {name: torch.cat([one[name] for one in each]) for name in each[0]} if each else {}
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids]), **inputs).logits[0]


def published_pixels(picture: Image.Image, *, two: bool) -> dict[str, Tensor]:
    """The publisher's processor: sides cut to whole pixels, mean colour around, the small picture made in floats."""
    side, mean = (HIGH, CLIP_MEAN) if two else (LOW, HALVES)
    width, height = picture.size
    size = [max(int(length / max(width, height) * side), 14) for length in (width, height)]
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(part * 255) for part in mean]
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    large = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    if not two:
        return {"pixel_values": (large - 0.5) / 0.5}
    small = fn.interpolate(large, size=(LOW, LOW), mode="bilinear", antialias=True)
    colours = [torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD)]
    return {"pixel_values": (small - 0.5) / 0.5, "high_res_pixel_values": (large - colours[0]) / colours[1]}


def make(kind: str, folder: Path, said: dict[str, Any] = TEXT) -> TinyDeepseekVl:
    """Random weights, biases and norms; nothing is symmetric. said: the language model's config."""
    import transformers

    two, published = kind.startswith("two"), kind.endswith("published")
    name = "DeepseekVLHybrid" if two else "DeepseekVL"
    text = {key: value for key, value in said.items() if key != "model_type"}
    parts = {
        "text_config": transformers.LlamaConfig(**text),
        "vision_config": transformers.SiglipVisionConfig(**SIGLIP),
    }
    if two:
        parts["high_res_vision_config"] = transformers.SamVisionConfig(**SAM)
    config = getattr(transformers, f"{name}Config")(**parts, image_token_id=IMAGE_ID, tie_word_embeddings=False)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for weight, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and weight.endswith("weight")
            spread = 0.2 if said is TEXT else 0.1
            parameter.copy_(is_norm + spread * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    processor = _processor(two)
    if published:
        write_published(folder, model, two, said)
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    _write_tokenizer(folder)
    return TinyDeepseekVl(kind, folder, model, processor)


def _processor(two: bool) -> Any:
    part = "deepseek_vl_hybrid" if two else "deepseek_vl"
    module = importlib.import_module(f"transformers.models.{part}.image_processing_pil_{part}")
    settings = {"size": {"height": LOW, "width": LOW}, "image_mean": HALVES, "image_std": HALVES}
    if not two:
        return module.DeepseekVLImageProcessorPil(**settings)
    make = module.DeepseekVLHybridImageProcessorPil
    # said, though it is the class's own: transformers before 5.23 takes grey for what surrounds the large picture else
    large = {"high_res_size": {"height": HIGH, "width": HIGH}, "high_res_image_mean": make.high_res_image_mean}
    return make(**settings, **large, resample=2)


def _write_tokenizer(folder: Path) -> None:
    (folder / "byte_tokenizer.json").write_text(json.dumps({"vocab_size": VOCAB, "first_byte_id": 3}))
    special = {str(i): {"content": token, "special": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "added_tokens_decoder": special}))


def write_published(folder: Path, model: Any, two: bool, said: dict[str, Any]) -> None:
    """model_type multi_modality: timm's and SAM's own names, towers named in config.json."""
    state = model.state_dict()
    low = "vision_model.vision_tower_low.vision_tower." if two else "vision_model.vision_tower."
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("model.language_model."):
            tensors["language_model.model." + name.removeprefix("model.language_model.")] = tensor
    tensors["language_model.lm_head.weight"] = state["lm_head.weight"]
    tensors |= _timm_names(state, low)
    tensors |= _sam_names(state, "vision_model.vision_tower_high.vision_tower.") if two else {}
    aligner = {"linear1": "layers.0", "linear2": "layers.2", "vision_proj": "low_up_proj"}
    aligner |= {"high_res_vision_proj": "high_up_proj", "proj": "layers.1"}
    for theirs, stored in aligner.items():
        for leaf in ("weight", "bias"):
            if f"model.aligner.{theirs}.{leaf}" in state:
                tensors[f"aligner.{stored}.{leaf}"] = state[f"model.aligner.{theirs}.{leaf}"]
    # what the published files hold, and the published program never reads
    tensors[low + "attn_pool.latent"] = torch.randn(1, 1, 32)
    if two:
        tensors["vision_model.high_layer_norm.weight"] = torch.randn(7)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    _write_published_configs(folder, two, said)


def _timm_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    stem = "model.vision_model.vision_model." if "model.vision_model.vision_model.post_layernorm.bias" in state else ""
    stem = stem or "model.vision_model."
    found = {prefix + "pos_embed": state[stem + "embeddings.position_embedding.weight"][None]}
    for leaf in ("weight", "bias"):
        found[f"{prefix}patch_embed.proj.{leaf}"] = state[f"{stem}embeddings.patch_embedding.{leaf}"]
        found[f"{prefix}norm.{leaf}"] = state[f"{stem}post_layernorm.{leaf}"]
        for n in range(SIGLIP["num_hidden_layers"]):
            theirs, ours = f"{stem}encoder.layers.{n}.", f"{prefix}blocks.{n}."
            qkv = [state[f"{theirs}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            found[f"{ours}attn.qkv.{leaf}"] = torch.cat(qkv)
            names = {"self_attn.out_proj": "attn.proj", "layer_norm1": "norm1", "layer_norm2": "norm2"}
            for old, new in (names | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}).items():
                found[f"{ours}{new}.{leaf}"] = state[f"{theirs}{old}.{leaf}"]
    return found


def _sam_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {prefix + "hd_alpha_downsamples": state["model.high_res_vision_alpha"]}
    necks = {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"}
    for name, tensor in state.items():
        inner = name.removeprefix("model.high_res_vision_model.").removeprefix("vision_encoder.")
        if name.startswith("model.high_res_vision_model."):
            new = inner.replace("layers.", "blocks.").replace("layer_norm", "norm").replace("projection", "proj")
            if inner.startswith("neck."):
                _, part, leaf = inner.split(".")
                new = f"neck.{necks[part]}.{leaf}"
            found[prefix + new] = tensor
        elif name.startswith("model.high_res_vision_neck."):
            part, leaf = name.removeprefix("model.high_res_vision_neck.").split(".")
            found[f"{prefix}neck_hd.{necks[part]}.{leaf}"] = tensor
        elif name.startswith("model.high_res_vision_proj."):
            number = int(name.removeprefix("model.high_res_vision_proj.conv").split(".")[0])
            found[f"{prefix}downsamples.{number - 1}.weight"] = tensor
    return found


def _write_published_configs(folder: Path, two: bool, said: dict[str, Any]) -> None:
    low = {"image_size": LOW, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}
    vision: dict[str, Any] = {"cls": "CLIPVisionTower", "model_type": "vision", "params": low}
    if two:
        high = {**low, "image_size": HIGH, "model_name": "sam_b_downsample"}
        high |= {"pixel_mean": CLIP_MEAN, "pixel_std": CLIP_STD}
        towers = {"high_res_cfg": high, "low_res_cfg": {**low, "pixel_mean": HALVES, "pixel_std": HALVES}}
        vision |= {"cls": "HybridVisionTower", "params": {"concat_type": "tuple", "freeze_high": True, **towers}}
    kind = "low_high_hybrid_split_mlp_gelu" if two else "mlp_gelu"
    params = {"depth": 2, "input_dim": 32, "n_embed": said["hidden_size"], "projector_type": kind}
    config = {
        "architectures": ["MultiModalityCausalLM"], "model_type": "multi_modality", "torch_dtype": "float32",
        "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": params},
        "language_config": said, "vision_config": vision,
    }  # fmt: skip
    processor = {"image_processor_type": "VLMImageProcessor", "image_size": HIGH if two else LOW, "min_size": 14}
    colours = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD} if two else {"image_mean": HALVES, "image_std": HALVES}
    processor |= {"do_normalize": not two, "rescale_factor": 0.00392156862745098, **colours}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
