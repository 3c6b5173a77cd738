"""RandomCheckpoint: a folder whose weights are drawn, not stored, for measuring a shape without its gigabytes.

    config.json            a real model's shape
    random_weights.json    {"seed": 0, "std": 0.02}      in place of the safetensors
    quantization_config    in config.json: 4-bit matrices (zeros of 7 or 8); with head_bits 8, an int8 head

It offers what Checkpoint offers, under the names that the family's files have, so loading and converting see no
difference. Element i of a tensor is splitmix64 (Steele, Lea, Flood 2014, figure 17) of i plus a start that seed and
name give: integer arithmetic, the same on every device, and each tensor is drawn where it is wanted. Values are even
in ±std·√3; norms are ones. Any config.json with such a file beside it is a model.

Lesson: 2 (measuring without a download)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.decoder import meta_decoder
from lmcourse.models.files import read_json
from lmcourse.models.layouts import TensorRule, stored_tensors
from lmcourse.models.quantisation import AwqConfig
from lmcourse.models.safetensors_file import TensorInfo
from lmcourse.spec import ModelSpec

__all__ = ["RANDOM_FILE", "RandomCheckpoint", "RandomTensors", "draws_weights"]

RANDOM_FILE = "random_weights.json"
_WORDS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}  # a spec's dtypes as safetensors calls them
_CHUNK = 2**22  # elements drawn at a time: their 64-bit counters are the only memory besides the tensor


def draws_weights(folder: Path) -> bool:
    """Whether the folder's weights are drawn: it says how, and has none."""
    return (folder / RANDOM_FILE).is_file() and not any(folder.glob("*.safetensors"))


class RandomTensors:
    """Tensors by name, each made when it is read; the same seed and name give the same bits on every device."""

    def __init__(
        self, folder: Path, infos: Iterable[TensorInfo], device: torch.device, norms: Collection[str] = ()
    ) -> None:
        """norms: names of those that are ones."""
        self.folder, self._device, self._norms = folder, device, norms
        self._seed, std = _read_settings(folder / RANDOM_FILE)
        self._shapers = _shapers(std)
        self.tensors = {info.name: info for info in infos}

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """The tensor on the checkpoint's device, in the config's dtype."""
        dtype = self.tensors[name].torch_dtype
        if name in self._norms:
            return torch.ones(self.tensors[name].shape, dtype=dtype, device=self._device)
        return self._draw(name, dtype)

    def read_words(self, name: str) -> Tensor:
        """A packed tensor, as int32, or int8."""
        return self._draw(name, torch.int8 if self.tensors[name].dtype == "I8" else torch.int32)

    def _draw(self, name: str, dtype: torch.dtype) -> Tensor:
        shape, shaper = self.tensors[name].shape, self._shapers.get(name.rsplit(".", 1)[-1], self._shapers["weight"])
        start = int.from_bytes(hashlib.sha256(f"{self._seed}:{name}".encode()).digest()[:8], "little", signed=True)
        flat = torch.empty(math.prod(shape), dtype=dtype, device=self._device)
        for begin in range(0, flat.numel(), _CHUNK):
            part = flat[begin : begin + _CHUNK]
            counters = torch.arange(begin, begin + part.numel(), device=self._device)
            part.copy_(shaper(_mix(counters, start)))
        return flat.view(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder.name}: {len(self.tensors)} tensors, seed {self._seed})"


class RandomCheckpoint(RandomTensors):
    """The tensors that a decoder-only model of this shape has."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        rules: tuple[TensorRule, ...],
        device: torch.device,
        quantised: AwqConfig | None = None,
    ) -> None:
        """quantised: the layers' matrices are AWQ's, with values of the same deviation."""
        stored: list[TensorInfo] = []
        norms: set[str] = set()
        for canonical, info in _plain_infos(folder / RANDOM_FILE, spec, rules):
            module, leaf = canonical.rsplit(".", 1)
            stored += _stored_infos(module, info, quantised)
            norms |= {info.name} if module.endswith("norm") and leaf == "weight" else set()
        super().__init__(folder, stored, device, norms)


def _shapers(std: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """From 64 random bits to an element, by the last part of a tensor's name."""
    unit = 1 / 2**23  # the upper 24 bits, signed, times this are even in [-1, 1)
    of_four_bits = math.sqrt((16**2 - 1) / 12)  # deviation of 0 … 15, all as likely
    of_eight_bits = math.sqrt((256**2 - 1) / 12)
    return {
        "weight": lambda bits: (bits >> 40).to(torch.float32).mul_(std * math.sqrt(3) * unit),
        "qweight": lambda bits: (bits >> 32).to(torch.int32),
        "qzeros": lambda bits: ((bits >> 32).to(torch.int32) & 0x11111111) + 0x77777777,
        "scales": lambda bits: (bits >> 40).to(torch.float32).mul_(unit / 4).add_(1).mul_(std / of_four_bits),
        "row_scales": lambda bits: (bits >> 40).to(torch.float32).mul_(unit / 4).add_(1).mul_(std / of_eight_bits),
    }


def _plain_infos(file: Path, spec: ModelSpec, rules: tuple[TensorRule, ...]) -> Iterator[tuple[str, TensorInfo]]:
    """What a checkpoint of this family and shape would hold, and which canonical weight it is part of."""
    itemsize = getattr(torch, spec.dtype).itemsize
    for canonical, weight in meta_decoder(spec).named_parameters():
        stored = stored_tensors(rules, canonical)
        for name, shape in zip(stored.sources, stored.rule.shapes(spec, tuple(weight.shape)), strict=True):
            yield canonical, TensorInfo(name, shape, _WORDS[spec.dtype], math.prod(shape) * itemsize, file)


def _is_quantised(module: str, info: TensorInfo) -> bool:
    """The layers' matrices, except routers, which are small and decide much, what is added for pictures, and Dbrx's,
    which are no modules."""
    is_matrix = len(info.shape) == 2 and info.name.endswith(".weight")
    return is_matrix and module.startswith("layers.") and not module.endswith(("router", "reduce", "expand"))


def _stored_infos(module: str, info: TensorInfo, quantised: AwqConfig | None) -> Iterator[TensorInfo]:
    """What a checkpoint that is quantised so stores in the place of a plain tensor."""
    if quantised is not None and module == "head" and quantised.head_bits == 8:
        rows, stem = info.shape[0], info.name.removesuffix("weight")
        yield TensorInfo(stem + "qweight", info.shape, "I8", math.prod(info.shape), info.file)
        yield TensorInfo(stem + "row_scales", (rows, 1), "F32", rows * 4, info.file)
    elif quantised is not None and _is_quantised(module, info):
        yield from _packed_infos(info, quantised)
    else:
        yield info


def _packed_infos(info: TensorInfo, quantised: AwqConfig) -> Iterator[TensorInfo]:
    """AWQ's three tensors for a matrix (version gemm: input features first)."""
    out_features, in_features = info.shape
    groups = in_features // (quantised.group_size or in_features)
    for leaf, shape, dtype, size in (
        ("qweight", (in_features, out_features // 8), "I32", 4),
        ("qzeros", (groups, out_features // 8), "I32", 4),
        ("scales", (groups, out_features), "F16", 2),
    ):
        name = info.name.removesuffix("weight") + leaf
        yield TensorInfo(name, shape, dtype, math.prod(shape) * size, info.file)


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
