"""The 21 families of the lesson's table, one row each: what a config names itself, how it is read, what it is for.

A row has a layout: a reader of its config and the rules for its tensors. Families that share an architecture share a
layout; a config says only its architecture, so the first such row speaks for all of them.

Lesson: 2 (models the engine can run)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import UnsupportedModelError
from lmcourse.models import family_rules as rules
from lmcourse.models import hf_config, moe_config, moe_rules
from lmcourse.models.family_rules import Rules
from lmcourse.models.picture_config import XCOMPOSER2, xcomposer_spec
from lmcourse.models.quantisation import read_quantisation
from lmcourse.spec import ModelSpec

__all__ = ["FAMILIES", "Family", "Layout", "find_family"]


@dataclass(frozen=True)
class Layout:
    """How a family's files are read."""

    model_type: str  # config key, used when a config names no architecture
    read_spec: Callable[[Mapping[str, Any]], ModelSpec]
    rules: Rules
    separate_rules: Rules = ()  # of checkpoints that hold a matrix for each expert where the others hold a stack

    def rules_for(self, spec: ModelSpec, stored: Collection[str] = ()) -> Rules:
        """Those of the rules that apply to a model of this spec and these tensors, with a source for each expert."""
        separate = any(re.search(r"\.experts\..*\.0\.", name) for name in stored) if self.separate_rules else False
        rules = self.separate_rules if separate else self.rules
        return tuple(rule.expanded(spec) for rule in rules if rule.applies(spec))


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    name: str
    sizes: str
    architectures: tuple[str, ...]
    layout: Layout
    modality: str = "text"
    describes: Callable[[Mapping[str, Any]], bool] = lambda config: True  # tells rows of one architecture apart

    @property
    def status(self) -> str:
        """What `lmcourse list` says of it."""
        return "runs"


_LLAMA = Layout("llama", hf_config.llama_spec, rules.LLAMA_RULES)
_INTERNLM = Layout("internlm", hf_config.internlm_spec, rules.LLAMA_RULES)
_INTERNLM2 = Layout("internlm2", hf_config.internlm2_spec, rules.INTERNLM2_RULES)
_XCOMPOSER = Layout("xcomposer", xcomposer_spec, rules.XCOMPOSER_RULES)
_QWEN = Layout("qwen", hf_config.qwen_spec, rules.QWEN_RULES)
_QWEN2 = Layout("qwen2", hf_config.qwen2_spec, rules.LLAMA_RULES)
_BAICHUAN = Layout("baichuan", hf_config.baichuan_spec, rules.BAICHUAN_RULES)
_CHATGLM = Layout("chatglm", hf_config.chatglm_spec, rules.CHATGLM_RULES)
_FALCON = Layout("falcon", hf_config.falcon_spec, rules.FALCON_RULES)
_MISTRAL = Layout("mistral", hf_config.mistral_spec, rules.LLAMA_RULES)
_MIXTRAL = Layout("mixtral", moe_config.mixtral_spec, moe_rules.MIXTRAL_RULES)
_QWEN2_MOE = Layout("qwen2_moe", moe_config.qwen2_moe_spec, moe_rules.QWEN2_MOE_RULES)
_DEEPSEEK = Layout("deepseek", moe_config.deepseek_spec, moe_rules.DEEPSEEK_RULES)
_DBRX = Layout("dbrx", moe_config.dbrx_spec, moe_rules.DBRX_RULES, moe_rules.DBRX_SEPARATE_RULES)
_GEMMA = Layout("gemma", hf_config.gemma_spec, rules.GEMMA_RULES)
_IMAGES = "text, images"

FAMILIES = (
    Family("Llama", "7B - 65B", ("LlamaForCausalLM",), _LLAMA),
    Family("Llama2", "7B - 70B", ("LlamaForCausalLM",), _LLAMA),
    Family("InternLM", "7B - 20B", ("InternLMForCausalLM",), _INTERNLM),
    Family("InternLM2", "1.8B - 20B", ("InternLM2ForCausalLM",), _INTERNLM2),
    Family("InternLM-XComposer", "7B", ("InternLMXComposerForCausalLM", XCOMPOSER2), _XCOMPOSER, _IMAGES),
    Family("QWen", "1.8B - 72B", ("QWenLMHeadModel",), _QWEN, describes=lambda config: "visual" not in config),
    Family("QWen-VL", "7B", ("QWenLMHeadModel",), _QWEN, _IMAGES, describes=lambda config: "visual" in config),
    Family("QWen1.5", "0.5B - 72B", ("Qwen2ForCausalLM",), _QWEN2),
    Family("QWen1.5-MoE", "A2.7B", ("Qwen2MoeForCausalLM",), _QWEN2_MOE),
    Family(
        "Baichuan",
        "7B - 13B",
        ("BaiChuanForCausalLM", "BaichuanForCausalLM"),
        _BAICHUAN,
        describes=lambda config: config.get("vocab_size") != rules.BAICHUAN2_VOCAB,
    ),
    Family("Baichuan2", "7B - 13B", ("BaichuanForCausalLM",), _BAICHUAN),
    Family("Code Llama", "7B - 34B", ("LlamaForCausalLM",), _LLAMA),
    Family("ChatGLM2", "6B", ("ChatGLMModel", "ChatGLMForConditionalGeneration"), _CHATGLM),
    Family("Falcon", "7B - 180B", ("FalconForCausalLM", "RWForCausalLM"), _FALCON),
    Family("Yi", "6B - 34B", ("LlamaForCausalLM",), _LLAMA),
    Family("Mistral", "7B", ("MistralForCausalLM",), _MISTRAL),
    Family("DeepSeek-MoE", "16B", ("DeepseekForCausalLM",), _DEEPSEEK),
    Family(
        "DeepSeek-VL",
        "1.3B - 7B",
        (
            "MultiModalityCausalLM",
            "DeepseekVLForConditionalGeneration",
            "DeepseekVLHybridForConditionalGeneration",
        ),
        _LLAMA,
        _IMAGES,
    ),
    Family("Mixtral", "8x7B", ("MixtralForCausalLM",), _MIXTRAL),
    Family("Gemma", "2B - 7B", ("GemmaForCausalLM",), _GEMMA),
    Family("Dbrx", "132B", ("DbrxForCausalLM",), _DBRX),
)


def find_family(config: Mapping[str, Any]) -> Family:
    """The row of a config; UnsupportedModelError names the nearest where there is none."""
    read_quantisation(config)  # raises if the weights cannot be read
    stated = config.get("architectures") or []
    named = [str(name) for name in stated] if isinstance(stated, list) else [str(stated)]
    matches = [family for family in FAMILIES if set(named) & set(family.architectures)]
    if not named:
        matches = [family for family in FAMILIES if family.layout.model_type == config.get("model_type")]
    for family in matches:
        if family.describes(config):
            return family
    raise _unsupported(named or [f"model_type {config.get('model_type')!r}"])


def _unsupported(named: list[str]) -> UnsupportedModelError:
    runs = {name: family.name for family in reversed(FAMILIES) for name in family.architectures}
    nearest = difflib.get_close_matches(named[0], runs, n=1, cutoff=0.0)[0]
    return UnsupportedModelError(
        f"no family of the table has this architecture; nearest is {runs[nearest]} ({nearest})",
        expected=" | ".join(family.name for family in FAMILIES),
        got=", ".join(map(str, named)),
        where="config.json, architectures",
        next_step="`lmcourse list` shows what runs",
    )
