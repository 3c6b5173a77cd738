"""InternLM-XComposer 2: LLaVA's eyes with a tower at a size of its own (arXiv 2401.16420 §3.1).

    picture ─ squeezed into a square ─→ CLIP ViT-L/14, all layers, without the class token ─→ two maps ─→ tokens

    internlm-xcomposer2-7b       224 px   256 tokens       img_size in config.json
    internlm-xcomposer2-vl-7b    490 px   1225 tokens

The tower was trained at 336 px: a folder that still has its 24 x 24 positions gets them stretched to the picture's grid
(bicubic), which is how the published ones were made. What the language model does at these tokens besides, see
layers/low_rank.py. The 4KHD version and 2.5 cut pictures into tiles, and are refused.

Lesson: 6 (from pixels to features), 8 (what differs between families)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcourse.errors import UnsupportedModelError
from lmcourse.models import TensorSource
from lmcourse.vision.llava_config import LlavaSpec, read_llava
from lmcourse.vision.tiles import Cutting
from lmcourse.vision.weights import ComputedTensors, stretch_grid

__all__ = ["read_xcomposer2", "refuse_tiles", "stretch_positions"]

_TILED = ("plora_glb_GN", "plora_sub_GN")  # what stands between tiles
_POSITIONS = "embeddings.position_embedding.weight"


def read_xcomposer2(config: Mapping[str, Any], tower: Mapping[str, Any], sizes: Mapping[str, Any]) -> LlavaSpec:
    """tower: shapes read off the tensors, under transformers' names; sizes: hidden and vocab of the language model."""
    side = config.get("img_size", tower.get("image_size", 336))
    layer = {"mm_vision_select_layer": config.get("mm_vision_select_layer", -1)}
    beside = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}
    spec = read_llava(beside | layer, Path(), {**tower, "image_size": side}, **sizes)
    cutting = Cutting(spec.tower.side, spec.tower.patches_per_side, way="crop", square=True)
    return dataclasses.replace(spec, cutting=cutting)


def refuse_tiles(source: TensorSource) -> None:
    """UnsupportedModelError for the versions that read a picture tile by tile."""
    found = [name for name in _TILED if name in source.tensors]
    if found:
        raise UnsupportedModelError(
            "this InternLM-XComposer cuts pictures into tiles (4KHD or 2.5), which is not computed here",
            expected="internlm-xcomposer2-7b or internlm-xcomposer2-vl-7b: one tile a picture",
            got=", ".join(found),
            where=source.folder,
            next_step="use one of these two",
        )


def stretch_positions(source: TensorSource, prefix: str, spec: LlavaSpec) -> TensorSource:
    """The source with as many positions as the picture has patches; itself, if it has them."""
    name, side = prefix + _POSITIONS, spec.tower.patches_per_side
    if source.tensors[name].shape[0] == spec.tower.patches_per_tile + 1:
        return source

    def stretched(stored: TensorSource) -> Tensor:
        positions = stored.read(name).float()  # the class token's comes first
        return torch.cat((positions[:1], stretch_grid(positions[1:], side)))

    return ComputedTensors(source, {name: stretched})
