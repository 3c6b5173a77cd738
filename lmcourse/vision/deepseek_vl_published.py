"""The publisher's configs of DeepSeek-VL (model_type multi_modality): towers are named, not described.

    vision_config.params     1.3B {model_name, image_size, …}       7B {low_res_cfg: {…}, high_res_cfg: {…}}
    aligner_config.params    projector_type and depth
    preprocessor_config      how pictures are fitted. For two towers it leaves colours to them: do_normalize is false

The sizes of a named tower are those of the stored tensors; where weights are drawn, those published under the name.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmcourse.models import TensorSource
from lmcourse.vision.clip import ClipSpec
from lmcourse.vision.deepseek_vl_names import Spelling, measure_sam, measure_siglip
from lmcourse.vision.deepseek_vl_spec import (
    PLAIN_COLOURS,
    Config,
    DeepseekVlSpec,
    background,
    read_colours,
    read_count,
    read_name,
    read_number,
    read_table,
    wrong,
)
from lmcourse.vision.sam import SamSpec
from lmcourse.vision.square import CLIP_COLOURS, Colours, Fitting

__all__ = ["is_hybrid", "read_published"]

_SIGLIPS = {  # stored tensors tell these sizes, but not in how many heads they are read
    "siglip_large_patch16_384": ClipSpec(1024, 4096, 24, 16, 384, 16, "gelu", 1e-6),
}
_SAMS = {"sam_b_downsample": SamSpec()}
_WHERE = "vision_config.params"


@dataclass(frozen=True)
class _Stored:
    """Where the tensors are; source None: they are drawn."""

    spelling: Spelling
    source: TensorSource | None


def is_hybrid(config: Config) -> bool:
    """Whether there are two towers."""
    vision = read_table(config, "vision_config")
    kinds = ("CLIPVisionTower", "HybridVisionTower")
    return read_name(vision, "cls", kinds[0], kinds, "vision_config.cls") == kinds[1]


def read_published(
    config: Config, processor: Config, spelling: Spelling, source: TensorSource | None
) -> DeepseekVlSpec:
    """Without what only the language model's config says."""
    params, stored = read_table(read_table(config, "vision_config"), "params"), _Stored(spelling, source)
    low_params, high_params = params, dict[str, object]()
    if spelling.hybrid:
        low_params, high_params = read_table(params, "low_res_cfg"), dict(read_table(params, "high_res_cfg"))
        read_name(params, "concat_type", "tuple", ("tuple",), _WHERE)
    low = _read_siglip(low_params, stored)
    high = _read_sam(high_params, low, stored) if spelling.hybrid else None
    side = low.side if high is None else high.side
    if read_count(processor, "image_size", side) != side:
        raise wrong("image_size", side, processor["image_size"])
    if abs(read_number(processor, "rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise wrong("rescale_factor", 1 / 255, processor["rescale_factor"])
    own = _processor_colours(processor, CLIP_COLOURS if high is not None else PLAIN_COLOURS)
    applied = own if processor.get("do_normalize", high is None) else None
    return DeepseekVlSpec(
        low=low,
        high=high,
        num_maps=_count_maps(config, spelling),
        low_colours=_tower_colours(low_params, applied),
        high_colours=_tower_colours(high_params, applied),
        fitting=Fitting(side, read_count(processor, "min_size", 14), background(own), rounds=False),
    )


def _processor_colours(processor: Config, usual: Colours) -> Colours | None:
    stated_as_none = "image_mean" in processor and processor["image_mean"] is None
    return None if stated_as_none else read_colours(processor, usual)


def _tower_colours(params: Config, applied: Colours | None) -> Colours:
    """What the processor does to colours, and what the tower then does itself."""
    stated = params.get("pixel_mean") is not None and params.get("pixel_std") is not None
    own = read_colours(params, PLAIN_COLOURS, "pixel_") if stated else None
    if own is None or applied is None:
        return own or applied or Colours((0.0,) * 3, (1.0,) * 3)
    return applied.then(own)


def _read_siglip(params: Config, stored: _Stored) -> ClipSpec:
    spec = _SIGLIPS[read_name(params, "model_name", next(iter(_SIGLIPS)), _SIGLIPS, _WHERE)]
    side, layers, last = read_count(params, "image_size", spec.side), spec.num_layers, params.get("select_layer", -1)
    if not isinstance(last, int) or isinstance(last, bool) or not -layers <= last <= layers:
        raise wrong("select_layer", f"a layer of {layers}", last)
    spec = replace(spec, side=side, num_layers=layers + last + 1 if last <= 0 else last)
    if stored.source is not None:  # layers behind the last that is taken were never stored
        spec = measure_siglip(spec, stored.spelling, stored.source)
    if spec.side != side or side % spec.patch or spec.hidden % spec.num_heads:
        width = f"and a width that {spec.num_heads} divides"
        raise wrong("image_size", f"{spec.side}, {width}", f"{side}, {spec.hidden}")
    return spec


def _read_sam(params: Config, low: ClipSpec, stored: _Stored) -> SamSpec:
    side = read_count(params, "image_size", 1024)
    name = read_name(params, "model_name", "none", _SAMS, _WHERE + ".high_res_cfg")
    spec = replace(_SAMS[name], side=side, features_per_side=low.patches_per_side)
    if stored.source is not None:
        spec = measure_sam(spec, stored.spelling, stored.source)
    if spec.side != side:
        raise wrong("high_res_cfg.image_size", spec.side, side)
    return spec


def _count_maps(config: Config, spelling: Spelling) -> int:
    params = read_table(read_table(config, "aligner_config"), "params")
    covered = ("low_high_hybrid_split_mlp_gelu",) if spelling.hybrid else ("mlp_gelu", "linear")
    kind = read_name(params, "projector_type", "none", covered, "aligner_config.params")
    return 1 if kind == "linear" else read_count(params, "depth", 1)
