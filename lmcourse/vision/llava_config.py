"""What a LLaVA folder says about its eyes: the tower, the projector, and how pictures are cut.

    liuhaotian   mm_vision_select_layer, mm_projector_type, image_aspect_ratio, … in config.json. The tower's shape is
                 not there: it is read off the stored tensors, or from the folder that mm_vision_tower names
    llava-hf     vision_config (only what differs from ViT-L/14-336), vision_feature_layer, …; how pictures are cut is
                 in preprocessor_config.json, which transformers 5 puts into processor_config.json

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.models import read_json
from lmcourse.vision.clip import ACTIVATIONS, ClipSpec
from lmcourse.vision.tiles import ANYRES_GRIDS, CLIP_MEAN, CLIP_STD, Cutting

__all__ = ["LlavaSpec", "read_llava", "read_processor"]

Config = Mapping[str, Any]

_MERGES = ("flat", "spatial", "spatial_unpad")


@dataclass(frozen=True)
class LlavaSpec:
    """Everything about a LLaVA's eyes that is not a weight."""

    tower: ClipSpec
    wanted: tuple[int, ...]  # after how many of the tower's layers features are taken
    num_maps: int  # linear maps of the projector, with GELU between them
    cutting: Cutting
    hidden: int  # of the language model
    placeholder_id: int
    projector_bias: bool = True


def read_llava(config: Config, folder: Path, tower: Config, *, hidden: int, vocab: int) -> LlavaSpec:
    """tower: the tower's own config (transformers' names). CheckpointError or UnsupportedModelError otherwise."""
    clip = _read_tower(tower)
    inner = "vision_config" in config and "mm_vision_tower" not in config
    key = "vision_feature_layer" if inner else "mm_vision_select_layer"
    layers = config.get(key, -2)
    wanted = tuple(_count_layers(key, layer, clip) for layer in (layers if isinstance(layers, list) else [layers]))
    cutting = _hf_cutting(config, folder, clip) if inner else _liuhaotian_cutting(config, clip)
    kind = "mlp2x_gelu" if inner else str(config.get("mm_projector_type", "linear"))
    placeholder = config.get("image_token_index", config.get("image_token_id", 0))
    known = isinstance(placeholder, int) and 0 <= placeholder < vocab
    bias = config.get("multimodal_projector_bias", True) is not False
    return LlavaSpec(clip, wanted, _count_maps(kind), cutting, hidden, placeholder if known else 0, bias)


def _read_tower(config: Config) -> ClipSpec:
    plain = ClipSpec()
    kind = config.get("model_type", "clip_vision_model")
    activation = config.get("hidden_act", plain.activation)
    if kind not in ("clip_vision_model", "clip") or activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            "this vision tower is not covered",
            expected="a CLIP ViT, with " + " or ".join(ACTIVATIONS),
            got=f"{kind}, {activation}",
            where="config.json, vision_config",
        )
    side, patch = _size(config, "image_size", plain.side), _size(config, "patch_size", plain.patch)
    hidden, heads = _size(config, "hidden_size", plain.hidden), _size(config, "num_attention_heads", plain.num_heads)
    if side % patch or hidden % heads:
        raise _wrong("vision_config", "sizes that divide each other", f"{side} / {patch}, {hidden} / {heads}")
    return ClipSpec(
        hidden=hidden,
        intermediate=_size(config, "intermediate_size", plain.intermediate),
        num_layers=_size(config, "num_hidden_layers", plain.num_layers),
        num_heads=heads,
        side=side,
        patch=patch,
        activation=activation,
        norm_eps=float(config.get("layer_norm_eps", plain.norm_eps)),
    )


def _count_layers(key: str, layer: object, tower: ClipSpec) -> int:
    """hidden_states[layer] of transformers: 0 is before the first layer, negative numbers count from the end."""
    if isinstance(layer, int) and not isinstance(layer, bool) and -tower.num_layers - 1 <= layer <= tower.num_layers:
        return layer % (tower.num_layers + 1)
    raise _wrong(key, f"a layer of {tower.num_layers}", layer)


