"""InternLM-XComposer 1: a picture as 64 tokens between two flags, whatever its size (arXiv 2309.15112 §3.1).

    picture ─ squeezed into 224 x 224 ─→ EVA-CLIP ─→ norm ─→ Q-Former ─→ one linear map ─→ [flag │ 64 tokens │ flag]

Shapes are read off the tensors; no config has them. For random weights `vision_config` and `qformer_config` may state
others than the published model's. Its 64 queries are its paper's: config.json was not at hand, and its class says 32.

    visual_encoder.…   ln_vision.…   Qformer.bert.…   query_tokens   internlm_proj.…   flag_image_start, flag_image_end

Lesson: 6 (from features to tokens), 8 (what differs between families)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmcourse.models import TensorSource
from lmcourse.models.config_reader import ConfigReader
from lmcourse.vision.clip import ClipSpec
from lmcourse.vision.eva_clip import EVA_CLIP_G, EvaTower, eva_names, eva_sizes
from lmcourse.vision.eyes import Eyes
from lmcourse.vision.qformer import QFormer, QFormerSpec, qformer_names, qformer_sizes
from lmcourse.vision.tiles import Cutting
from lmcourse.vision.weights import ComputedTensors, Names

__all__ = ["XComposerEyes", "XComposerSpec", "drawn_xcomposer", "stored_xcomposer"]

_TOWER, _QFORMER, _QUERIES = "visual_encoder.", "Qformer.bert.", "query_tokens"
_FLAGS = ("flag_image_start", "flag_image_end")


@dataclass(frozen=True)
class XComposerSpec:
    """Everything about its eyes that is not a weight."""

    tower: ClipSpec
    qformer: QFormerSpec
    hidden: int  # of the language model
    placeholder_id: int = 0

    @property
    def cutting(self) -> Cutting:
        """The whole picture as one tile, out of shape, and queries and flags for features."""
        return Cutting(self.tower.side, self.tower.patches_per_side, way="crop", square=True, queries=self.num_tokens)

    @property
    def num_tokens(self) -> int:
        """Of any picture."""
        return self.qformer.num_queries + 2


class XComposerEyes(Eyes):
    """Tower, Q-Former, map and flags, with their weights."""

    def __init__(self, spec: XComposerSpec) -> None:
        super().__init__(spec.cutting, spec.hidden, spec.placeholder_id)
        self.spec = spec
        self.tower = EvaTower(spec.tower)
        self.norm = nn.LayerNorm(spec.tower.hidden, 1e-5)
        self.qformer = QFormer(spec.qformer)
        self.projection = nn.Linear(spec.qformer.hidden, spec.hidden)
        self.flags = nn.Parameter(torch.empty(2, spec.hidden))  # before a picture, and behind it

    @property
    def like(self) -> Tensor:
        """A weight of the tower."""
        return self.tower.positions

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [pictures, 3, side, side] → [pictures · num_tokens, hidden]."""
        seen = self.norm(self.tower(self.normalise(pixels)))
        tokens = self.projection(self.qformer(seen))
        first, last = (flag.expand(len(tokens), 1, -1) for flag in self.flags)
        return torch.cat((first, tokens, last), dim=1).flatten(0, 1)


def stored_xcomposer(source: TensorSource, hidden: int) -> tuple[XComposerEyes, Names, TensorSource]:
    """The eyes of a folder without their weights, the stored names of these, and what to read them from."""
    spec = XComposerSpec(eva_sizes(source, _TOWER), qformer_sizes(source, _QFORMER, _QUERIES), hidden)
    names: Names = {f"tower.{ours}": stored for ours, stored in eva_names(_TOWER, spec.tower.num_layers).items()}
    names |= {f"qformer.{ours}": s for ours, s in qformer_names(spec.qformer, _QFORMER, _QUERIES).items()}
    for ours, stored in (("norm", "ln_vision"), ("projection", "internlm_proj")):
        names |= {f"{ours}.{leaf}": (f"{stored}.{leaf}",) for leaf in ("weight", "bias")}
    return XComposerEyes(spec), names | {"flags": _FLAGS}, ComputedTensors(source, _computed(spec))


def _computed(spec: XComposerSpec) -> Mapping[str, Any]:
    """What is stored with axes of one, and the bias that keys do not have."""

    def rows(name: str) -> Any:
        return lambda source: source.read(name).flatten(0, -2)

    computed = {name: rows(name) for name in (_TOWER + "pos_embed", _QUERIES, *_FLAGS)}
    computed[_TOWER + "cls_token"] = lambda source: source.read(_TOWER + "cls_token").flatten()
    for n in range(spec.tower.num_layers):
        computed[f"{_TOWER}blocks.{n}.attn.k_bias"] = lambda source: torch.zeros(spec.tower.hidden)
    return computed


def drawn_xcomposer(config: Mapping[str, Any], hidden: int) -> XComposerEyes:
    """Eyes for random weights: the published shape, or what vision_config and qformer_config say instead.

    These two have transformers' names for CLIP's and BLIP-2's configs.
    """
    reader = ConfigReader(config)
    tower, qformer = ConfigReader(reader.table("vision_config")), ConfigReader(reader.table("qformer_config"))
    plain, bert = EVA_CLIP_G, QFormerSpec()
    eva = dataclasses.replace(
        plain,
        hidden=tower.count("hidden_size", default=plain.hidden),
        intermediate=tower.count("intermediate_size", default=plain.intermediate),
        num_layers=tower.count("num_hidden_layers", default=plain.num_layers),
        num_heads=tower.count("num_attention_heads", default=plain.num_heads),
        side=tower.count("image_size", default=plain.side),
        patch=tower.count("patch_size", default=plain.patch),
    )
    queries = QFormerSpec(
        hidden=qformer.count("hidden_size", default=bert.hidden),
        intermediate=qformer.count("intermediate_size", default=bert.intermediate),
        num_layers=qformer.count("num_hidden_layers", default=bert.num_layers),
        num_queries=reader.count("num_query_token", default=bert.num_queries),
        seen=eva.hidden,
    )
    return XComposerEyes(XComposerSpec(eva, queries, hidden))
