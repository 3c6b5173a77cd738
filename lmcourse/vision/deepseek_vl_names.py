"""Which stored tensors DeepSeek-VL's eyes are made of, as its publisher spells them and as transformers does.

    multi_modality    vision_model.vision_tower.…              1.3B, SigLIP as timm names it
                      vision_model.vision_tower_low.vision_tower.…     7B, and SAM beside it in vision_tower_high
                      aligner.layers.0, .2                     aligner.low_up_proj, .high_up_proj, .layers.1
    transformers      model.vision_model.…                     SigLIP as transformers names it
                      model.high_res_vision_….…                SAM's tower, its second neck, its halvings, alpha
                      model.aligner.…

Published files also hold what the published program never uses: SigLIP's pooling head, and two norms beside the towers.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

from lmcourse.errors import CheckpointError
from lmcourse.models import TensorSource
from lmcourse.vision.clip import ClipSpec
from lmcourse.vision.sam import SamSpec
from lmcourse.vision.weights import LAYER_NAMES, Names, find_prefix

__all__ = ["IDLE", "Spelling", "measure_sam", "measure_siglip", "spell"]

IDLE = (".attn_pool.", ".high_layer_norm.", ".low_layer_norm.", ".head.", ".position_ids")  # in names of unused tensors

_LEAVES = ("weight", "bias")
_TIMM_LAYER = {
    "attention_norm": ("norm1",),
    "qkv": ("attn.qkv",),
    "output": ("attn.proj",),
    "mlp_norm": ("norm2",),
    "up": ("mlp.fc1",),
    "down": ("mlp.fc2",),
}
_SAM_LAYER = {
    "attention_norm": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.output": "attn.proj",
    "mlp_norm": "norm2",
    "up": "mlp.lin1",
    "down": "mlp.lin2",
}
_NECK = {"narrow": ("0", "conv1"), "narrow_norm": ("1", "layer_norm1"), "blend": ("2", "conv2")}
_NECK |= {"blend_norm": ("3", "layer_norm2")}


@dataclass(frozen=True)
class Spelling:
    """One folder's way of naming."""

    published: bool  # the publisher's; else transformers'
    hybrid: bool  # there are two towers
    low: str = ""  # what SigLIP's names begin with
    high: str = ""  # what SAM's names begin with
    outer: str = ""  # what all names begin with

    def siglip(self, num_layers: int) -> Names:
        """For the parameters of a SiglipTower."""
        patches, positions, norm, layers, parts = (
            ("patch_embed.proj", "pos_embed", "norm", "blocks", _TIMM_LAYER)
            if self.published
            else (
                "embeddings.patch_embedding", "embeddings.position_embedding.weight", "post_layernorm",
                "encoder.layers", LAYER_NAMES,
            )
        )  # fmt: skip
        names: Names = {"positions": (self.low + positions,)}
        for leaf in _LEAVES:
            names[f"patches.{leaf}"] = (f"{self.low}{patches}.{leaf}",)
            names[f"norm.{leaf}"] = (f"{self.low}{norm}.{leaf}",)
            for n in range(num_layers):
                for module, stored in parts.items():
                    sources = tuple(f"{self.low}{layers}.{n}.{part}.{leaf}" for part in stored)
                    names[f"layers.{n}.{module}.{leaf}"] = sources
        return names

    def sam(self, num_layers: int) -> Names:
        """For the parameters of a SamTower."""
        high, outer = self.high, self.outer
        layers, patches = ("blocks", "proj") if self.published else ("layers", "projection")
        behind = (high + "neck_hd", high + "downsamples.", high + "hd_alpha_downsamples")
        if not self.published:
            parts = ("neck", "proj.conv", "alpha")
            behind = tuple(f"{outer}high_res_vision_{part}" for part in parts)  # type: ignore[assignment]
        names: Names = {"positions": (high + "pos_embed",), "alpha": (behind[2],)}
        names |= {f"halvings.{i}.weight": (f"{behind[1]}{i + (not self.published)}.weight",) for i in range(2)}
        for leaf in _LEAVES:
            names[f"patches.{leaf}"] = (f"{high}patch_embed.{patches}.{leaf}",)
            for module, stored in _NECK.items():
                part = stored[not self.published]
                names[f"neck.{module}.{leaf}"] = (f"{high}neck.{part}.{leaf}",)
                names[f"early_neck.{module}.{leaf}"] = (f"{behind[0]}.{part}.{leaf}",)
        for n in range(num_layers):
            names |= self._sam_layer(f"layers.{n}.", f"{high}{layers}.{n}.")
        return names

    def _sam_layer(self, ours: str, stored: str) -> Names:
        names: Names = {
            f"{ours}attention.rows": (f"{stored}attn.rel_pos_h",),
            f"{ours}attention.columns": (f"{stored}attn.rel_pos_w",),
        }
        for module, part in _SAM_LAYER.items():
            named = part if self.published else part.replace("norm", "layer_norm")
            names |= {f"{ours}{module}.{leaf}": (f"{stored}{named}.{leaf}",) for leaf in _LEAVES}
        return names

    def aligner(self, num_maps: int) -> Names:
        """For the parameters of an Aligner."""
        stem = self.outer + "aligner."
        if self.hybrid:
            high, low = ("high_up_proj", "low_up_proj") if self.published else ("high_res_vision_proj", "vision_proj")
            modules = {"high": high, "low": low}
            later = [f"layers.{2 * i + 1}" if self.published else "proj" for i in range(num_maps - 1)]
        else:
            modules, later = {}, [f"layers.{2 * i}" if self.published else f"linear{i + 1}" for i in range(num_maps)]
            later = ["layers"] if self.published and num_maps == 1 else later
        modules |= {f"maps.{i}": name for i, name in enumerate(later)}
        return {f"{ours}.{leaf}": (f"{stem}{name}.{leaf}",) for ours, name in modules.items() for leaf in _LEAVES}


