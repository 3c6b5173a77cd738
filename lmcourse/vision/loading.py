"""load_encoder: a model folder → what turns its pictures into features, or None for a model without pictures.

_BUILDERS has a row for each kind of eyes, by the architecture in config.json; LLaVA's many names share the default.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
from lmcourse.vision.deepseek_vl import DeepseekVlEncoder
from lmcourse.vision.deepseek_vl_folder import plan_deepseek_vl, warn_of_unused
from lmcourse.vision.llava import LlavaEncoder, LlavaEyes
from lmcourse.vision.llava_config import LlavaSpec, read_llava
from lmcourse.vision.qwen_vl import QwenVlEyes, read_qwen_vl, stored_qwen_vl
from lmcourse.vision.weights import find_prefix, load_module, projector_names, tower_names, tower_prefix, tower_sizes
from lmcourse.vision.xcomposer import drawn_xcomposer, stored_xcomposer
from lmcourse.vision.xcomposer2 import read_xcomposer2, refuse_tiles, stretch_positions

__all__ = ["load_encoder"]

Config = Mapping[str, Any]
PictureEncoder = LlavaEncoder | DeepseekVlEncoder


@dataclass(frozen=True)
class _Place:
    """What a builder is given."""

    folder: Path
    config: Config
    sizes: Mapping[str, int]  # hidden and vocab of the language model
    like: torch.Tensor  # of the dtype and on the device that weights are wanted in

    @property
    def drawn_tower(self) -> Config:
        """What the config of random weights says of its tower."""
        stated = self.config.get("vision_config")
        return stated if isinstance(stated, Mapping) else {}


def load_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device) -> PictureEncoder | None:
    """The encoder of a folder with pictures, its weights on the device."""
    folder = require_folder(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not has_pictures(config):
        return None
    language, like = load_spec(folder), torch.empty(0, dtype=dtype, device=device)
    place = _Place(folder, config, {"hidden": language.hidden, "vocab": language.vocab}, like)
    named = config["architectures"]
    return next((build for name, build in _BUILDERS.items() if name in named), _build_llava)(place)


def _build_llava(place: _Place) -> LlavaEncoder:
    config, folder = place.config, place.folder
    if draws_weights(folder):
        return _draw_llava(read_llava(config, folder, place.drawn_tower, **place.sizes), place)
    source = Checkpoint(folder)
    tower_source, tower_config = _find_tower(config, folder, source)
    spec = read_llava(config, folder, tower_config, **place.sizes)
    eyes = _load_llava(spec, tower_source, source, place.like)
    return LlavaEncoder(eyes, _read_newline(spec, source, place.like))


def _load_llava(spec: LlavaSpec, tower: TensorSource, source: TensorSource, like: torch.Tensor) -> LlavaEyes:
    """A CLIP tower from one source and a projector from another."""
    with torch.device("meta"):
        eyes = LlavaEyes(spec)
    prefix = tower_prefix(tower)
    assert prefix is not None, "the tower was found there"
    load_module(eyes.tower, tower_names(prefix, max(spec.wanted)), tower, like)
    load_module(eyes.projector, projector_names(source, spec.num_maps), source, like)
    return eyes


def _draw_llava(spec: LlavaSpec, place: _Place) -> LlavaEncoder:
    with torch.device("meta"):
        eyes = LlavaEyes(spec)
    drawn = _draw(eyes, place, {"newline.weight": (spec.hidden,)})
    return LlavaEncoder(eyes, drawn.read("newline.weight").to(place.like))


def _draw(eyes: nn.Module, place: _Place, more: Mapping[str, tuple[int, ...]] | None = None) -> RandomTensors:
    """Give a module random weights, for measuring; norms are ones. more: further tensors to be read."""
    shapes = {name: tuple(parameter.shape) for name, parameter in eyes.named_parameters()} | dict(more or {})
    infos = [TensorInfo(name, shape, "F32", 4 * math.prod(shape), place.folder) for name, shape in shapes.items()]
    norms = [name for name in shapes if name.endswith("norm.weight")]
    drawn = RandomTensors(place.folder, infos, place.like.device, norms)
    load_module(eyes, {name: (name,) for name in shapes}, drawn, place.like)
    return drawn


def _build_xcomposer(place: _Place) -> LlavaEncoder:
    hidden = place.sizes["hidden"]
    with torch.device("meta"):
        if draws_weights(place.folder):
            eyes = drawn_xcomposer(place.config, hidden)
        else:
            eyes, names, source = stored_xcomposer(Checkpoint(place.folder), hidden)
    if draws_weights(place.folder):
        _draw(eyes, place)
    else:
        load_module(eyes, names, source, place.like)
    return LlavaEncoder(eyes)


def _build_xcomposer2(place: _Place) -> LlavaEncoder:
    if draws_weights(place.folder):
        return _draw_llava(read_xcomposer2(place.config, place.drawn_tower, place.sizes), place)
    source = Checkpoint(place.folder)
    refuse_tiles(source)
    tower_source, tower_config = _find_tower(place.config, place.folder, source)
    spec = read_xcomposer2(place.config, tower_config, place.sizes)
    prefix = tower_prefix(tower_source)
    assert prefix is not None, "_find_tower found it"
    tower_source = stretch_positions(tower_source, prefix, spec)
    return LlavaEncoder(_load_llava(spec, tower_source, source, place.like), None)


def _build_deepseek_vl(place: _Place) -> DeepseekVlEncoder:
    source = None if draws_weights(place.folder) else Checkpoint(place.folder)
    with torch.device("meta"):
        eyes, names = plan_deepseek_vl(place.config, place.folder, source, **place.sizes)
    if source is None:
        _draw(eyes, place)
    else:
        load_module(eyes, names, source, place.like)
        warn_of_unused(names, source)
    return DeepseekVlEncoder(eyes)


def _build_qwen_vl(place: _Place) -> LlavaEncoder:
    spec = read_qwen_vl(place.config, **place.sizes)
    with torch.device("meta"):
        eyes = QwenVlEyes(spec)
    if draws_weights(place.folder):
        _draw(eyes, place)
    else:
        load_module(eyes, *stored_qwen_vl(spec, Checkpoint(place.folder)), place.like)
    return LlavaEncoder(eyes)


_BUILDERS: Mapping[str, Callable[[_Place], PictureEncoder]] = {
    "InternLMXComposerForCausalLM": _build_xcomposer,
    "InternLMXComposer2ForCausalLM": _build_xcomposer2,
    "QWenLMHeadModel": _build_qwen_vl,
    "MultiModalityCausalLM": _build_deepseek_vl,
    "DeepseekVLForConditionalGeneration": _build_deepseek_vl,
    "DeepseekVLHybridForConditionalGeneration": _build_deepseek_vl,
}


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
