"""A DeepSeek-VL folder, in the publisher's layout or transformers' → eyes without weights, and what these are called.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from PIL import Image

from lmcourse.models import LanguagePart, TensorSource
from lmcourse.vision.deepseek_vl import DeepseekVlEyes
from lmcourse.vision.deepseek_vl_converted import read_converted
from lmcourse.vision.deepseek_vl_names import IDLE, Spelling, spell
from lmcourse.vision.deepseek_vl_published import is_hybrid, read_published
from lmcourse.vision.deepseek_vl_spec import Config, DeepseekVlSpec, wrong
from lmcourse.vision.llava_config import read_processor
from lmcourse.vision.weights import Names

__all__ = ["plan_deepseek_vl", "warn_of_unused"]

_PUBLISHED = "MultiModalityCausalLM"
_HYBRID = "DeepseekVLHybridForConditionalGeneration"
_MOST_LAYERS = 2**12
_IMAGE_ID = 100015  # <image_placeholder> in the published vocabulary; the publisher's configs do not say


def plan_deepseek_vl(
    config: Config, folder: Path, source: TensorSource | None, *, hidden: int, vocab: int
) -> tuple[DeepseekVlEyes, Names]:
    """source: the stored tensors, None where weights are drawn; hidden and vocab: the language model's.

    CheckpointError or UnsupportedModelError for what cannot be.
    """
    named = config.get("architectures") or ()  # a list, or one name
    published = _PUBLISHED in named
    hybrid = is_hybrid(config) if published else _HYBRID in named
    spelling, processor = spell(source, published=published, hybrid=hybrid), read_processor(folder)
    spec = (
        read_published(config, processor, spelling, source)
        if published
        else read_converted(config, processor, hybrid=hybrid)
    )
    placeholder = config.get("image_token_id", _IMAGE_ID)
    known = isinstance(placeholder, int) and 0 <= placeholder < vocab
    spec = dataclasses.replace(spec, hidden=hidden, placeholder_id=placeholder if known else 0)
    _check(spec)
    return DeepseekVlEyes(spec), _name_all(spec, spelling)


def _check(spec: DeepseekVlSpec) -> None:
    fitting = spec.fitting
    if fitting.smallest > fitting.side or max(fitting.resample, fitting.small_resample) > Image.Resampling.HAMMING:
        raise wrong("min_size or resample", f"at most {fitting.side}; a filter of PIL", fitting)
    deepest = max(spec.num_maps, spec.low.num_layers, spec.high.num_layers if spec.high else 0)
    if deepest > _MOST_LAYERS:
        raise wrong("num_hidden_layers or depth", f"at most {_MOST_LAYERS}", deepest)
    if spec.high is not None and spec.hidden % 2:
        raise wrong("hidden_size", "an even number: each tower is mapped to one half", spec.hidden)


def _name_all(spec: DeepseekVlSpec, spelling: Spelling) -> Names:
    names = {"low." + ours: stored for ours, stored in spelling.siglip(spec.low.num_layers).items()}
    if spec.high is not None:
        names |= {"high." + ours: stored for ours, stored in spelling.sam(spec.high.num_layers).items()}
    return names | {"aligner." + ours: stored for ours, stored in spelling.aligner(spec.num_maps).items()}


def warn_of_unused(names: Names, source: TensorSource) -> None:
    """Name the tensors that belong neither to the eyes nor to the language model."""
    used = {stored for parts in names.values() for stored in parts} | LanguagePart(source).stored_names
    unused = sorted(name for name in source.tensors.keys() - used if not any(idle in name for idle in IDLE))
    if unused:
        more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
        told = ", ".join(unused[:8]) + more
        warnings.warn(f"{source.folder.name} holds tensors that the model does not use: {told}", stacklevel=3)
