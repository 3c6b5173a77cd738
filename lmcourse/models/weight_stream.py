"""WeightStream: a checkpoint's tensors as canonical weights, made one at a time in the decoder's order.

    file ──read──▶ part (stored dtype, CPU) ──cast, move──▶ part (dtype, device) ──stack, arrange──▶ weight

Besides the weights made so far, only the parts of one are in memory. A missing tensor, a wrong shape or a value that is
not finite is a CheckpointError; stored tensors that nothing asked for are one warning at the end.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.layers import ALONE, Ranks, cut_spec
from lmcourse.models.checkpoint import TensorSource
from lmcourse.models.decoder import meta_decoder, plain_shapes
from lmcourse.models.layouts import StoredTensor, TensorRule, stored_tensors
from lmcourse.models.packed_weights import find_formats, packed_sources, read_packed
from lmcourse.models.safetensors_file import TensorInfo
from lmcourse.models.shares import find_share
from lmcourse.quant import PackedFormat
from lmcourse.spec import ModelSpec

__all__ = ["WeightStream"]

_ROTARY_TABLE = "rotary_emb.inv_freq"  # published with old checkpoints; computed here


@dataclass(frozen=True)
class WeightStream:
    """Iterate to get (what it was made of, weight) pairs."""

    checkpoint: TensorSource
    spec: ModelSpec
    rules: tuple[TensorRule, ...]
    dtype: torch.dtype | None  # None: as stored
    device: torch.device
    ranks: Ranks = ALONE  # who shares the model: what is made is this rank's part of each weight

    def __iter__(self) -> Iterator[tuple[StoredTensor, Tensor]]:
        used: set[str] = set()
        for name, shape in self._shapes.items():
            stored = self._stored(name)
            used.update(stored.sources)
            yield stored, self._weight(stored, shape)
        self._warn_of_unused(used)

    @property
    def names(self) -> list[str]:
        """Of all canonical weights."""
        return list(self._shapes)

    def layer_tensors(self, number: int) -> list[StoredTensor]:
        """What one layer is made of."""
        return [self._stored(name) for name in self._shapes if name.startswith(f"layers.{number}.")]

    def layer(self, number: int) -> Iterator[tuple[StoredTensor, Tensor]]:
        """The weights of one layer."""
        for stored in self.layer_tensors(number):
            yield stored, self.weight(stored.name)

    def weight(self, canonical: str) -> Tensor:
        """One weight by its canonical name."""
        return self._weight(self._stored(canonical), self._shapes[canonical])

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all canonical weights, in the decoder's order."""
        if not self.formats:
            return plain_shapes(self.spec)
        return {name: tuple(part.shape) for name, part in meta_decoder(self.spec, self.formats).named_parameters()}

    @cached_property
    def formats(self) -> Mapping[str, PackedFormat]:
        """The packed matrices, by canonical module."""
        return find_formats(self.checkpoint, self.spec, self.rules)

    @property
    def num_bytes(self) -> int:
        """Of all weights, in the dtype that they get."""
        local = cut_spec(self.spec, self.ranks)
        weights = meta_decoder(local, self.formats, self.ranks).named_parameters()
        return sum(weight.numel() * self._dtype(name).itemsize for name, weight in weights)

    def stored_dtype(self, canonical: str) -> torch.dtype:
        """The dtype that a canonical weight has without casting."""
        if self._is_packed(canonical):
            return torch.int32
        if self._is_wide(canonical):
            return torch.float32
        dtypes = [self._info(source).torch_dtype for source in stored_tensors(self.rules, canonical).sources]
        return functools.reduce(torch.promote_types, dtypes)

    def _dtype(self, canonical: str) -> torch.dtype:
        if self._is_wide(canonical):
            return torch.float32
        return self.stored_dtype(canonical) if self.dtype is None or self._is_packed(canonical) else self.dtype

    def _is_wide(self, canonical: str) -> bool:
        """Whether a weight stays float32 whatever the model's dtype is."""
        return self.spec.wide_norms and canonical.rsplit(".", 1)[0].endswith("norm")

    def _is_packed(self, canonical: str) -> bool:
        module, leaf = canonical.rsplit(".", 1)
        return module in self.formats and leaf != "bias"

    def _format_of(self, canonical: str) -> PackedFormat:
        return self.formats[canonical.rsplit(".", 1)[0]]

    def _stored(self, canonical: str) -> StoredTensor:
        if self._is_packed(canonical):
            return packed_sources(self.rules, canonical, self.checkpoint, self._format_of(canonical))
        return stored_tensors(self.rules, canonical)

    def _weight(self, stored: StoredTensor, shape: tuple[int, ...]) -> Tensor:
        if self._is_packed(stored.name):
            whole = read_packed(stored, self._format_of(stored.name), shape, self.spec, self._part)
            return find_share(stored.name, self.spec, self.ranks).cut(whole)
        rule, dtype = stored.rule, torch.float32 if self._is_wide(stored.name) else self.dtype
        shapes = rule.shapes(self.spec, shape)
        share = find_share(stored.name, self.spec, self.ranks)
        if share.rows is not None and rule.join is None:
            return share.finish(_compute(rule, self._rows(stored, shapes, dtype, share.rows)))
        parts = [self._part(source, part, dtype) for source, part in zip(stored.sources, shapes, strict=True)]
        return share.cut(_compute(rule, rule.assemble(parts, self.spec)))

    def _rows(
        self, stored: StoredTensor, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype | None, rows: Tensor
    ) -> Tensor:
        """Some canonical rows, each read from where the rule stacks and arranges it from."""
        order = torch.arange(sum(shape[0] for shape in shapes))
        wanted = (stored.rule.arrange(order, self.spec) if stored.rule.arrange else order)[rows]
        parts, places, first = [], [], 0
        for source, shape in zip(stored.sources, shapes, strict=True):
            here = (wanted >= first) & (wanted < first + shape[0])
            parts.append(self._part(source, shape, dtype, wanted[here] - first))
            places.append(here.nonzero()[:, 0])
            first += shape[0]
        back = torch.cat(places).argsort()
        return torch.cat(parts)[back.to(self.device)]

    def _part(
        self, source: str, shape: tuple[int, ...], dtype: torch.dtype | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """A stored tensor of this shape, or some of its rows, checked, on the device."""
        info = self._info(source)
        if info.shape != shape:
            raise CheckpointError(
                f"{source} has the wrong shape",
                expected=f"{list(shape)}, from config.json",
                got=list(info.shape),
                where=info.file,
                next_step="config and weights are of different models or versions: get both again",
            )
        if dtype in (torch.int32, torch.int8):
            return self.checkpoint.read_words(source).to(device=self.device, copy=True)
        read = self.checkpoint.read(source)
        read = read if rows is None else read[rows.to(read.device)]
        # A copy even when nothing changes: what was read is still backed by the file.
        part = read.to(device=self.device, dtype=dtype or self.dtype or read.dtype, copy=True)
        if not _is_finite(part):
            raise self._not_finite(source, read)
        return part

    def _info(self, source: str) -> TensorInfo:
        if source in self.checkpoint.tensors:
            return self.checkpoint.tensors[source]
        near = difflib.get_close_matches(source, self.checkpoint.tensors, n=1)
        raise CheckpointError(
            f"the checkpoint has no tensor {source}",
            expected=source,
            got=f"{len(self.checkpoint.tensors)} tensors" + (f", nearest {near[0]}" if near else ""),
            where=self.checkpoint.folder,
            next_step="a shard may be missing: get the model's files again",
        )

    def _not_finite(self, source: str, read: Tensor) -> CheckpointError:
        overflow = _is_finite(read)
        return CheckpointError(
            f"{source} is not finite" + (f" in {self.dtype}" if overflow else ""),
            expected="finite weights",
            got=f"values up to {read.abs().max().item():.4g}" if overflow else "NaN or infinity",
            where=self.checkpoint.tensors[source].file,
            next_step="load the model as bfloat16 or float32" if overflow else "get this file again, it is damaged",
        )

    def _warn_of_unused(self, used: set[str]) -> None:
        tied = stored_tensors(self.rules, "head.weight").sources if self.spec.tie_embeddings else ()
        unused = sorted(
            name for name in self.checkpoint.tensors.keys() - used - set(tied) if not name.endswith(_ROTARY_TABLE)
        )
        if unused:
            more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
            names = ", ".join(unused[:8])
            folder = self.checkpoint.folder.name
            warnings.warn(f"{folder} holds tensors that the model does not use: {names}{more}", stacklevel=4)


def _compute(rule: TensorRule, weight: Tensor) -> Tensor:
    return rule.compute(weight.float()).to(weight.dtype) if rule.compute else weight


def _is_finite(tensor: Tensor) -> bool:
    """Both ends are finite; NaN reaches both. One pass, and no copy as large as the tensor."""
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
