"""load_encoder: a model folder → what turns its pictures into features, or None for a model without pictures.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lmcourse.errors import CheckpointError, LmcourseError
from lmcourse.models import (
    Checkpoint,
    RandomTensors,
    TensorInfo,
    TensorSource,
    draws_weights,
    has_pictures,
    load_spec,
    read_json,
    require_folder,
)
from lmcourse.text.hub import find_model
from lmcourse.vision.llava import LlavaEncoder, LlavaEyes
from lmcourse.vision.llava_config import LlavaSpec, read_llava
from lmcourse.vision.weights import find_prefix, load_module, projector_names, tower_names, tower_prefix, tower_sizes

__all__ = ["load_encoder"]

Config = Mapping[str, Any]


def load_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device) -> LlavaEncoder | None:
    """The encoder of a LLaVA folder, in either layout, its weights on the device."""
    folder = require_folder(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not has_pictures(config):
        return None
    language, like = load_spec(folder), torch.empty(0, dtype=dtype, device=device)
    sizes = {"hidden": language.hidden, "vocab": language.vocab}
    if draws_weights(folder):
        return _draw_encoder(read_llava(config, folder, config.get("vision_config") or {}, **sizes), folder, like)
    source = Checkpoint(folder)
    tower_source, tower_config = _find_tower(config, folder, source)
    spec = read_llava(config, folder, tower_config, **sizes)
    eyes = _make_eyes(spec)
    prefix = tower_prefix(tower_source)
    assert prefix is not None, "_find_tower found it"
    load_module(eyes.tower, tower_names(prefix, max(spec.wanted)), tower_source, like)
    load_module(eyes.projector, projector_names(source, spec.num_maps), source, like)
    return LlavaEncoder(eyes, _read_newline(spec, source, like))


def _make_eyes(spec: LlavaSpec) -> LlavaEyes:
    with torch.device("meta"):
        return LlavaEyes(spec)


def _draw_encoder(spec: LlavaSpec, folder: Path, like: torch.Tensor) -> LlavaEncoder:
    """Random weights of this shape, for measuring; norms are ones."""
    eyes = _make_eyes(spec)
    shapes = {name: tuple(parameter.shape) for name, parameter in eyes.named_parameters()}
    shapes["newline.weight"] = (spec.hidden,)
    infos = [TensorInfo(name, shape, "F32", 4 * math.prod(shape), folder) for name, shape in shapes.items()]
    norms = [name for name in shapes if name.endswith("norm.weight")]
    drawn = RandomTensors(folder, infos, like.device, norms)
    load_module(eyes, {name: (name,) for name in shapes}, drawn, like)
    return LlavaEncoder(eyes, drawn.read("newline.weight").to(like))


def _read_newline(spec: LlavaSpec, source: TensorSource, like: torch.Tensor) -> torch.Tensor | None:
    if spec.cutting.merge != "spatial_unpad":
        return None
    prefix = find_prefix(source, "image_newline")
    if prefix is None or source.tensors[prefix + "image_newline"].shape != (spec.hidden,):
        raise CheckpointError(
            "the checkpoint has no image_newline of the model's width", expected=f"[{spec.hidden}]",
            got=f"{len(source.tensors)} tensors", where=source.folder, next_step="get the model's files again",
        )  # fmt: skip
    return source.read(prefix + "image_newline").to(like, copy=True)


def _find_tower(config: Config, folder: Path, source: TensorSource) -> tuple[TensorSource, Config]:
    """Where the tower's tensors are, and its config."""
    stated = config.get("vision_config")
    named = config.get("mm_vision_tower") or config.get("vision_tower")
    prefix = tower_prefix(source)
    if prefix is not None:
        own = stated if isinstance(stated, Mapping) else _named_config(named, folder)
        return source, {**tower_sizes(source, prefix), **own}
    apart = _named_folder(named, folder)
    if apart is None:
        raise CheckpointError(
            "the folder holds no vision tower", expected="tensors of vision_tower, or a CLIP folder in mm_vision_tower",
            got=f"mm_vision_tower {named!r}", where=folder,
            next_step="put the tower's folder where mm_vision_tower says, or its path into config.json",
        )  # fmt: skip
    return Checkpoint(apart), _vision_part(read_json(apart / "config.json"))


def _named_config(named: object, folder: Path) -> Config:
    """What the named tower's config says, if its folder is on this machine."""
    apart = _named_folder(named, folder, download=False)
    return {} if apart is None else _vision_part(read_json(apart / "config.json"))


def _vision_part(config: Config) -> Config:
    inner = config.get("vision_config")
    return inner if isinstance(inner, Mapping) else config


def _named_folder(named: object, folder: Path, *, download: bool = True) -> Path | None:
    if not isinstance(named, str) or not named:
        return None
    for place in (folder / named, folder / Path(named).name, folder.parent / Path(named).name):
        if (place / "config.json").is_file() and place.resolve() != folder.resolve():
            return place
    try:
        return find_model(named, download=download)
    except LmcourseError:
        return None
