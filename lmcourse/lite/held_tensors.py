"""HeldTensors: stored tensors that are in memory, in the place of a checkpoint's.

    {"…wqkv.weight": tensor}                       what a WeightStream turns into a layer, as it does with a file's
    {"…wqkv.qweight": …, "…qzeros", "…scales"} ──unpacked──▶ {"…wqkv.weight": what a reader of these gets}

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lmcourse.models import DecoderLayer, TensorInfo, WeightStream, make_layer
from lmcourse.quant import unpack_columns

__all__ = ["HeldTensors", "held_weights", "read_layer", "unpacked"]

_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


class HeldTensors:
    """A TensorSource of plain weights."""

    def __init__(self, folder: Path, held: Mapping[str, Tensor]) -> None:
        self.folder, self._held = folder, held
        self.tensors: dict[str, TensorInfo] = {
            name: TensorInfo(name, tuple(tensor.shape), _NAMES[tensor.dtype], tensor.nbytes, folder)
            for name, tensor in held.items()
        }

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.nbytes for tensor in self._held.values())

    def read(self, name: str) -> Tensor:
        """As it is held."""
        return self._held[name]

    def read_words(self, name: str) -> Tensor:
        """Nothing here is packed."""
        raise KeyError(name)


def held_weights(weights: WeightStream, held: Mapping[str, Tensor]) -> WeightStream:
    """The same model's stream over stored tensors that are in memory."""
    return dataclasses.replace(weights, checkpoint=HeldTensors(weights.checkpoint.folder, held))


def read_layer(weights: WeightStream, number: int) -> DecoderLayer:
    """A layer with its weights."""
    with torch.device("meta"):
        layer = make_layer(weights.spec, number)
    for stored, weight in weights.layer(number):
        module, leaf = stored.name.split(".", 2)[2].rsplit(".", 1)
        setattr(layer.get_submodule(module), leaf, torch.nn.Parameter(weight, requires_grad=False))
    return layer


def unpacked(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A layer's tensors as AWQ stores them → plain ones on the device, float32 where they were packed."""
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith((".qweight", ".qzeros", ".scales"))}
    for name in tensors:
        if name.endswith(".qweight"):
            stem = name.removesuffix("qweight")
            values, zeros = (unpack_columns(tensors[stem + leaf]).float() for leaf in ("qweight", "qzeros"))
            size = len(values) // len(zeros)
            scales = tensors[stem + "scales"].float().repeat_interleave(size, 0)
            plain[stem + "weight"] = ((values - zeros.repeat_interleave(size, 0)) * scales).t().contiguous()
    return plain