def spell(source: TensorSource | None, *, published: bool, hybrid: bool) -> Spelling:
    """How a folder names its tensors; source None: weights are drawn."""
    if published:
        stem = "vision_model.vision_tower"
        low = stem + ("_low.vision_tower." if hybrid else ".")
        return Spelling(published, hybrid, low, stem + "_high.vision_tower.")
    if source is None:
        return Spelling(published, hybrid)
    marks = ["embeddings.patch_embedding.weight", "aligner.linear1.weight"]
    if hybrid:
        marks = [marks[0], "aligner.proj.weight", "patch_embed.projection.weight"]
    found = [find_prefix(source, mark) for mark in marks]
    if None in found:
        raise _missing(source, marks[found.index(None)])
    low, outer, *high = (prefix or "" for prefix in found)
    return Spelling(published, hybrid, low, "".join(high), outer)


def measure_siglip(spec: ClipSpec, spelling: Spelling, source: TensorSource) -> ClipSpec:
    """The sizes that the stored tensors have."""
    shapes = {name.removeprefix(spelling.low): info.shape for name, info in source.tensors.items()}
    hidden, _, patch, _ = _shape(shapes, "patch_embed.proj.weight", source, 4)
    count = _shape(shapes, "pos_embed", source, 3)[1]
    return replace(
        spec,
        hidden=hidden,
        intermediate=_shape(shapes, "blocks.0.mlp.fc1.weight", source, 2)[0],
        num_layers=_count_layers(source, spelling.low),
        patch=patch,
        side=patch * isqrt(count),
    )


def measure_sam(spec: SamSpec, spelling: Spelling, source: TensorSource) -> SamSpec:
    """The sizes that the stored tensors have; which layers are global is told by how far their biases reach."""
    shapes = {name.removeprefix(spelling.high): info.shape for name, info in source.tensors.items()}
    hidden, _, patch, _ = _shape(shapes, "patch_embed.proj.weight", source, 4)
    grid, layers = _shape(shapes, "pos_embed", source, 4)[1], _count_layers(source, spelling.high)
    reach = [_shape(shapes, f"blocks.{n}.attn.rel_pos_h", source, 2) for n in range(layers)]
    spans = [(rows + 1) // 2 for rows, _ in reach]
    wide = tuple(number for number, span in enumerate(spans) if span == grid)
    windows = set(spans) - {grid}
    if not wide or len(windows) > 1:
        raise CheckpointError(
            "SAM's layers have windows that go together with nothing",
            expected=f"some layers of {grid} patches, the others all of one smaller window",
            got=sorted(set(spans)),
            where=source.folder,
            next_step="get the model's files again",
        )
    return replace(
        spec,
        hidden=hidden,
        intermediate=_shape(shapes, "blocks.0.mlp.lin1.weight", source, 2)[0],
        num_layers=layers,
        num_heads=max(1, hidden // reach[0][1]),
        side=patch * grid,
        patch=patch,
        window=min(windows, default=grid),
        global_layers=wide,
        channels=_shape(shapes, "neck.0.weight", source, 4)[0],
    )


def _count_layers(source: TensorSource, prefix: str) -> int:
    stem = prefix + "blocks."
    numbers = [int(name.removeprefix(stem).split(".")[0]) for name in source.tensors if name.startswith(stem)]
    return max(numbers, default=-1) + 1


def _shape(shapes: dict[str, tuple[int, ...]], name: str, source: TensorSource, dims: int) -> tuple[int, ...]:
    if len(shapes.get(name, ())) != dims:
        raise _missing(source, name)
    return shapes[name]


def _missing(source: TensorSource, name: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint has no tensor that ends in {name}", expected=name, got=f"{len(source.tensors)} tensors",
        where=source.folder, next_step="a shard may be missing: get the model's files again",
    )  # fmt: skip
