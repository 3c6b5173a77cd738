"""Packed weights of a checkpoint: which matrices are stored so, and their canonical words and groups.

    wqkv.qweight ──unpack──▶ values [out, in] ──stack, arrange, as plain rows──▶ pack ──▶ attention.qkv.words
    wqkv.qzeros ┐
    wqkv.scales ┴─join─────▶ groups [out, groups] ──stack, arrange──────────────────────▶ attention.qkv.groups
    output.qweight (int8), output.row_scales ──the same bytes, as words────────────────▶ head.words, head.groups

A matrix is packed if its first source has a qweight, whatever config.json says: `modules_to_not_convert`, a packed
head and a missing quantization_config need no rule of their own.

Lesson: 4 (from a checkpoint to the kernel)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.checkpoint import TensorSource
from lmcourse.models.decoder import input_widths
from lmcourse.models.layouts import StoredTensor, TensorRule, stored_tensors
from lmcourse.models.safetensors_file import TensorInfo
from lmcourse.quant import INT8_ROWS, AwqFormat, Int8Format, PackedFormat
from lmcourse.spec import ModelSpec

__all__ = ["find_formats", "packed_sources", "read_packed"]

Reader = Callable[[str, tuple[int, ...], torch.dtype], Tensor]  # a checked tensor of the checkpoint on the device
_STORED_LEAVES: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    AwqFormat: {"words": ("qweight",), "groups": ("qzeros", "scales")},
    Int8Format: {"words": ("qweight",), "groups": ("row_scales",)},
}
_INT8_MODULES = ("head",)


def find_formats(checkpoint: TensorSource, spec: ModelSpec, rules: tuple[TensorRule, ...]) -> dict[str, PackedFormat]:
    """The packed matrices, by canonical module."""
    formats: dict[str, PackedFormat] = {}
    for name, in_features in input_widths(spec).items():
        (own,) = stored_tensors(rules, f"{name}.groups").sources[:1]
        (first,) = stored_tensors(rules, f"{name}.scales").sources[:1]
        codes = first.removesuffix("scales") + "qweight"
        if own in checkpoint.tensors:  # the engine's own format
            words = checkpoint.tensors[own.removesuffix("groups") + "words"]
            formats[name] = _own_format(words, checkpoint.tensors[own], in_features)
        elif codes in checkpoint.tensors and checkpoint.tensors[codes].dtype == "I8":
            formats[name] = _int8_format(name, checkpoint.tensors[codes])
        elif codes in checkpoint.tensors and first in checkpoint.tensors:
            formats[name] = AwqFormat(_group_size(checkpoint.tensors[first], in_features, axis=0))
    return formats


def _own_format(words: TensorInfo, groups: TensorInfo, in_features: int) -> PackedFormat:
    """Four codes a word, or eight."""
    return INT8_ROWS if words.shape[1] * 4 == in_features else AwqFormat(_group_size(groups, in_features, axis=1))


def _int8_format(module: str, info: TensorInfo) -> PackedFormat:
    if module not in _INT8_MODULES:
        raise CheckpointError(
            f"{info.name} has 8 bits", expected=f"8 bits in {', '.join(_INT8_MODULES)} only", got=info.dtype,
            where=info.file, next_step="use the model's fp16 folder: this layout is not AWQ's",
        )  # fmt: skip
    return INT8_ROWS


def packed_sources(
    rules: tuple[TensorRule, ...], canonical: str, checkpoint: TensorSource, weight_format: PackedFormat
) -> StoredTensor:
    """The stored tensors of a canonical words or groups: those of the engine's format, or of the checkpoint's."""
    own = stored_tensors(rules, canonical)
    if own.sources[0] in checkpoint.tensors:
        return own
    module, leaf = canonical.rsplit(".", 1)
    by_leaf = [
        stored_tensors(rules, f"{module}.{stored}").sources for stored in _STORED_LEAVES[type(weight_format)][leaf]
    ]
    return StoredTensor(canonical, tuple(name for part in zip(*by_leaf, strict=True) for name in part), own.rule)


def read_packed(
    stored: StoredTensor, weight_format: PackedFormat, shape: tuple[int, ...], spec: ModelSpec, read: Reader
) -> Tensor:
    """A canonical words or groups, of this shape [out, …]."""
    rule, leaf = stored.rule, stored.name.rsplit(".", 1)[1]
    if rule.compute is not None:
        raise CheckpointError(
            f"{stored.sources[0]} is packed, and its family computes with it while loading",
            expected="plain weights", got="packed weights", next_step="quantise the model without its head",
        )  # fmt: skip
    if stored.sources == (stored.name,):
        return read(stored.name, shape, torch.int32)
    if isinstance(weight_format, Int8Format):
        return _INT8_READERS[leaf](stored.sources[0], shape, read)
    shapes = rule.shapes(spec, shape)
    widest = shapes[0][1]  # of the first source, which is as wide as the whole
    per_part = len(_STORED_LEAVES[AwqFormat][leaf])
    parts = []
    for i, (out_features, width) in enumerate(shapes):
        names = stored.sources[i * per_part : (i + 1) * per_part]
        parts.append(_READERS[leaf](names, (out_features, shape[1] * width // widest), read))
    whole = rule.assemble(parts, spec)
    return weight_format.pack_rows(whole) if leaf == "words" else whole.contiguous()


def _read_values(names: tuple[str, ...], shape: tuple[int, int], read: Reader) -> Tensor:
    out_features, words = shape
    return AwqFormat.rows_of_words(read(names[0], (words * 8, out_features // 8), torch.int32))


def _read_groups(names: tuple[str, ...], shape: tuple[int, int], read: Reader) -> Tensor:
    out_features, groups = shape
    zeros = read(names[0], (groups, out_features // 8), torch.int32)
    return AwqFormat.rows_of_groups(zeros, read(names[1], (groups, out_features), torch.float16))


_INT8_READERS: Mapping[str, Callable[[str, tuple[int, ...], Reader], Tensor]] = {
    "words": lambda name, shape, read: Int8Format.words(read(name, (shape[0], shape[1] * 4), torch.int8)),
    "groups": lambda name, shape, read: Int8Format.groups(read(name, (shape[0], 1), torch.float32)),
}
_READERS: Mapping[str, Callable[[tuple[str, ...], tuple[int, int], Reader], Tensor]] = {
    "words": _read_values,
    "groups": _read_groups,
}


def _group_size(info: TensorInfo, in_features: int, *, axis: int) -> int:
    groups = info.shape[axis] if len(info.shape) == 2 else 0
    if groups == 0 or in_features % groups or in_features % 8:
        raise CheckpointError(
            f"{info.name} has the wrong shape",
            expected=f"two axes, and a number of groups that divides {in_features} input features",
            got=list(info.shape),
            where=info.file,
            next_step="config and weights are of different models or versions: get both again",
        )
    return in_features // groups
