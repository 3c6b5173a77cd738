"""RandomCheckpoint: a folder whose weights are drawn, not stored, for measuring a shape without its gigabytes.

    config.json            a real model's shape
    random_weights.json    {"seed": 0, "std": 0.02}      in place of the safetensors

It offers what Checkpoint offers, under the names that the family's files have, so loading and converting see no
difference. Element i of a tensor is splitmix64 (Steele, Lea, Flood 2014, figure 17) of i plus a start that seed and
name give: integer arithmetic, the same on every device, and each tensor is drawn where it is wanted. Values are even
in ±std·√3; norms are ones. Any config.json with such a file beside it is a model.

Lesson: 2 (measuring without a download)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.decoder import meta_decoder
from lmcourse.models.files import read_json
from lmcourse.models.layouts import TensorRule, stored_tensors
from lmcourse.models.safetensors_file import TensorInfo
from lmcourse.spec import ModelSpec

__all__ = ["RANDOM_FILE", "RandomCheckpoint"]

RANDOM_FILE = "random_weights.json"
_WORDS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}  # a spec's dtypes as safetensors calls them
_CHUNK = 2**22  # elements drawn at a time: their 64-bit counters are the only memory besides the tensor


class RandomCheckpoint:
    """Tensors by name, each made when it is read; the same seed and name give the same bits on every device."""

    def __init__(self, folder: Path, spec: ModelSpec, rules: tuple[TensorRule, ...], device: torch.device) -> None:
        self.folder, self._device = folder, device
        self._seed, self._std = _read_settings(folder / RANDOM_FILE)
        self.tensors = dict(_infos(folder / RANDOM_FILE, spec, rules))

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """The tensor on the checkpoint's device, in the config's dtype."""
        info = self.tensors[name]
        if name.endswith("norm.weight"):
            return torch.ones(info.shape, dtype=info.torch_dtype, device=self._device)
        return _draw(info, f"{self._seed}:{name}", self._std, self._device)

    def read_words(self, name: str) -> Tensor:
        """Every bit as likely 0 as 1."""
        info = self.tensors[name]
        words = torch.empty(info.shape, dtype=torch.int32, device=self._device)
        return words.random_(-(2**31), 2**31 - 1)

    def __repr__(self) -> str:
        return f"RandomCheckpoint({self.folder.name}: {len(self.tensors)} tensors, seed {self._seed})"


def _infos(file: Path, spec: ModelSpec, rules: tuple[TensorRule, ...]) -> Iterator[tuple[str, TensorInfo]]:
    """What a checkpoint of this family and shape would hold."""
    itemsize = getattr(torch, spec.dtype).itemsize
    for canonical, weight in meta_decoder(spec).named_parameters():
        stored = stored_tensors(rules, canonical)
        rows = stored.rule.source_rows(spec) if stored.rule.source_rows else weight.shape[:1]
        for name, count in zip(stored.sources, rows, strict=True):
            shape = (count, *weight.shape[1:])
            yield name, TensorInfo(name, shape, _WORDS[spec.dtype], math.prod(shape) * itemsize, file)


def _draw(info: TensorInfo, key: str, std: float, device: torch.device) -> Tensor:
    flat = torch.empty(math.prod(info.shape), dtype=info.torch_dtype, device=device)
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True)
    step = std * math.sqrt(3) / 2**23
    for begin in range(0, flat.numel(), _CHUNK):
        part = flat[begin : begin + _CHUNK]
        counters = torch.arange(begin, begin + part.numel(), device=device)
        part.copy_((_mix(counters, start) >> 40).to(torch.float32).mul_(step))  # the upper 24 bits, signed
    return flat.view(info.shape)


def _mix(counters: Tensor, start: int) -> Tensor:
    """splitmix64 in place; int64 multiplication wraps, as the algorithm wants."""
    counters.add_(1).mul_(0x9E3779B97F4A7C15 - 2**64).add_(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        counters.bitwise_xor_(_shift(counters, shift)).mul_(factor - 2**64)
    return counters.bitwise_xor_(_shift(counters, 31))


def _shift(values: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in; torch's own shift repeats the sign."""
    return (values >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _read_settings(file: Path) -> tuple[int, float]:
    settings: Mapping[str, object] = read_json(file)
    seed, std = settings.get("seed"), settings.get("std", 0.02)
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    positive = isinstance(std, int | float) and not isinstance(std, bool) and 0 < std < 1
    if not (whole and positive and settings.keys() <= {"seed", "std"}):
        raise CheckpointError(
            f"{file.name} cannot be used",
            expected='{"seed": a whole number, "std": a number between 0 and 1}',
            got=dict(settings),
            where=file,
            next_step="correct it, or remove it if the folder has weights",
        )
    assert isinstance(seed, int)
    assert isinstance(std, int | float)
    return seed, float(std)
