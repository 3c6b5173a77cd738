"""MergedLora: a checkpoint whose low-rank updates (LoRA, arXiv 2106.09685 §4.1) are already in its matrices.

    q_proj.weight          W [out, in]   ┐
    q_proj.lora_A.weight   A [rank, in]  ├─▶ q_proj.weight    W + lora_alpha / rank · B · A
    q_proj.lora_B.weight   B [out, rank] ┘

The idea: a low-rank update saves memory while it is trained. Once it is fixed, it is added up, and costs nothing more.

Contract: a TensorSource. The sum is taken in float32 and rounded to the matrix's stored dtype. Matrices without an
update are read as they are.

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.checkpoint import TensorSource
from lmcourse.models.config_reader import ConfigReader
from lmcourse.models.safetensors_file import TensorInfo

__all__ = ["MergedLora", "merge_lora"]

_A, _B = ".lora_A.weight", ".lora_B.weight"
_KEYS = ("internlm_lora", "lora_cfg")  # where InternLM-XComposer's config says how it was trained


def merge_lora(source: TensorSource, config: Mapping[str, Any]) -> TensorSource:
    """The source itself, if no tensor of it is half of an update."""
    if not any(name.endswith((_A, _B)) for name in source.tensors):
        return source
    return MergedLora(source, _read_alpha(config, source.folder))


class MergedLora:
    """The tensors of another source, without the updates, which are in the matrices that they update."""

    def __init__(self, source: TensorSource, alpha: float) -> None:
        """alpha: what an update is multiplied by, divided by its rank."""
        self.folder, self._source, self._alpha = source.folder, source, alpha
        halves = [name for name in source.tensors if name.endswith((_A, _B))]
        self._updated = {name.removesuffix(ending) for name in halves for ending in (_A, _B) if name.endswith(ending)}
        for stem in sorted(self._updated):
            self._check(stem)
        self.tensors: dict[str, TensorInfo] = {
            name: info for name, info in source.tensors.items() if name not in set(halves)
        }

    def _check(self, stem: str) -> None:
        """CheckpointError unless W, A and B are there and go together."""
        found = [self._source.tensors.get(stem + ending) for ending in (".weight", _A, _B)]
        shapes = [info.shape for info in found if info is not None]
        if len(shapes) == 3 and (shapes[2][:1], shapes[2][1:], shapes[1][1:]) == (
            shapes[0][:1], shapes[1][:1], shapes[0][1:],
        ):  # fmt: skip
            return
        raise CheckpointError(
            f"the low-rank update of {stem} does not fit",
            expected="weight [out, in], lora_A.weight [rank, in] and lora_B.weight [out, rank]",
            got=", ".join("nothing" if info is None else str(list(info.shape)) for info in found),
            where=self.folder,
            next_step="a shard may be missing: get the model's files again",
        )

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """As Checkpoint.read."""
        stored, stem = self._source.read(name), name.removesuffix(".weight")
        if stem not in self._updated or not name.endswith(".weight"):
            return stored
        a, b = (self._source.read(stem + ending).to(stored.device).float() for ending in (_A, _B))
        return (stored.float() + self._alpha / len(a) * (b @ a)).to(stored.dtype)

    def read_words(self, name: str) -> Tensor:
        """As Checkpoint.read_words."""
        return self._source.read_words(name)

    def __repr__(self) -> str:
        return f"MergedLora({self.folder.name}: {len(self._updated)} of {len(self.tensors)} tensors updated)"


def _read_alpha(config: Mapping[str, Any], folder: Path) -> float:
    """The class that was published with these configs takes 16 where they say nothing."""
    stated = [config[key] for key in _KEYS if isinstance(config.get(key), Mapping)]
    if stated:
        return ConfigReader(stated[0]).number("lora_alpha", default=16.0)
    raise CheckpointError(
        "the folder has low-rank updates, and its config does not say how much of them to add",
        expected='{"lora_r": ..., "lora_alpha": ...} under ' + " or ".join(_KEYS),
        got="neither",
        where=folder / "config.json",
        next_step="merge the updates into the weights with the tool that trained them",
    )
