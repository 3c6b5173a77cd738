"""From the stored tensors of a vision-language folder to the tower's and the projector's weights.

    vision_tower.vision_model.…                       llava-hf; transformers 5 leaves vision_model out
    model.vision_tower.vision_tower.vision_model.…    liuhaotian
    vision_model.…                                    a CLIP folder of its own, which mm_vision_tower names

So the tower's prefix is whatever stands before embeddings.class_embedding. What follows is CLIP's in all of them.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lmcourse.errors import CheckpointError
from lmcourse.models import TensorInfo, TensorSource

__all__ = [
    "LAYER_NAMES",
    "ComputedTensors",
    "Names",
    "count_layers",
    "find_prefix",
    "load_module",
    "projector_names",
    "stored_shape",
    "stretch_grid",
    "tower_names",
    "tower_prefix",
    "tower_sizes",
]

_MARK = "embeddings.class_embedding"
LAYER_NAMES = {
    "attention_norm": ("layer_norm1",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.out_proj",),
    "mlp_norm": ("layer_norm2",),
    "up": ("mlp.fc1",),
    "down": ("mlp.fc2",),
}
Names = dict[str, tuple[str, ...]]  # parameter → the stored tensors whose rows it is made of


class ComputedTensors:
    """A source of which some tensors are computed: stored otherwise than a module wants them, or not at all."""

    def __init__(self, source: TensorSource, computed: Mapping[str, Callable[[TensorSource], Tensor]]) -> None:
        self.folder, self._source, self._computed = source.folder, source, computed
        self.tensors: dict[str, TensorInfo] = dict(source.tensors)
        anything = next(iter(source.tensors.values()))
        self.tensors |= {name: replace(anything, name=name) for name in computed if name not in self.tensors}

    @property
    def num_bytes(self) -> int:
        """Of what is stored."""
        return self._source.num_bytes

    def read(self, name: str) -> Tensor:
        """As Checkpoint.read, or computed."""
        return self._computed[name](self._source) if name in self._computed else self._source.read(name)

    def read_words(self, name: str) -> Tensor:
        """As Checkpoint.read_words."""
        return self._source.read_words(name)


def find_prefix(source: TensorSource, ending: str) -> str | None:
    """What stands before a name that ends so; None if there is none."""
    found = sorted(name for name in source.tensors if name == ending or name.endswith("." + ending))
    return found[0].removesuffix(ending) if found else None


def tower_prefix(source: TensorSource) -> str | None:
    """What the names of a tower's tensors begin with."""
    return find_prefix(source, _MARK)


def tower_names(prefix: str, num_layers: int) -> Names:
    """For the parameters of a ClipTower."""
    names: Names = {
        "class_token": (prefix + _MARK,),
        "patches.weight": (prefix + "embeddings.patch_embedding.weight",),
        "positions": (prefix + "embeddings.position_embedding.weight",),
        "norm.weight": (prefix + "pre_layrnorm.weight",),
        "norm.bias": (prefix + "pre_layrnorm.bias",),
    }
    for n in range(num_layers):
        for module, stored in LAYER_NAMES.items():
            for leaf in ("weight", "bias"):
                sources = tuple(f"{prefix}encoder.layers.{n}.{part}.{leaf}" for part in stored)
                names[f"layers.{n}.{module}.{leaf}"] = sources
    return names


def projector_names(source: TensorSource, num_maps: int) -> Names:
    """For the parameters of a Projector, in any of the four spellings."""
    ways = (
        [f"multi_modal_projector.linear_{i + 1}" for i in range(num_maps)],
        [f"mm_projector.{2 * i}" for i in range(num_maps)],
        ["mm_projector"],
        [f"vision_proj.{2 * i}" for i in range(num_maps)],
    )
    for way in ways:
        prefix = find_prefix(source, way[0] + ".weight")
        if prefix is not None and len(way) == num_maps:
            modules = [(f"maps.{i}", prefix + name) for i, name in enumerate(way)]
            return {f"{ours}.{leaf}": (f"{stored}.{leaf}",) for ours, stored in modules for leaf in ("weight", "bias")}
    raise _missing(source, "multi_modal_projector.linear_1.weight or mm_projector.0.weight")


