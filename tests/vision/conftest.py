"""Tiny random LLaVAs in both layouts, with transformers' model of the same weights beside each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

SIDE, PATCH, VOCAB, IMAGE_ID = 28, 7, 300, 299
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
TEXT = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": VOCAB,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
SIZES = ((1, 1), (3000, 20), (1920, 1080), (90, 160), (28, 28))
KINDS = ("1.5-hf", "1.5-liuhaotian", "1.6-hf", "1.6-liuhaotian")


@pytest.fixture
def seed() -> int:
    """A fresh seed per run, printed when the test fails."""
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


@dataclass(frozen=True)
class TinyLlava:
    """A folder, transformers' model of its weights, and transformers' image processor."""

    kind: str
    folder: Path
    model: Any
    processor: Any

    def logits(self, ids: Sequence[int], pictures: Sequence[Image.Image]) -> Tensor:
        """transformers' logits after each token, float32 [tokens, vocab]."""
        inputs = dict(self.processor(list(pictures), return_tensors="pt")) if pictures else {}
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids]), **inputs).logits[0]


def _make(kind: str, folder: Path) -> TinyLlava:
    import transformers

    new = kind.startswith("1.6")
    name = "LlavaNext" if new else "Llava"
    grids = {"image_grid_pinpoints": GRIDS} if new else {}
    outer = {"image_token_index": IMAGE_ID, **grids}
    text, vision = transformers.LlamaConfig(**TEXT), transformers.CLIPVisionConfig(**VISION)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **outer)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for weight, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and weight.endswith("weight")
            parameter.copy_(is_norm + 0.15 * torch.randn_like(parameter))
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    pads = {} if new else {"do_pad": "liuhaotian" in kind}
    processor = _processor(name)(**size, **grids, **pads)
    folder.mkdir(parents=True, exist_ok=True)
    (_write_hf if kind.endswith("hf") else _write_liuhaotian)(folder, model, new)
    if kind.endswith("hf"):
        processor.save_pretrained(folder)
    (folder / "byte_tokenizer.json").write_text(json.dumps({"vocab_size": VOCAB, "first_byte_id": 3}))
    special = {str(i): {"content": token, "special": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "added_tokens_decoder": special}))
    return TinyLlava(kind, folder, model, processor)


def _processor(name: str) -> Any:
    import importlib

    part = {"Llava": "llava", "LlavaNext": "llava_next"}[name]
    module = importlib.import_module(f"transformers.models.{part}.image_processing_pil_{part}")
    return getattr(module, f"{name}ImageProcessorPil")


def _write_hf(folder: Path, model: Any, _: bool) -> None:
    """As the hub's folders are: what is text_config's default is not written."""
    model.save_pretrained(folder)


def _write_liuhaotian(folder: Path, model: Any, new: bool) -> None:
    """The published layout, written without the package's own code."""
    names = {
        "model.language_model.": "model.", "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "model.multi_modal_projector.linear_1": "model.mm_projector.0",
        "model.multi_modal_projector.linear_2": "model.mm_projector.2",
    }  # fmt: skip
    tensors = {}
    for name, tensor in model.state_dict().items():
        renamed = name
        for old, start in names.items():
            if name.startswith(old):
                renamed = start + name.removeprefix(old)
                break
        tensors[renamed.replace("vision_model.vision_model.", "vision_model.")] = tensor.contiguous()
    config = TEXT | {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "torch_dtype": "float32",
        "mm_vision_tower": "tower", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_hidden_size": 32, "image_aspect_ratio": "anyres" if new else "pad",
    }  # fmt: skip
    if new:
        config |= {"mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": GRIDS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tower").mkdir()
    (folder / "tower" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": VISION}))
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="session")
def llavas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyLlava]:
    """One of each kind."""
    root = tmp_path_factory.mktemp("llavas")
    print(f"weights of seed {torch.seed()}")
    return {kind: _make(kind, root / kind) for kind in KINDS}


@pytest.fixture
def draw(seed: int) -> Callable[..., Image.Image]:
    """Random pictures of a size."""
    rng = np.random.default_rng(seed)

    def draw_one(width: int, height: int) -> Image.Image:
        coarse = rng.integers(0, 256, (min(height, 60), min(width, 60), 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)

    return draw_one


def to_bytes(picture: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()
