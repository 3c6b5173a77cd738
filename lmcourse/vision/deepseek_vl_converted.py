"""transformers' configs of DeepSeek-VL (model_type deepseek_vl and deepseek_vl_hybrid): every size is stated.

    vision_config             SigLIP's, where it differs from its class's defaults
    high_res_vision_config    SAM's; not in deepseek_vl
    preprocessor_config       or processor_config: sides, colours, filters

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from dataclasses import replace

from lmcourse.vision.clip import ACTIVATIONS, ClipSpec
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
    uncovered,
    wrong,
)
from lmcourse.vision.sam import SamSpec
from lmcourse.vision.square import CLIP_COLOURS, Fitting

__all__ = ["read_converted"]

_SAM_ARITHMETIC = {"hidden_act": "gelu", "use_rel_pos": True, "use_abs_pos": True, "num_channels": 3}
_BILINEAR, _BICUBIC = 2, 3


def read_converted(config: Config, processor: Config, *, hybrid: bool) -> DeepseekVlSpec:
    """Without what only the language model's config says."""
    low = _read_siglip(read_table(config, "vision_config"))
    high = _read_sam(read_table(config, "high_res_vision_config"), low) if hybrid else None
    for key in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        if processor.get(key, True) is not True:
            raise wrong(key, "true", processor[key])
    low_colours = read_colours(processor, CLIP_COLOURS if processor else PLAIN_COLOURS)
    high_colours = read_colours(processor, CLIP_COLOURS, "high_res_image_")
    _check_side(processor, "size", low.side)
    resample = read_count(processor, "resample", _BILINEAR if hybrid and not processor else _BICUBIC)
    smallest = read_count(processor, "min_size", 14)
    fitting = Fitting(low.side, smallest, background(low_colours), rounds=True, resample=resample)
    if high is not None:
        _check_side(processor, "high_res_size", high.side)
        large = Fitting(high.side, smallest, background(high_colours), rounds=True)
        filters = read_count(processor, "high_res_resample", _BICUBIC)
        fitting = replace(large, resample=filters, small_side=low.side, small_resample=resample)
    return DeepseekVlSpec(low, high, 2, low_colours, high_colours, fitting)


def _check_side(processor: Config, key: str, side: int) -> None:
    stated = processor.get(key) or side
    sides = list(stated.values()) if isinstance(stated, dict) else [stated]
    if any(length not in (side, None) for length in sides):
        raise wrong(key, f"{side}, the tower's", stated)


def _read_siglip(config: Config) -> ClipSpec:
    read_name(config, "model_type", "siglip_vision_model", ("siglip_vision_model",), "vision_config")
    activation = read_name(config, "hidden_act", "gelu_pytorch_tanh", ACTIVATIONS, "vision_config")
    spec = ClipSpec(
        hidden=read_count(config, "hidden_size", 768),
        intermediate=read_count(config, "intermediate_size", 3072),
        num_layers=read_count(config, "num_hidden_layers", 12),
        num_heads=read_count(config, "num_attention_heads", 12),
        side=read_count(config, "image_size", 224),
        patch=read_count(config, "patch_size", 16),
        activation=activation,
        norm_eps=read_number(config, "layer_norm_eps", 1e-6),
    )
    _check_division("vision_config", spec)
    return spec


def _read_sam(config: Config, low: ClipSpec) -> SamSpec:
    for key, wanted in _SAM_ARITHMETIC.items():
        if config.get(key, wanted) != wanted:
            raise uncovered(f"{key} {config[key]!r}", str(wanted), "config.json, high_res_vision_config")
    hidden, layers = read_count(config, "hidden_size", 768), read_count(config, "num_hidden_layers", 12)
    wide = config.get("global_attn_indexes", SamSpec().global_layers)
    if not isinstance(wide, list | tuple) or not wide or any(number not in range(layers) for number in wide):
        raise wrong("high_res_vision_config.global_attn_indexes", f"numbers of {layers} layers", wide)
    spec = SamSpec(
        hidden=hidden,
        intermediate=read_count(config, "mlp_dim", int(hidden * read_number(config, "mlp_ratio", 4.0))),
        num_layers=layers,
        num_heads=read_count(config, "num_attention_heads", 12),
        side=read_count(config, "image_size", 1024),
        patch=read_count(config, "patch_size", 16),
        window=read_count(config, "window_size", 14),
        global_layers=tuple(wide),
        channels=read_count(config, "output_channels", 256),
        features_per_side=low.patches_per_side,
        qkv_bias=config.get("qkv_bias", True) is not False,
        norm_eps=read_number(config, "layer_norm_eps", 1e-6),
    )
    _check_division("high_res_vision_config", spec)
    return spec


def _check_division(key: str, spec: ClipSpec | SamSpec) -> None:
    if spec.side % spec.patch or spec.hidden % spec.num_heads:
        got = f"{spec.side} / {spec.patch}, {spec.hidden} / {spec.num_heads}"
        raise wrong(key, "sizes that divide each other", got)
