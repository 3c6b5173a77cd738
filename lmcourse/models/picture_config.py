"""Configs of language models that were published as parts of InternLM-XComposer → ModelSpec.

    InternLMXComposerForCausalLM     InternLM 7B; what was learned for pictures is a LoRA on some of its matrices, which
                                     loading merges into them (lora.py)
    InternLMXComposer2ForCausalLM    InternLM2 7B; a LoRA that acts at the tokens of pictures alone stays beside every
                                     matrix. Its rank is in no config: the published class says 256, scaled by 1

Biases of version 1: `kqvo_bias`, unless `intern_converted_llm` is false, for which the published class builds none.

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmcourse.models.config_reader import ConfigReader
from lmcourse.models.hf_config import internlm2_spec, internlm_spec
from lmcourse.spec import ModelSpec

__all__ = ["XCOMPOSER2", "xcomposer_spec"]

Config = Mapping[str, Any]
XCOMPOSER2 = "InternLMXComposer2ForCausalLM"
_RANK = 256


def xcomposer_spec(config: Config) -> ModelSpec:
    """Either version."""
    reader = ConfigReader(config)
    if XCOMPOSER2 in (reader.get("architectures") or []):
        spec = internlm2_spec({"bias": False, **config})
        return dataclasses.replace(spec, family="xcomposer", layer="pictured", picture_rank=_RANK)
    converted = reader.flag("intern_converted_llm", default=True)
    bias = converted and reader.flag("kqvo_bias", default=True)
    spec = internlm_spec({"rms_norm_eps": 1e-5, **config, "bias": bias})
    return dataclasses.replace(spec, family="xcomposer")