def tower_sizes(source: TensorSource, prefix: str) -> dict[str, int]:
    """What the shapes of a tower's tensors tell of its config; heads have 64 features in every published CLIP."""
    shapes = {name.removeprefix(prefix): info.shape for name, info in source.tensors.items() if name.startswith(prefix)}
    hidden, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    positions = shapes["embeddings.position_embedding.weight"][0]
    numbers = [int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")]
    return {
        "hidden_size": hidden,
        "patch_size": patch,
        "image_size": patch * int((positions - 1) ** 0.5),
        "num_hidden_layers": max(numbers) + 1,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": max(1, hidden // 64),
    }


def stored_shape(source: TensorSource, name: str, num_axes: int) -> tuple[int, ...]:
    """The shape of a tensor; CheckpointError if there is none of this name with so many axes."""
    if name not in source.tensors:
        raise _missing(source, name)
    shape = source.tensors[name].shape
    if len(shape) != num_axes or 0 in shape:
        raise CheckpointError(
            f"{name} has the wrong shape", expected=f"{num_axes} axes, none empty", got=list(shape),
            where=source.folder, next_step="get the model's files again",
        )  # fmt: skip
    return shape


def count_layers(source: TensorSource, prefix: str) -> int:
    """One more than the highest number behind the prefix; 1 if there is none, so that what is missed has a name."""
    numbers = [name.removeprefix(prefix).split(".")[0] for name in source.tensors if name.startswith(prefix)]
    return max([int(number) for number in numbers if number.isdecimal()], default=0) + 1


def stretch_grid(positions: Tensor, side: int) -> Tensor:
    """What a square grid [old², features] says of the places of another [side², features], between them bicubic."""
    old = isqrt(len(positions))
    if old == side or old**2 != len(positions):
        return positions
    square = positions.T.reshape(1, -1, old, old)
    return interpolate(square, size=(side, side), mode="bicubic", align_corners=False)[0].flatten(1).T


def load_module(module: nn.Module, names: Mapping[str, tuple[str, ...]], source: TensorSource, like: Tensor) -> None:
    """Give a module (built on the meta device) its weights, on the device and in the dtype of `like`."""
    for name, weight in _read(module, names, source):
        owner, _, leaf = name.rpartition(".")
        placed = weight.to(device=like.device, dtype=like.dtype, copy=True)
        if not bool(torch.isfinite(placed).all()):
            raise CheckpointError(
                f"{names[name][0]} is not finite in {like.dtype}", expected="finite weights", where=source.folder,
                next_step="get the model's files again, or load it as float32",
            )  # fmt: skip
        setattr(module.get_submodule(owner), leaf, nn.Parameter(placed, requires_grad=False))


def _read(
    module: nn.Module, names: Mapping[str, tuple[str, ...]], source: TensorSource
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        parts = [_part(source, stored) for stored in names[name]]
        weight = torch.cat(parts) if len(parts) > 1 else parts[0]
        if weight.numel() != parameter.numel() or _rows(weight) != _rows(parameter):
            raise CheckpointError(
                f"{names[name][0]} has the wrong shape", expected=f"{list(parameter.shape)}, from config.json",
                got=list(weight.shape), where=source.folder,
                next_step="config and weights are of different models or versions: get both again",
            )  # fmt: skip
        yield name, weight.reshape(parameter.shape)


def _rows(weight: Tensor) -> int:
    """The first size that is not 1: some files hold tables as [1, rows, …]."""
    return next((size for size in weight.shape if size != 1), 1)


def _part(source: TensorSource, name: str) -> Tensor:
    if name not in source.tensors:
        raise _missing(source, name)
    return source.read(name)


def _missing(source: TensorSource, name: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint has no tensor {name}", expected=name, got=f"{len(source.tensors)} tensors",
        where=source.folder, next_step="a shard may be missing: get the model's files again",
    )  # fmt: skip