def _count_maps(kind: str) -> int:
    """1 for linear, 2 for mlp2x_gelu, and so on."""
    if kind == "linear":
        return 1
    number = kind.removeprefix("mlp").removesuffix("x_gelu")
    if f"mlp{number}x_gelu" == kind and number.isdecimal() and 1 <= int(number) <= 8:
        return int(number)
    raise UnsupportedModelError(
        "this projector is not covered",
        expected="linear | mlp2x_gelu",
        got=kind,
        where="config.json, mm_projector_type",
    )


def _liuhaotian_cutting(config: Config, tower: ClipSpec) -> Cutting:
    way = config.get("image_aspect_ratio") or "crop"
    way = way if way in ("pad", "anyres") else "crop"
    feature = config.get("mm_vision_select_feature", "patch")
    merge = config.get("mm_patch_merge_type", "flat")
    if feature not in ("patch", "cls_patch") or (feature == "cls_patch" and way == "anyres"):
        raise _wrong("mm_vision_select_feature", "patch", feature)
    if merge not in _MERGES:
        raise _wrong("mm_patch_merge_type", " | ".join(_MERGES), merge)
    grids = _read_grids(config.get("image_grid_pinpoints"), tower.side) if way == "anyres" else ANYRES_GRIDS
    return Cutting(
        tower.side,
        tower.patches_per_side,
        way,
        grids,
        merge if way == "anyres" else "flat",
        class_token=feature == "cls_patch",
    )


def _hf_cutting(config: Config, folder: Path, tower: ClipSpec) -> Cutting:
    stated = read_processor(folder)
    anyres = "LlavaNextForConditionalGeneration" in (config.get("architectures") or [])
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full") or (strategy == "full" and anyres):
        raise _wrong("vision_feature_select_strategy", "default", strategy)
    for key, wanted in (("do_resize", True), ("do_rescale", True), ("do_normalize", True), ("do_center_crop", True)):
        if stated.get(key, wanted) is not wanted:
            raise _wrong(f"{key} of preprocessor_config.json", str(wanted).lower(), stated[key])
    size = stated.get("size") or {"shortest_edge": tower.side}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = stated.get("crop_size") or tower.side
    crop = crop if isinstance(crop, int) else crop.get("height")
    scaled = size.get("shortest_edge") or size.get("height")
    if crop != tower.side or not isinstance(scaled, int) or scaled < tower.side:
        raise _wrong("crop_size of preprocessor_config.json", tower.side, f"{crop}, scaled to {scaled}")
    grids = config.get("image_grid_pinpoints") or stated.get("image_grid_pinpoints")
    return Cutting(
        tower.side,
        tower.patches_per_side,
        "anyres" if anyres else "pad" if stated.get("do_pad") else "crop",
        _read_grids(grids, tower.side) if anyres else ANYRES_GRIDS,
        "spatial_unpad" if anyres else "flat",
        class_token=strategy == "full",
        square="shortest_edge" not in size,
        scaled=scaled,
        resample=int(stated.get("resample", 3)),
        mean=tuple(stated.get("image_mean") or CLIP_MEAN),
        std=tuple(stated.get("image_std") or CLIP_STD),
    )


def read_processor(folder: Path) -> Config:
    """How the folder says that pictures are cut; empty where it says nothing."""
    if (folder / "preprocessor_config.json").exists():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").exists():
        inner = read_json(folder / "processor_config.json").get("image_processor") or {}
        return inner if isinstance(inner, Mapping) else {}
    return {}


def _read_grids(given: object, side: int) -> tuple[tuple[int, int], ...]:
    """Height and width, in pixels; transformers' default list where none is given."""
    grids: Any = ANYRES_GRIDS if given is None else given
    paired = isinstance(grids, list | tuple) and all(
        isinstance(grid, list | tuple) and len(grid) == 2 for grid in grids
    )
    if not paired or not grids or any(not isinstance(n, int) or n < side or n % side for grid in grids for n in grid):
        raise _wrong("image_grid_pinpoints", f"a list of [height, width], multiples of {side}", given)
    return tuple((grid[0], grid[1]) for grid in grids)


def _size(config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**20:
        raise _wrong(f"vision_config.{key}", "a whole number, 1 or more", value)
    return value


def _wrong(key: str, expected: object, value: object) -> CheckpointError:
    return CheckpointError(
        f"the config's {key} is wrong or not covered",
        expected=expected,
        got=repr(value)[:120],
        where=f"config.json, {key}",
        next_step="get the folder's small files again from where the model came from",
    )
