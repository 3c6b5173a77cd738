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
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.checkpoint import TensorSource
from lmcourse.models.decoder import meta_decoder
from lmcourse.models.layouts import StoredTensor, TensorRule, stored_tensors
from lmcourse.models.safetensors_file import TensorInfo
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

    def __iter__(self) -> Iterator[tuple[StoredTensor, Tensor]]:
        used: set[str] = set()
        for name, parameter in meta_decoder(self.spec).named_parameters():
            stored = stored_tensors(self.rules, name)
            used.update(stored.sources)
            yield stored, self._weight(stored, tuple(parameter.shape))
        self._warn_of_unused(used)

    @property
    def num_bytes(self) -> int:
        """Of all weights, in the dtype that they get."""
        weights = meta_decoder(self.spec).named_parameters()
        return sum(weight.numel() * (self.dtype or self.stored_dtype(name)).itemsize for name, weight in weights)

    def stored_dtype(self, canonical: str) -> torch.dtype:
        """The dtype that a canonical weight has without casting."""
        dtypes = [self._info(source).torch_dtype for source in stored_tensors(self.rules, canonical).sources]
        return functools.reduce(torch.promote_types, dtypes)

    def _weight(self, stored: StoredTensor, shape: tuple[int, ...]) -> Tensor:
        rule = stored.rule
        rows = rule.source_rows(self.spec) if rule.source_rows else shape[:1]
        parts = [self._part(source, (n, *shape[1:])) for source, n in zip(stored.sources, rows, strict=True)]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        return rule.arrange(weight, self.spec) if rule.arrange else weight

    def _part(self, source: str, shape: tuple[int, ...]) -> Tensor:
        info = self._info(source)
        if info.shape != shape:
            raise CheckpointError(
                f"{source} has the wrong shape",
                expected=f"{list(shape)}, from config.json",
                got=list(info.shape),
                where=info.file,
                next_step="config and weights are of different models or versions: get both again",
            )
        read = self.checkpoint.read(source)
        # A copy even when nothing changes: what was read is still backed by the file.
        part = read.to(device=self.device, dtype=self.dtype or read.dtype, copy=True)
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


def _is_finite(tensor: Tensor) -> bool:
    """Both ends are finite; NaN reaches both. One pass, and no copy as large as the tensor."""
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
